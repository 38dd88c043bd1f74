import fc from 'fast-check';
import { pack, unpack } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { migrationState as s } from '../../../src/migration/index.ts';
import { type Chunk, cut, join } from './chunks.ts';
import { FakeDevice, fakeMigration, readAll } from './fake-device.ts';
import { StateSummary } from './state-summary.ts';

const memorySize = 8192;

/** A device that can't tell what changed under it, so that its final part is everything. */
function completeDevice(): FakeDevice {
  const device = Object.assign(new FakeDevice({ memorySize }), { finalIsComplete: true });
  for (let i = 0; i < memorySize; i++) device.memory[i] = (i * 5) % 251;
  const open = device.preCopy;
  if (open !== undefined) device.preCopy = () => ({ ...open(), final: () => device.save() });
  return device;
}

interface Saved {
  readonly device: FakeDevice;
  readonly before: Buffer;
  readonly after: Buffer;
}

/** Reads `preCopy` bytes at most while the device runs, changes it behind everybody's back, and reads the rest. */
function save(preCopy = 1 << 20, reset = false): Saved {
  const device = completeDevice();
  const { controller } = fakeMigration(device);
  controller.setState(s.PRE_COPY);
  const target = Buffer.alloc(preCopy);
  const before = target.subarray(0, controller.read(target));
  if (reset) controller.deviceWasReset();
  device.memory[100] = 77;
  device.registers = { control: 9 };
  controller.setState(s.STOP_COPY);
  return { device, before, after: readAll(controller, 1000) };
}

/** Loads; 'loaded' after comparing with `device`, or the message of the refusal. */
function load(device: FakeDevice, ...pieces: Buffer[]): string {
  const to = new FakeDevice({ memorySize });
  const { controller } = fakeMigration(to);
  controller.setState(s.RESUMING);
  try {
    for (const piece of pieces) controller.write(piece);
    controller.setState(s.STOP);
  } catch (error) {
    expect(error).toMatchObject({ code: 'VC_STATE_REFUSED' });
    expect(controller.state).toBe(s.ERROR);
    expect(to.loaded).not.toBe('yes');
    return (error as Error).message;
  }
  expect(to.memory.equals(device.memory)).toBe(true);
  expect(to.registers).toEqual(device.registers);
  return 'loaded';
}

function bytewise(stream: Buffer): Buffer[] {
  return Array.from(stream, (_, at) => stream.subarray(at, at + 1));
}

const { device, before, after } = save();

describe('a stream that begins afresh when the device is stopped', () => {
  it('loads with what PRE_COPY sent and without it, however it is cut', () => {
    expect(load(device, before, after)).toBe('loaded');
    expect(load(device, after)).toBe('loaded');
    expect(load(device, ...bytewise(Buffer.concat([before, after])))).toBe('loaded');
    expect(load(device, before)).toContain('not complete');
  });

  it('is by itself what a stopped device would have sent', () => {
    const { controller } = fakeMigration(device);
    controller.setState(s.STOP_COPY);
    expect(readAll(controller).equals(after)).toBe(true);
  });

  it('loads wherever PRE_COPY was left, with or without a reset', () => {
    fc.assert(
      fc.property(fc.nat(before.length + 10), fc.boolean(), (length, reset) => {
        const saved = save(length, reset);
        expect(load(saved.device, saved.before, saved.after)).toBe('loaded');
        // Only who has read all there was may throw it away.
        const whole = saved.before.length < length;
        if (whole) expect(load(saved.device, saved.after)).toBe('loaded');
      }),
      { numRuns: 300 },
    );
  });

  it('gives its size: all of it is still to come', () => {
    const { controller } = fakeMigration(completeDevice());
    controller.setState(s.PRE_COPY);
    readAll(controller);
    expect(controller.dataSize()).toBeGreaterThanOrEqual(after.length);
  });

  it('sums up to its last part', () => {
    const whole = new StateSummary();
    whole.write(Buffer.concat([before, after]));
    const last = new StateSummary();
    last.write(after);
    expect(whole.differences(last)).toEqual([]);
    expect(whole.pages).toBe(2);
  });
});

describe('another stream is not taken', () => {
  const chunks = cut(before);
  const [header] = chunks as [Chunk];
  const fields = unpack(header.payload) as Record<string, unknown>;
  const withFields = (change: object): Buffer =>
    join(before, [{ ...header, payload: pack({ ...fields, ...change }) }, ...chunks.slice(1)]);

  it('where the header did not announce it', () => {
    expect(fields.requires).toEqual(['restart', 'afresh']);
    expect(load(device, withFields({}), after)).toBe('loaded');
    for (const requires of [[], ['restart']]) {
      expect(load(device, withFields({ requires }), after)).toContain('corrupt');
    }
  });

  it('from a stream that began so itself, unless it says so again', () => {
    expect(
      load(device, before, after.subarray(0, 16 + 36 + (cut(after)[0]?.payload.length ?? 0)), after),
    ).toContain('corrupt');
    expect(load(device, before, before, after)).toBe('loaded');
  });

  it('inside a chunk, before the header, or behind the end', () => {
    expect(load(device, before.subarray(0, before.length - 1), after)).toMatch(/corrupt|disposition/);
    expect(load(device, before.subarray(0, 16), after)).toContain('corrupt');
    expect(load(device, before, after, after)).toContain('bytes follow the end');
  });

  it('when it is cut off, damaged, of another device, or of a format that is not known', () => {
    expect(load(device, before, after.subarray(0, -1))).toContain('not complete');
    expect(load(device, before, after.subarray(0, 7))).toContain('not complete');
    for (const at of [1, 8, 20, 60, after.length - 1]) {
      const damaged = Buffer.from(after);
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      expect(load(device, before, damaged)).not.toMatch(/^loaded|not complete/);
    }
    const [first, ...rest] = cut(after) as [Chunk, ...Chunk[]];
    const foreign = { ...first, payload: pack({ ...fields, requires: [], model: 'other' }) };
    expect(load(device, before, join(after, [foreign, ...rest]))).toContain('"other"');
  });

  it('as a chain that keeps sections or totals of its predecessors', () => {
    // Sections are numbered anew: without their names, nothing of the second part is understood.
    const [first, , ...rest] = cut(after) as [Chunk, Chunk, ...Chunk[]];
    const renumbered = [first, ...rest].map((chunk, sequence) => ({ ...chunk, sequence }));
    expect(load(device, before, join(after, renumbered))).toContain('was not named');
  });
});
