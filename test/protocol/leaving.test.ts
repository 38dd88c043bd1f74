import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ram } from '../../device-models/ram/index.ts';
import { registers } from '../../device-models/ram/registers.ts';
import { silentLogger } from '../../src/log.ts';
import { createReactor, type Reactor } from '../../src/loop/index.ts';
import { migrationState } from '../../src/migration/index.ts';
import { DeviceRuntime } from '../../src/runtime/device-runtime.ts';
import { nativeServer, type RunningServer } from './harness.ts';

const page = 4096;
const { RUNNING, PRE_COPY, STOP, STOP_COPY, RESUMING, ERROR } = migrationState;

let reactor: Reactor;
let runtime: DeviceRuntime<typeof ram.options>;
let server: RunningServer;
beforeEach(() => {
  reactor = createReactor({ busyWaitNs: 0 });
  runtime = new DeviceRuntime(ram, { reactor, log: silentLogger });
  server = nativeServer.serve(runtime as unknown as DeviceRuntime);
});
afterEach(() => {
  server.close();
  runtime.close();
  reactor.close();
});

const scratch = registers.SCRATCH.offset;
/** A client that does something and leaves. */
function visit(act: (client: ReturnType<RunningServer['connect']>) => void): void {
  const client = server.connect();
  act(client);
  client.close();
  server.turn();
  expect(runtime.connected).toBe(false);
}

describe('a client that leaves', () => {
  it('takes the dirty log with it that it started', () => {
    visit((client) => client.startDmaLogging(page));
    expect(runtime.dirtyLog.active).toBe(false);
    visit((client) => expect(client.startDmaLogging(page)).toBe(page));
  });

  it('leaves the log of the orchestrator alone, whoever had one before', () => {
    visit((client) => {
      client.startDmaLogging(page);
      runtime.orchestrated?.stopDmaLogging();
      runtime.orchestrated?.startDmaLogging(page, []);
      expect(() => client.startDmaLogging(page)).toThrow(/EINVAL/);
    });
    expect(runtime.dirtyLog.active).toBe(true);
  });

  it.each([
    ['PRE_COPY', [PRE_COPY]],
    ['STOP', [STOP]],
    ['STOP_COPY', [STOP_COPY]],
    ['RESUMING', [RESUMING]],
  ] as const)('in the middle of its migration leaves a device that was reset: %s', (_name, path) => {
    visit((client) => {
      client.writeRegister(0, scratch, 77);
      for (const state of path) client.setState(state);
    });
    expect(runtime.mayInitiate).toBe(true);
    visit((client) => {
      expect(client.getState()).toBe(RUNNING);
      expect(client.readRegister(0, scratch)).toBe(0);
      client.setState(PRE_COPY);
    });
  });

  it('in ERROR leaves a device that works', () => {
    visit((client) => {
      client.setState(RESUMING);
      expect(() => client.writeState(Buffer.alloc(page, 0x55))).toThrow();
      expect(client.getState()).toBe(ERROR);
    });
    visit((client) => {
      client.writeRegister(0, scratch, 5);
      expect(client.readRegister(0, scratch)).toBe(5);
    });
  });

  it('with its migration done, or none, leaves the device as it is', () => {
    visit((client) => {
      client.writeRegister(0, scratch, 77);
      for (const state of [STOP, RUNNING]) client.setState(state);
    });
    visit((client) => expect(client.readRegister(0, scratch)).toBe(77));
  });

  it('leaves the migration of the orchestrator alone', () => {
    visit((client) => {
      client.writeRegister(0, scratch, 77);
      runtime.orchestrated?.setState(STOP_COPY);
    });
    expect(runtime.orchestrated?.state).toBe(STOP_COPY);
    visit((client) => expect(client.readRegister(0, scratch)).toBe(77));
  });

  it('leaves it alone also when it had asked for something that was refused', () => {
    visit((client) => {
      runtime.orchestrated?.setState(STOP_COPY);
      expect(() => client.setState(ERROR)).toThrow(/EINVAL/);
    });
    expect(runtime.orchestrated?.state).toBe(STOP_COPY);
    visit((client) => {
      runtime.orchestrated?.setState(RUNNING);
      client.setState(STOP_COPY);
      expect(() => runtime.orchestrated?.setState(ERROR)).toThrow();
    });
    expect(runtime.orchestrated?.state).toBe(RUNNING);
  });
});
