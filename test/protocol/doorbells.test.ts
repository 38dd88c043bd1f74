import { afterEach, describe, expect, it } from 'vitest';
import { type DeviceModel, defineModel, type OptionTable } from '../../src/device/index.ts';
import { errno } from '../../src/errors.ts';
import { migrationState } from '../../src/migration/index.ts';
import { closeFd, eventfdSignal } from '../../src/posix/index.ts';
import type { ClientLink } from '../../src/transport/served-device.ts';
import { PeerError } from '../../src/vfio-user/client/index.ts';
import { ioeventfdFlags, ioFdType, pciRegion } from '../../src/vfio-user/constants.ts';
import { openDescriptors } from '../fuzz/target.ts';
import { noState } from '../unit/device/no-state.ts';
import { Bench } from './runtime-harness.ts';

const doorbell = { plain: 0x100, matched: 0x104, narrow: 0x108 } as const;

/**
 * A device that notes its writes and saves how many there were; BAR 2 has more doorbells than a message holds.
 *
 * @param onOther called in a write to BAR 1
 */
function belledModel(writes: string[], onOther: () => void): DeviceModel<OptionTable> {
  return defineModel({
    name: 'belled',
    description: 'has doorbells',
    stateVersion: 1,
    options: {},
    pci: () => ({
      vendorId: 0x1b36,
      deviceId: 0x11ff,
      classCode: 0xff0000,
      capabilities: { pcie: { functionLevelReset: true } },
      bars: {
        0: {
          size: 0x1000,
          kind: 'memory32',
          doorbells: [
            { offset: doorbell.plain, size: 4 },
            { offset: doorbell.matched, size: 4, datamatch: 0x1234_5678 },
            { offset: doorbell.matched, size: 4, datamatch: 7 },
            { offset: doorbell.narrow, size: 2 },
          ],
        },
        1: { size: 0x1000, kind: 'memory32' },
        2: {
          size: 0x1000,
          kind: 'memory32',
          doorbells: Array.from({ length: 17 }, (_, i) => ({ offset: 4 * i, size: 4 as const })),
        },
      },
    }),
    create: () => ({
      bars: {
        0: {
          read: () => {},
          write(offset, count, source, at) {
            if (source.readUIntLE(at, count) === 0xbad) throw new Error('a bug');
            writes.push(`${offset.toString(16)}=${source.toString('hex', at, at + count)}`);
          },
        },
        1: { read: () => {}, write: () => onOther() },
      },
      reset: () => {
        writes.push('reset');
      },
      migration: {
        ...noState,
        estimate: () => 16,
        save: () => [{ section: 'writes', value: writes.length }],
      },
    }),
  }) as unknown as DeviceModel<OptionTable>;
}

