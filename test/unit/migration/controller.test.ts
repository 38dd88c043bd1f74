import { describe, expect, it } from 'vitest';
import { errno, errnoOf } from '../../../src/errors.ts';
import { migrationState as s } from '../../../src/migration/index.ts';
import { thrownBy } from '../../thrown.ts';
import { cut } from './chunks.ts';
import { FakeDevice, fakeMigration, readAll } from './fake-device.ts';

function filled(options?: ConstructorParameters<typeof FakeDevice>[0]): FakeDevice {
  const device = new FakeDevice(options);
  for (let i = 0; i < device.memory.length; i += 64) device.memory[i] = i % 251;
  return device;
}

describe('a migration', () => {
  it('without PRE_COPY carries everything', () => {
    const from = filled({ preCopy: false, p2p: false });
    const source = fakeMigration(from);
    source.setPci({ command: 6, bars: [1, 2] });
    expect(source.controller.flags).toBe(1);
    source.controller.setState(s.STOP_COPY);
    expect(source.calls).toEqual(['quiesce', 'stop']);
    const stream = readAll(source.controller);
    expect(source.controller.read(Buffer.alloc(10))).toBe(0);

    const to = new FakeDevice({ preCopy: false, p2p: false });
    const target = fakeMigration(to);
    target.controller.setState(s.RESUMING);
    for (let at = 0; at < stream.length; at += 1000) target.controller.write(stream.subarray(at, at + 1000));
    expect(to.loaded).toBe('loading');
    target.controller.setState(s.RUNNING);
    expect(to.loaded).toBe('yes');
    expect(to.memory.equals(from.memory)).toBe(true);
    expect(to.registers).toEqual(from.registers);
    expect(target.pci()).toEqual({ command: 6, bars: [1, 2] });
    expect(target.calls).toEqual(['quiesce', 'stop', 'resume']);
    source.controller.setState(s.STOP);
    expect(thrownBy(Error, () => source.controller.read(Buffer.alloc(1)))).toMatchObject({
      errno: errno.EINVAL,
    });
  });

  it('with PRE_COPY sends what changed after it was read', () => {
    const from = filled();
    const source = fakeMigration(from);
    expect(source.controller.flags).toBe(7);
    source.controller.setState(s.PRE_COPY);
    expect(source.calls).toEqual([]);
    const before = source.controller.precopyInfo();
    expect(before.initialBytes).toBeGreaterThan(from.memory.length);
    expect(before).toMatchObject({ dirtyBytes: 0, flags: 0 });
    const first = readAll(source.controller, 5000);
    expect(source.controller.precopyInfo()).toEqual({ initialBytes: 0, dirtyBytes: 0, flags: 0 });
    from.poke(4096 * 3 + 5, 99);
    expect(source.controller.precopyInfo()).toEqual({ initialBytes: 0, dirtyBytes: 4096, flags: 0 });
    const second = readAll(source.controller);
    expect(second.length).toBeGreaterThan(4096);
    from.poke(1, 77);
    source.controller.setState(s.PRE_COPY_P2P);
    from.poke(2, 78);
    source.controller.setState(s.STOP_COPY);
    expect(source.calls).toEqual(['quiesce', 'stop']);
    const third = readAll(source.controller);

    const to = new FakeDevice();
    const target = fakeMigration(to);
    target.controller.setState(s.RESUMING);
    target.controller.write(Buffer.concat([first, second, third]));
    target.controller.setState(s.RUNNING_P2P);
    expect(to.memory.equals(from.memory)).toBe(true);
    source.controller.setState(s.RUNNING);
    expect(from.sessions).toBe(0);
  });

  it('opens its session from RUNNING_P2P as well, and gives it back on every way out', () => {
    const device = filled();
    const { controller } = fakeMigration(device);
    for (const way of [s.RUNNING, s.RUNNING_P2P, s.STOP, s.RESUMING] as const) {
      controller.setState(s.RUNNING_P2P);
      controller.setState(s.PRE_COPY_P2P);
      expect(device.sessions).toBe(1);
      controller.setState(way);
      expect(device.sessions).toBe(0);
      controller.reset();
    }
  });

  it('can have P2P and PRE_COPY switched off', () => {
    const { controller } = fakeMigration(new FakeDevice(), { options: { p2p: false, preCopy: false } });
    expect(controller.flags).toBe(1);
    expect(thrownBy(Error, () => controller.setState(s.RUNNING_P2P))).toMatchObject({
      errno: errno.EINVAL,
    });
    expect(thrownBy(Error, () => controller.setState(s.PRE_COPY))).toMatchObject({
      errno: errno.EINVAL,
    });
  });

  it('of a device without a state of its own carries the framework sections', () => {
    const source = fakeMigration(new FakeDevice(), { device: undefined });
    source.setPci({ command: 3 });
    expect(source.controller.flags).toBe(1);
    source.controller.setState(s.STOP_COPY);
    const stream = readAll(source.controller);
    const target = fakeMigration(new FakeDevice(), { device: undefined });
    target.controller.setState(s.RESUMING);
    target.controller.write(stream);
    target.controller.setState(s.STOP);
    expect(target.pci()).toEqual({ command: 3 });
  });
});

