import { describe, expect, it } from 'vitest';
import { type Device, defineModel, errno, type StateRecord } from '../../../src/device/index.ts';
import { createTestDevice, TestHost, transplant } from '../../../src/device/testing.ts';
import { noState } from './no-state.ts';

const mappable = [{ offset: 0x1000, size: 0x1000 }];
const model = defineModel({
  name: 'mapped',
  description: 'has a BAR that is mapped in part, and one that is not',
  stateVersion: 1,
  options: { size: { type: 'number', default: 0x4000, description: 'of the mapped one' } },
  pci: ({ size }) => ({
    vendorId: 0x1b36,
    deviceId: 0x11ef,
    classCode: 0xff0000,
    bars: { 0: { size: 0x1000, kind: 'memory32' }, 2: { size, kind: 'memory32', mappable } },
  }),
  create: () => ({ bars: {}, reset: () => {} }),
});

describe('TestHost', () => {
  it('has as many bytes behind a mappable BAR as that has, and none behind another, as a server', () => {
    const { host } = createTestDevice(model);
    expect(host.barMemory(2)).toHaveLength(0x4000);
    expect(createTestDevice(model, { size: 0x20_0000 }).host.barMemory(2)).toHaveLength(0x20_0000);
    host.barMemory(2)[7] = 1;
    expect(host.barMemory(2)[7]).toBe(1);
    for (const bar of [0, 5] as const)
      expect(() => host.barMemory(bar)).toThrow(expect.objectContaining({ errno: errno.EINVAL }));
  });

  it('has 1 MiB where nobody has said what is there', () => {
    expect(new TestHost().barMemory(3)).toHaveLength(1 << 20);
  });
});

describe('transplant', () => {
  const device = (migration: Partial<Device['migration']>): Device => ({
    bars: {},
    reset: () => {},
    migration: { ...noState, ...migration },
  });

  it('loads copies of what was saved, of bulk no more than a migration loads at a time', () => {
    const bytes = Buffer.from(Array.from({ length: 150_000 }, (_, index) => index % 251));
    const value = { list: [1, 2n, 'three'] };
    const loaded: StateRecord[] = [];
    const versions: number[] = [];
    const source = device({
      *save() {
        yield { section: 'memory', offset: 4096, bytes };
        yield { section: 'registers', value };
      },
    });
    const beginLoad = (version: number): void => void versions.push(version);
    transplant(source, device({ beginLoad, load: (record) => void loaded.push(record) }), 7);
    expect(versions).toEqual([7]);
    const registers = loaded.pop();
    expect(registers).toEqual({ section: 'registers', value });
    expect((registers as { value: unknown }).value).not.toBe(value);
    const pieces = loaded.map((record) => record as { section: string; offset: number; bytes: Uint8Array });
    expect(pieces.map(({ section, offset, bytes }) => [section, offset, bytes.length])).toEqual([
      ['memory', 4096, 65_536],
      ['memory', 4096 + 65_536, 65_536],
      ['memory', 4096 + 131_072, 18_928],
    ]);
    expect(Buffer.concat(pieces.map(({ bytes }) => bytes)).equals(bytes)).toBe(true);
    bytes.fill(0);
    expect(pieces[0]?.bytes[5]).toBe(5);
  });
});