describe('doorbells', () => {
  const writes: string[] = [];
  const received: number[] = [];
  let bench: Bench;
  let onOther = (): void => {};

  const start = () => {
    bench = new Bench(belledModel(writes, () => onOther()));
    return bench;
  };
  const ask = (index = 0) => {
    const offer = bench.client.getRegionIoFds(index);
    received.push(...offer.fds);
    return offer;
  };
  const fdOf = (offer: ReturnType<typeof ask>, i: number): number =>
    offer.fds[offer.subRegions[i]?.fd_index ?? -1] ?? -1;

  afterEach(() => {
    bench.close();
    for (const fd of received.splice(0)) closeFd(fd);
    writes.length = 0;
  });

  it('are offered as ioeventfds where the model has them, and nowhere else', () => {
    start();
    const { count, subRegions, fds } = ask();
    expect(count).toBe(4);
    expect(new Set(fds).size).toBe(4);
    expect(
      subRegions.map(({ offset, size, type, flags, datamatch }) => [offset, size, type, flags, datamatch]),
    ).toEqual([
      [doorbell.plain, 4, ioFdType.ioeventfd, 0, 0n],
      [doorbell.matched, 4, ioFdType.ioeventfd, ioeventfdFlags.datamatch, 0x1234_5678n],
      [doorbell.matched, 4, ioFdType.ioeventfd, ioeventfdFlags.datamatch, 7n],
      [doorbell.narrow, 2, ioFdType.ioeventfd, 0, 0n],
    ]);
    expect(ask(1)).toMatchObject({ count: 0, fds: [] });
  });

  it('call the register’s write, with the value that was matched or zero; rings in one turn are one', () => {
    start();
    const offer = ask();
    for (const i of [0, 1, 3]) eventfdSignal(fdOf(offer, i));
    eventfdSignal(fdOf(offer, 0));
    bench.settle();
    expect([...writes].sort()).toEqual(['100=00000000', '104=78563412', '108=0000']);
    bench.client.writeRegister(0, doorbell.plain, 5);
    bench.settle();
    expect(writes.at(-1)).toBe('100=05000000');
  });

  it('are the same when asked for again, and gone with their client', () => {
    start();
    const before = openDescriptors();
    const first = ask();
    expect(openDescriptors()).toBe(before + 2 * first.fds.length);
    const again = ask();
    eventfdSignal(fdOf(again, 0));
    bench.settle();
    expect(writes).toEqual(['100=00000000']);
    // What the client still holds reaches nobody.
    bench.runtime.detach();
    eventfdSignal(fdOf(first, 0));
    bench.settle();
    expect(writes).toHaveLength(1);
    for (const fd of received.splice(0)) closeFd(fd);
    expect(openDescriptors()).toBe(before);
  });

  it('are refused when the client cannot take so many descriptors', () => {
    start();
    expect(() => ask(2)).toThrow(PeerError);
    expect(() => ask(2)).toThrow(expect.objectContaining({ errno: errno.ENOSPC }));
  });

  it('that have rung are served before the state is saved', () => {
    start();
    eventfdSignal(fdOf(ask(), 0));
    // No turn of the loop in between: the runtime is asked directly.
    bench.runtime.orchestrated?.setState(migrationState.STOP);
    expect(writes).toEqual(['100=00000000']);
  });

  it('that have rung before a reset do not ring after it', () => {
    start();
    const offer = ask();
    for (const i of [0, 1]) eventfdSignal(fdOf(offer, i));
    // No turn of the loop in between, as when the server hears of the reset first.
    bench.runtime.reset();
    bench.settle();
    expect(writes.at(-1)).toBe('reset');
    eventfdSignal(fdOf(offer, 0));
    bench.settle();
    expect(writes.at(-1)).toBe('100=00000000');
  });

  it('that ring after a function level reset reach the device that was reset, also if that comes later', () => {
    const { runtime } = start();
    const fd = fdOf(ask(), 0);
    // A client whose device is in the middle of DMA by message, until it has unwound.
    let unwound = (): void => {};
    const unwind = (reset: () => void): boolean => {
      unwound = reset;
      return true;
    };
    runtime.attach({ unwind } as unknown as ClientLink);
    onOther = () => {
      eventfdSignal(fd);
      const deviceControl = (runtime.config.pcieCapability ?? 0) + 8;
      runtime.regionWrite(pciRegion.config, deviceControl, 2, Buffer.from([0, 0x80]), 0);
    };
    for (const later of [[], ['100=00000000']]) {
      runtime.regionWrite(1, 0, 4, Buffer.alloc(4), 0);
      if (later.length > 0) eventfdSignal(fd);
      unwound();
      bench.settle();
      expect(writes.splice(0)).toEqual(['reset', ...later]);
    }
  });

  it('ring no broken device', () => {
    start();
    const offer = ask();
    try {
      bench.client.writeRegister(0, 0, 0xbad);
    } catch {
      // Posted or refused: either way the model has failed.
    }
    bench.settle();
    expect(bench.runtime.broken).toBe(true);
    eventfdSignal(fdOf(offer, 0));
    bench.settle();
    expect(writes).toEqual([]);
  });
});