describe('a reset of the device by the guest in PRE_COPY', () => {
  for (const readBefore of [0, 10, 500, 4200, 20_000, 1 << 20]) {
    it(`after ${readBefore} bytes starts the session over`, () => {
      const from = filled();
      const source = fakeMigration(from);
      source.controller.setState(s.PRE_COPY);
      const head = Buffer.alloc(readBefore);
      const parts: Buffer[] = [head.subarray(0, source.controller.read(head))];
      from.memory.fill(0);
      from.registers = { control: 0 };
      source.controller.deviceWasReset();
      expect(source.controller.state).toBe(s.PRE_COPY);
      const info = source.controller.precopyInfo();
      expect(info.flags).toBe(1);
      expect(info.initialBytes).toBeGreaterThanOrEqual(from.memory.length);
      expect(info.dirtyBytes).toBe(0);
      expect(from.sessions).toBe(1);
      from.poke(5000, 5);
      parts.push(readAll(source.controller));
      expect(source.controller.precopyInfo()).toEqual({ initialBytes: 0, dirtyBytes: 0, flags: 1 });
      expect(source.controller.precopyInfo().flags).toBe(0);
      source.controller.setState(s.STOP_COPY);
      parts.push(readAll(source.controller));

      const to = filled();
      const target = fakeMigration(to);
      target.controller.setState(s.RESUMING);
      target.controller.write(Buffer.concat(parts));
      target.controller.setState(s.RUNNING);
      expect(to.memory.equals(from.memory)).toBe(true);
      expect(to.registers).toEqual({ control: 0 });
      expect(to.loads).toBe(2);
    });
  }

  it('while a record is made voids that record', () => {
    const from = filled();
    const source = fakeMigration(from);
    source.controller.setState(s.PRE_COPY);
    from.onNext = () => {
      from.onNext = undefined;
      source.controller.deviceWasReset();
    };
    const first = readAll(source.controller);
    // Header, section name, the record during which it happened, restart.
    expect(
      cut(first)
        .map(({ type, disposition }) => [type, disposition])
        .slice(0, 4),
    ).toEqual([
      [1, 0],
      [2, 0],
      [4, 1],
      [5, 0],
    ]);
    source.controller.setState(s.STOP_COPY);
    const to = new FakeDevice();
    const target = fakeMigration(to);
    target.controller.setState(s.RESUMING);
    target.controller.write(Buffer.concat([first, readAll(source.controller)]));
    target.controller.setState(s.STOP);
    expect(to.memory.equals(from.memory)).toBe(true);
  });

  it('in the middle of a long record drops what is left of it', () => {
    const device = filled({ memorySize: 1 << 20 });
    const whole = device.memory;
    device.preCopy = () => {
      let left = 1;
      return {
        initialBytes: () => left * whole.length,
        dirtyBytes: () => 0,
        next: () => (left-- > 0 ? { section: 'memory', offset: 0, bytes: whole } : undefined),
        final: () => [{ section: 'registers', value: { control: 0 } }],
        end: () => {},
      };
    };
    const source = fakeMigration(device);
    source.controller.setState(s.PRE_COPY);
    const head = Buffer.alloc(100_000);
    source.controller.read(head);
    source.controller.deviceWasReset();
    const rest = readAll(source.controller);
    source.controller.setState(s.STOP_COPY);
    const stream = Buffer.concat([head, rest, readAll(source.controller)]);
    const bulk = cut(stream).filter(({ type }) => type === 4);
    expect(bulk.map(({ disposition }) => disposition).slice(0, 3)).toEqual([0, 1, 0]);
    expect(bulk).toHaveLength(2 + 16);
    const to = new FakeDevice({ memorySize: 1 << 20 });
    const target = fakeMigration(to);
    target.controller.setState(s.RESUMING);
    target.controller.write(stream);
    target.controller.setState(s.STOP);
    expect(to.memory.equals(whole)).toBe(true);
    expect(to.bulks).toBe(1 + 16);
  });

  it('outside PRE_COPY ends in RUNNING', () => {
    const { controller, calls } = fakeMigration(filled());
    controller.setState(s.STOP);
    controller.deviceWasReset();
    expect(controller.state).toBe(s.RUNNING);
    expect(calls).toEqual(['quiesce', 'stop', 'resume']);
  });
});

