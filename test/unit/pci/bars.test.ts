import { describe, expect, test } from 'vitest';
import type { BarDescription, PciDescription } from '../../../src/device/pci-description.ts';
import { ConfigSpace } from '../../../src/pci/index.ts';
import { fullDescription, get, plainDescription, put } from './fixtures.ts';

const bar0 = 0x10;
const commandOffset = 0x04;

function withBar(bar: BarDescription): PciDescription {
  return { ...plainDescription, bars: { 0: bar } };
}

/** Sizes a BAR as PCI Local Bus 3.0 section 6.2.5.1 tells software to, by its own arithmetic in bigint. */
function sizeByProbe(config: ConfigSpace, offset: number): bigint {
  const original = get(config, offset, 4);
  put(config, offset, 4, 0xffff_ffff);
  const low = get(config, offset, 4);
  put(config, offset, 4, original);
  if (original & 1) return BigInt(((~(low & ~3) >>> 0) & 0xffff_ffff) + 1);
  if ((original & 6) !== 4) return BigInt((~(low & ~0xf) >>> 0) + 1);
  const originalHigh = get(config, offset + 4, 4);
  put(config, offset + 4, 4, 0xffff_ffff);
  const high = get(config, offset + 4, 4);
  put(config, offset + 4, 4, originalHigh);
  const mask = (BigInt(high) << 32n) | BigInt((low & ~0xf) >>> 0);
  return (~mask & 0xffff_ffff_ffff_ffffn) + 1n;
}

describe('sizing', () => {
  const range = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => 2 ** (from + i));
  const cases: [BarDescription['kind'], number][] = [
    ...range(4, 31).map((size): [BarDescription['kind'], number] => ['memory32', size]),
    ...range(4, 52).map((size): [BarDescription['kind'], number] => ['memory64', size]),
    ...range(2, 16).map((size): [BarDescription['kind'], number] => ['io', size]),
  ];
  test('every size of every kind reads back, and type bits stand', () => {
    for (const [kind, size] of cases) {
      const config = new ConfigSpace(withBar({ kind, size, prefetchable: kind !== 'io' }));
      expect([kind, size, sizeByProbe(config, bar0)]).toEqual([kind, size, BigInt(size)]);
      put(config, bar0, 4, 0);
      expect(get(config, bar0, 4)).toBe({ memory32: 0x8, memory64: 0xc, io: 0x1 }[kind]);
    }
    expect(cases.length).toBe(28 + 49 + 15);
  });

  test('an absent BAR and the ROM BAR stay zero', () => {
    const config = new ConfigSpace(fullDescription);
    for (const offset of [0x20, 0x24, 0x30]) {
      put(config, offset, 4, 0xffff_ffff);
      expect(get(config, offset, 4)).toBe(0);
    }
  });

  test('byte by byte works as well as whole', () => {
    const config = new ConfigSpace(fullDescription);
    for (let i = 0; i < 8; i++) put(config, bar0 + i, 1, 0xff);
    expect(get(config, bar0, 4)).toBe(0xfff0_000c);
    expect(get(config, bar0 + 4, 4)).toBe(0xffff_ffff);
  });
});

describe('addresses', () => {
  test('a 64-bit BAR has an address only while memory space is on', () => {
    const config = new ConfigSpace(fullDescription);
    expect(config.bar(0)).toMatchObject({ base: 0, decoded: false, address: undefined });
    put(config, bar0, 4, 0xfe10_0000);
    put(config, bar0 + 4, 4, 0x38);
    expect(config.bar(0)).toMatchObject({ base: 0x38_fe10_0000, decoded: false, address: undefined });
    put(config, commandOffset, 2, 2);
    expect(config.bar(0)?.address).toBe(0x38_fe10_0000);
    expect(config.bar(1)).toBeUndefined();
    expect(config.bar(3)).toMatchObject({ kind: 'io', base: 0, address: undefined });
  });

  test('an I/O BAR follows I/O space', () => {
    const config = new ConfigSpace(fullDescription);
    put(config, 0x1c, 4, 0xc040);
    put(config, commandOffset, 2, 2);
    expect(config.bar(3)?.address).toBeUndefined();
    put(config, commandOffset, 2, 1);
    expect(config.bar(3)?.address).toBe(0xc040);
  });

  test('unassigned and half-sized BARs have no address', () => {
    const config = new ConfigSpace(fullDescription);
    put(config, commandOffset, 2, 2);
    expect(config.bar(0)?.address).toBeUndefined();
    put(config, bar0, 4, 0xffff_ffff);
    put(config, bar0 + 4, 4, 0xffff_ffff);
    expect(config.bar(0)?.address).toBeUndefined();
  });

  test('hooks tell of BARs only when one changed', () => {
    let told = 0;
    const config = new ConfigSpace(fullDescription, { barsChanged: () => told++ });
    put(config, bar0, 4, 0x1000_0000);
    put(config, bar0, 4, 0x1000_0000);
    put(config, 0x0c, 1, 8);
    expect(told).toBe(1);
  });
});
