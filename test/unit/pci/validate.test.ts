import { describe, expect, test } from 'vitest';
import type {
  BarDescription,
  DoorbellDescription,
  PciDescription,
} from '../../../src/device/pci-description.ts';
import { ConfigSpace, PciDescriptionError } from '../../../src/pci/index.ts';
import { WINDOW_SIZE } from '../../../src/posix/index.ts';
import { fullDescription, plainDescription } from './fixtures.ts';

const bar = (size: number, kind: BarDescription['kind'] = 'memory32'): BarDescription => ({ size, kind });
const bars = (table: Record<number, BarDescription>): Partial<PciDescription> => ({ bars: table });
const msix = (vectors: number, table: number, pba: number, tableBar: 0 | 1 = 0): Partial<PciDescription> => ({
  bars: { 0: bar(0x4000) },
  capabilities: { msix: { vectors, table: { bar: tableBar, offset: table }, pba: { bar: 0, offset: pba } } },
});
const mappable = (...areas: [number, number][]): Partial<PciDescription> =>
  bars({ 0: { ...bar(0x4000), mappable: areas.map(([offset, size]) => ({ offset, size })) } });
const large = ([offset, size]: [number, number]): Partial<PciDescription> =>
  bars({ 0: { ...bar(2 ** 31), mappable: [{ offset, size }] } });

const doorbells = (...list: DoorbellDescription[]): Partial<PciDescription> => ({
  ...msix(8, 0x1000, 0x1800),
  bars: {
    0: { ...bar(0x4000), doorbells: list, mappable: [{ offset: 0x2000, size: 0x1000 }] },
    1: { ...bar(16, 'io') },
  },
});

describe('a description that cannot be is refused, naming the field', () => {
  const wrong: [Partial<PciDescription>, RegExp][] = [
    [{ vendorId: 0xffff }, /vendorId/],
    [{ deviceId: -1 }, /deviceId/],
    [{ subsystemId: 0x1_0000 }, /subsystemId/],
    [{ revisionId: 256 }, /revisionId/],
    [{ classCode: 0x100_0000 }, /classCode/],
    [{ classCode: 1.5 }, /classCode/],
    [{ interruptPin: 5 as 4 }, /interruptPin/],
    [bars({ 6: bar(0x1000) }), /bar index/],
    [bars({ 1: bar(0x3000) }), /bars\[1\]\.size/],
    [bars({ 1: bar(8) }), /bars\[1\]\.size/],
    [bars({ 1: bar(0) }), /bars\[1\]\.size/],
    [bars({ 1: bar(2 ** 32) }), /bars\[1\]\.size/],
    [bars({ 1: bar(Number.NaN) }), /bars\[1\]\.size/],
    [bars({ 1: bar(2 ** 49 + 1, 'memory64') }), /bars\[1\]\.size/],
    [bars({ 1: bar(2 ** 17, 'io') }), /bars\[1\]\.size/],
    [bars({ 1: bar(16, 'rom' as 'io') }), /bars\[1\]\.kind/],
    [bars({ 1: { ...bar(16, 'io'), prefetchable: true } }), /prefetchable/],
    [bars({ 5: bar(0x1000, 'memory64') }), /bars\[5\].*64 bits/],
    [bars({ 2: bar(0x1000, 'memory64'), 3: bar(0x1000) }), /bars\[3\] is the upper half/],
    [mappable([0, 0x800]), /mappable/],
    [mappable([0x3000, 0x2000]), /mappable/],
    [mappable([0x1000, 0x2000], [0x2000, 0x1000]), /mappable/],
    [large([WINDOW_SIZE - 0x1000, 0x2000]), /first 1073741824 bytes/],
    [{ capabilities: { msi: { vectors: 3 } } }, /msi\.vectors/],
    [{ capabilities: { msi: { vectors: 64 } } }, /msi\.vectors/],
    [msix(0, 0, 0x2000), /msix\.vectors/],
    [msix(2049, 0, 0x2000), /msix\.vectors/],
    [msix(8, 0, 0x2000, 1), /msix\.table\.bar/],
    [msix(8, 4, 0x2000), /msix\.table\.offset/],
    [msix(8, 0x3ff0, 0x2000), /msix\.table .*outside/],
    [msix(8, 0, 0x4000), /msix\.pba .*outside/],
    [msix(8, 0x1000, 0x1078), /overlaps/],
    [{ ...msix(8, 0x1000, 0x2000), ...mappable([0x1000, 0x1000]) }, /mappable part/],
    [doorbells({ offset: 0x10, size: 3 as 4 }), /1, 2 or 4/],
    [doorbells({ offset: 0x12, size: 4 }), /aligned/],
    [doorbells({ offset: 0x4000, size: 4 }), /aligned/],
    [doorbells({ offset: 0x1004, size: 4 }), /do not reach the model/],
    [doorbells({ offset: 0x1800, size: 4 }), /do not reach the model/],
    [doorbells({ offset: 0x2ffc, size: 4 }), /do not reach the model/],
    [doorbells({ offset: 0x10, size: 2, datamatch: 0x1_0000 }), /datamatch/],
    [doorbells({ offset: 0x10, size: 4 }, { offset: 0x10, size: 4 }), /twice/],
    [bars({ 1: { ...bar(16, 'io'), doorbells: [{ offset: 0, size: 4 }] } }), /only memory BARs/],
    [{ capabilities: { vendor: [new Uint8Array(190)] } }, /vendor\[0\]/],
    [{ capabilities: { vendor: [new Uint8Array(100), new Uint8Array(100)] } }, /does not fit/],
    [{ capabilities: { extended: [{ id: 0, version: 1, body: new Uint8Array(4) }] } }, /extended\[0\]\.id/],
    [{ capabilities: { extended: [{ id: 3, version: 16, body: new Uint8Array(4) }] } }, /version/],
    [{ capabilities: { extended: [{ id: 3, version: 1, body: new Uint8Array(4096) }] } }, /does not fit/],
  ];
  test.each(wrong)('%j', (change, message) => {
    const make = () => new ConfigSpace({ ...plainDescription, ...change });
    expect(make).toThrow(PciDescriptionError);
    expect(make).toThrow(message);
  });

  const right: Partial<PciDescription>[] = [
    fullDescription,
    msix(8, 0x1000, 0x1080),
    msix(8, 0x1000, 0x0ff8),
    mappable([0x1000, 0x1000], [0, 0x1000]),
    large([WINDOW_SIZE - 0x1000, 0x1000]),
    bars({ 4: bar(2 ** 40, 'memory64') }),
    doorbells(
      { offset: 0x10, size: 4, datamatch: 1 },
      { offset: 0x10, size: 4, datamatch: 2 },
      { offset: 0x3000, size: 1 },
    ),
    { capabilities: { vendor: [new Uint8Array(189)] } },
    { capabilities: { extended: [{ id: 3, version: 1, body: new Uint8Array(0xf00 - 4) }] } },
  ];
  test.each(right)('negative control: %#, the nearest right one, is taken', (change) => {
    expect(() => new ConfigSpace({ ...plainDescription, ...change })).not.toThrow();
  });
});