describe('failures', () => {
  it('of a hook leave the state and the device as they were', () => {
    let bad = 'stop';
    const { controller, calls } = fakeMigration(filled({ p2p: false }), {
      hook: (name) => {
        if (name === bad) throw new Error('no');
      },
    });
    expect(thrownBy(Error, () => controller.setState(s.STOP))).toMatchObject({ message: 'no' });
    expect(controller.state).toBe(s.RUNNING);
    expect(calls).toEqual(['quiesce', 'stop', 'resume']);
    controller.setState(s.PRE_COPY);
    expect(() => controller.setState(s.STOP_COPY)).toThrow('no');
    expect(controller.state).toBe(s.PRE_COPY);
    bad = '';
    controller.setState(s.STOP_COPY);
    expect(readAll(controller).length).toBeGreaterThan(8 * 4096);
  });

  it('of a save void the stream, and the device can go on', () => {
    const device = filled();
    const { controller, calls } = fakeMigration(device);
    controller.setState(s.PRE_COPY);
    device.failNextRecord = true;
    expect(() => controller.read(Buffer.alloc(1 << 20))).toThrow('can not read itself');
    device.failNextRecord = false;
    expect(errnoOf(thrownBy(Error, () => controller.read(Buffer.alloc(100))))).toBe(errno.EIO);
    expect(errnoOf(thrownBy(Error, () => controller.setState(s.STOP_COPY)))).toBe(errno.EIO);
    expect(calls).not.toContain('stop');
    controller.setState(s.RUNNING);
    controller.setState(s.PRE_COPY);
    expect(readAll(controller).length).toBeGreaterThan(8 * 4096);
  });

  it('of a load end in ERROR, which a reset alone leaves', () => {
    const { controller, calls } = fakeMigration(filled());
    controller.setState(s.RESUMING);
    expect(thrownBy(Error, () => controller.write(Buffer.from('this is no state at all')))).toMatchObject({
      code: 'VC_STATE_REFUSED',
    });
    expect(controller.state).toBe(s.ERROR);
    expect(calls.at(-1)).toBe('failed');
    for (const state of Object.values(s)) {
      expect(errnoOf(thrownBy(Error, () => controller.setState(state)))).toBe(errno.EINVAL);
    }
    expect(errnoOf(thrownBy(Error, () => controller.write(Buffer.alloc(1))))).toBe(errno.EINVAL);
    expect(errnoOf(thrownBy(Error, () => controller.read(Buffer.alloc(1))))).toBe(errno.EINVAL);
    controller.reset();
    expect(controller.state).toBe(s.RUNNING);
    expect(calls.slice(-2)).toEqual(['failed', 'resume']);
  });

  it('of an empty or half stream end in ERROR when RESUMING is left', () => {
    for (const length of [0, 16, 1000]) {
      const source = fakeMigration(filled());
      source.controller.setState(s.STOP_COPY);
      const stream = readAll(source.controller).subarray(0, length);
      const { controller } = fakeMigration(filled());
      controller.setState(s.RESUMING);
      controller.write(stream);
      expect(() => controller.setState(s.STOP)).toThrow('not complete');
      expect(controller.state).toBe(s.ERROR);
    }
  });

  it('while it is saved: a nested request is refused, a nested reset is kept for the end', () => {
    const device = filled();
    const errors: unknown[] = [];
    const fake = fakeMigration(device, {
      hook: (name) => {
        if (name !== 'quiesce') return;
        errors.push(thrownBy(Error, () => fake.controller.setState(s.STOP)));
        fake.controller.reset();
        errors.push(fake.controller.state);
      },
    });
    expect(errnoOf(thrownBy(Error, () => fake.controller.setState(s.STOP)))).toBe(errno.EIO);
    expect(errnoOf(errors[0])).toBe(errno.EBUSY);
    expect(errors[1]).toBe(s.RUNNING);
    expect(fake.controller.state).toBe(s.RUNNING);
    expect(fake.calls).toEqual(['quiesce', 'resume']);
  });

  it('while it is read: a reset is kept for the end, and what was read is void', () => {
    const device = filled();
    const { controller } = fakeMigration(device);
    controller.setState(s.PRE_COPY);
    device.onNext = () => controller.reset();
    expect(errnoOf(thrownBy(Error, () => controller.read(Buffer.alloc(100_000))))).toBe(errno.EIO);
    expect(controller.state).toBe(s.RUNNING);
    expect(device.sessions).toBe(0);
  });

  it('while it is loaded: a reset is kept for the end, and what was written is void', () => {
    const source = fakeMigration(filled());
    source.controller.setState(s.STOP_COPY);
    const stream = readAll(source.controller);
    const device = new FakeDevice();
    const { controller } = fakeMigration(device);
    controller.setState(s.RESUMING);
    device.endLoad = () => expect.fail('loaded to the end');
    device.beginLoad = () => controller.reset();
    expect(errnoOf(thrownBy(Error, () => controller.write(stream)))).toBe(errno.EIO);
    expect(controller.state).toBe(s.RUNNING);
  });
});

