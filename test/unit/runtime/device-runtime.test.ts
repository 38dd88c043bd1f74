import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import type { DeviceMigration, DeviceModel } from '../../../src/device/index.ts';
import { silentLogger } from '../../../src/log.ts';
import { createReactor, type Reactor } from '../../../src/loop/index.ts';
import { migrationState } from '../../../src/migration/index.ts';
import { DeviceRuntime, type RuntimeSettings } from '../../../src/runtime/device-runtime.ts';
import { noState } from '../device/no-state.ts';

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

let closed = 0;
const rung: string[] = [];
const noMigration = {
  get p2p(): boolean {
    throw new Error('no such place');
  },
} as DeviceMigration;
const model: DeviceModel = {
  name: 'mapped',
  description: 'has memory that clients map',
  stateVersion: 1,
  options: { fails: { type: 'string', default: '', description: 'where it does not come to life' } },
  pci: () => ({
    vendorId: 0x1b36,
    deviceId: 0x11e9,
    classCode: 0xff0000,
    bars: { 0: { size: 0x1000, kind: 'memory32', mappable: [{ offset: 0, size: 0x1000 }] } },
  }),
  create: (host, { fails }) => {
    host.timer(() => rung.push('timer')).arm(0);
    if (fails === 'create') throw new Error('no such card');
    return {
      get bars() {
        if (fails === 'bars' || fails === 'close') throw new Error('no such slot');
        return {};
      },
      ...(fails === 'migration' && { migration: noMigration }),
      ...(fails === 'device' && { migration: {} as DeviceMigration }),
      reset: () => {},
      close: () => {
        closed += 1;
        if (fails === 'close') throw new Error('does not let go');
      },
    };
  },
};

describe('a device that can not be made', () => {
  let reactor: Reactor;
  afterEach(() => reactor.close());

  const make = (settings: Partial<RuntimeSettings>) => (): void => {
    new DeviceRuntime(model, { reactor, log: silentLogger, ...settings });
  };

  it.each([
    ['its model fails', { options: { fails: 'create' } }, 'no such card', 0],
    ['its BARs fail', { options: { fails: 'bars' } }, 'no such slot', 1],
    ['its model makes no device', { options: { fails: 'device' } }, 'migration.save is no function', 1],
    ['its migration fails', { options: { fails: 'migration' } }, 'no such place', 1],
    ['its end fails, too', { options: { fails: 'close' } }, 'no such slot', 1],
    ['its model lacks what was asked for', { dirtyScope: 'pinned' }, 'does not tell', 1],
  ] as const)('leaves nothing behind when %s', (_why, settings, message, models) => {
    reactor = createReactor();
    closed = 0;
    const before = openDescriptors();
    expect(make(settings)).toThrow(message);
    expect(closed).toBe(models);
    expect(openDescriptors()).toBe(before);
    reactor.turn(0);
    expect(rung).toEqual([]);
  });
});

it('does nothing more of what a model has deferred when its device is closed', () => {
  const done: string[] = [];
  const deferring: DeviceModel = {
    ...model,
    options: {},
    create: (host) => {
      host.defer(() => done.push('deferred'));
      return { bars: {}, reset: () => {}, close: () => done.push('closed') };
    },
  };
  const reactor = createReactor();
  new DeviceRuntime(deferring, { reactor, log: silentLogger }).close();
  reactor.turn(0);
  expect(done).toEqual(['closed']);
  reactor.close();
});

describe('the migration of a device whose model has failed', () => {
  const { PRE_COPY, PRE_COPY_P2P, RUNNING, RUNNING_P2P, STOP_COPY } = migrationState;
  /** Fails when it is written to, or when it is to come to rest. */
  const buggy = (failsAtRest: boolean): DeviceModel => ({
    ...model,
    options: {},
    create: () => ({
      bars: {
        0: {
          read: () => {},
          write: () => {
            throw new TypeError('a bug');
          },
        },
      },
      reset: () => {},
      quiesce: () => {
        if (failsAtRest) throw new TypeError('a bug');
      },
      migration: {
        ...noState,
        preCopy: () => ({
          initialBytes: () => 0,
          dirtyBytes: () => 0,
          next: () => undefined,
          final: () => [],
          end: () => {},
        }),
      },
    }),
  });
  let reactor: Reactor;
  let runtime: DeviceRuntime;
  const start = (failsAtRest = false): void => {
    reactor = createReactor();
    runtime = new DeviceRuntime(buggy(failsAtRest), { reactor, log: silentLogger });
  };
  const fail = (): void => {
    expect(() => runtime.regionWrite(0, 0, 4, Buffer.alloc(4), 0)).toThrow('is broken');
  };
  const move = (state: number) => (): void => runtime.orchestrated?.setState(state);
  afterEach(() => {
    runtime.close();
    reactor.close();
  });

  it('does not begin', () => {
    start();
    fail();
    for (const state of [PRE_COPY, STOP_COPY]) expect(move(state)).toThrow('is broken');
    expect(runtime.orchestrated?.state).not.toBe(STOP_COPY);
    move(RUNNING)();
    runtime.reset();
    move(PRE_COPY)();
  });

  it.each([
    ['while it is copied', false],
    ['as it comes to rest', true],
  ])('does not come to its end when that was %s', (_when, failsAtRest) => {
    start(failsAtRest);
    move(PRE_COPY)();
    if (!failsAtRest) fail();
    move(PRE_COPY_P2P)();
    expect(move(STOP_COPY)).toThrow('is broken');
    expect(runtime.orchestrated?.state).toBe(PRE_COPY_P2P);
    move(RUNNING)();
  });

  it('that stops half-way is in the hands of who began it: its client takes it along', () => {
    start(true);
    move(RUNNING)();
    expect(() => runtime.migration?.setState(STOP_COPY)).toThrow('is broken');
    expect(runtime.migration?.state).toBe(RUNNING_P2P);
    runtime.detach();
    expect(runtime.migration?.state).toBe(RUNNING);
  });
});

describe('a device that is held', () => {
  const calls: string[] = [];
  const calling: DeviceModel = {
    ...model,
    options: {},
    create: () => ({
      bars: { 0: { read: () => {}, write: () => {} } },
      reset: () => {},
      quiesce: () => calls.push('quiesce'),
      resume: () => calls.push('resume'),
      migration: noState,
    }),
  };
  const { RUNNING, STOP } = migrationState;

  it('is let go, or held, only in so far as its migration lets it run', () => {
    calls.length = 0;
    const reactor = createReactor();
    const runtime = new DeviceRuntime(calling, { reactor, log: silentLogger, held: true });
    const after = (act: () => void): string[] => {
      act();
      return calls.splice(0);
    };
    const move = (state: number) => () => runtime.orchestrated?.setState(state);
    expect(after(move(STOP))).toEqual([]);
    expect(after(() => runtime.hold(false))).toEqual([]);
    expect(after(move(RUNNING))).toEqual(['resume']);
    expect(runtime.mayInitiate).toBe(true);
    expect(after(move(STOP))).toEqual(['quiesce']);
    expect(after(() => runtime.hold(true))).toEqual([]);
    expect(after(move(RUNNING))).toEqual([]);
    expect(runtime.mayInitiate).toBe(false);
    expect(after(() => runtime.hold(true))).toEqual([]);
    expect(after(() => runtime.hold(false))).toEqual(['resume']);
    runtime.close();
    reactor.close();
  });
});
