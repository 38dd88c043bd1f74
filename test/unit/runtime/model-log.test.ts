/** A guest can make its device complain as often as it likes, and the log is the host's. */
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import type { DeviceHost, DeviceModel } from '../../../src/device/index.ts';
import { errno, RequestError } from '../../../src/errors.ts';
import { limitedLogger } from '../../../src/limited-logger.ts';
import { createReactor, type Reactor } from '../../../src/loop/index.ts';
import { DeviceRuntime } from '../../../src/runtime/device-runtime.ts';

const modelOf = (complain: (host: DeviceHost) => void): DeviceModel => ({
  name: 'complains',
  description: 'says something of each write',
  stateVersion: 1,
  options: {},
  pci: () => ({
    vendorId: 0x1b36,
    deviceId: 0x11e9,
    classCode: 0xff0000,
    bars: { 0: { size: 0x1000, kind: 'memory32' } },
  }),
  create: (host) => ({ bars: { 0: { read: () => {}, write: () => complain(host) } }, reset: () => {} }),
});

describe('the log of a model', () => {
  let reactor: Reactor;
  afterEach(() => reactor.close());

  /** What is logged of `writes` writes by the guest. */
  function logged(writes: number, complain: (host: DeviceHost) => void): Record<string, unknown>[] {
    const lines: Record<string, unknown>[] = [];
    const destination = { write: (line: string) => void lines.push(JSON.parse(line)) };
    const log = pino({ level: 'info', base: {}, timestamp: false }, destination);
    // No time passes, however long it takes: what is let through is let through at once.
    reactor = Object.assign(createReactor(), { now: () => 0 });
    const runtime = new DeviceRuntime(modelOf(complain), { reactor, log });
    for (let left = writes; left > 0; left--) {
      try {
        runtime.regionWrite(0, 0, 4, Buffer.alloc(4), 0);
      } catch {
        // Its driver resets a device that fails.
        runtime.reset();
      }
      reactor.turn(0);
    }
    runtime.close();
    return lines;
  }

  it.each(['info', 'warn', 'error'] as const)('keeps a flood of lines at level %s from the host', (level) => {
    const lines = logged(10_000, ({ log }) => log[level]({ sqn: 1 }, 'bad'));
    const line = { level: pino.levels.values[level], sqn: 1, msg: 'bad' };
    expect(lines.slice(0, 20)).toEqual(new Array(20).fill(line));
    expect(lines.length).toBeLessThan(1000);
  });

  it('keeps those of the parts of a model together with its own', () => {
    const lines = logged(10_000, ({ log }) => log.child({ queue: 7 }).warn('bad'));
    expect(lines[0]).toEqual({ level: 40, queue: 7, msg: 'bad' });
    expect(lines.length).toBeLessThan(1000);
  });

  it('keeps what is said of a model that fails over and over from the host, too', () => {
    const broken = logged(1000, () => {
      throw new TypeError('a bug');
    });
    expect(broken.map(({ msg }) => msg)).toContain(
      'complains: the model failed; the device is broken until it is reset',
    );
    expect(broken.length).toBeLessThan(100);
    reactor.close();
    const refused = logged(1000, (host) =>
      host.defer(() => {
        throw new RequestError(errno.EFAULT, 'not there');
      }),
    );
    expect(refused.map(({ msg }) => msg)).toContain('complains: not there');
    expect(refused.length).toBeLessThan(100);
  });

  it('leaves out nothing of a few lines, and none for another of its level', () => {
    const lines = logged(20, ({ log }) => {
      log.info('plain %s', 'text');
      log.warn('bad');
      log.debug('for nobody');
    });
    expect(lines).toHaveLength(40);
    expect(lines[0]).toEqual({ level: 30, msg: 'plain text' });
  });
});

it('says nothing, nor that it was much, of lines at a level that nobody wanted', () => {
  const lines: string[] = [];
  let now = 0;
  const log = limitedLogger(
    pino({ level: 'warn' }, { write: (line: string) => void lines.push(line) }),
    () => now,
  );
  for (let left = 100; left > 0; left--) {
    log.info('fine');
    now += 1e7;
  }
  expect(lines).toEqual([]);
});