describe('sizes', () => {
  it('are told in PRE_COPY_P2P, too', () => {
    const device = filled();
    const { controller } = fakeMigration(device);
    controller.setState(s.PRE_COPY);
    readAll(controller);
    controller.setState(s.PRE_COPY_P2P);
    device.poke(0, 1);
    expect(controller.precopyInfo()).toEqual({ initialBytes: 0, dirtyBytes: 4096, flags: 0 });
  });

  it('tell of what comes at the end alone, too', () => {
    const device = filled();
    const open = device.preCopy ?? expect.fail('no PRE_COPY');
    const sizeWith = (finalBytes?: () => number): number => {
      device.preCopy = () => ({ ...open(), ...(finalBytes && { finalBytes }) });
      const { controller } = fakeMigration(device);
      controller.setState(s.PRE_COPY);
      readAll(controller);
      return controller.dataSize();
    };
    expect(sizeWith(() => 70_000)).toBe(sizeWith() + 70_000);
  });

  it('are told in every state', () => {
    const device = filled();
    const { controller } = fakeMigration(device);
    expect(controller.dataSize()).toBeGreaterThan(device.memory.length);
    controller.setState(s.PRE_COPY);
    readAll(controller);
    expect(controller.dataSize()).toBeLessThan(device.memory.length);
    controller.setState(s.STOP_COPY);
    const told = controller.dataSize();
    expect(readAll(controller).length).toBeLessThanOrEqual(told);
    expect(errnoOf(thrownBy(Error, () => controller.precopyInfo()))).toBe(errno.EINVAL);
  });
});
