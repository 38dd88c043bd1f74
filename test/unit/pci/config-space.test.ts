import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ConfigSpace } from '../../../src/pci/index.ts';
import { fullDescription, get, plainDescription, put } from './fixtures.ts';

/** Follows both chains as a driver does: id → offset. */
function walk(config: ConfigSpace): { standard: [number, number][]; extended: [number, number][] } {
  const standard: [number, number][] = [];
  for (let at = get(config, 0x34, 1); at !== 0 && standard.length < 48; at = get(config, at + 1, 1))
    standard.push([get(config, at, 1), at]);
  const extended: [number, number][] = [];
  if (config.size === 4096 && get(config, 0x100, 4) !== 0)
    for (let at = 0x100; at !== 0 && extended.length < 960; at = get(config, at, 4) >>> 20)
      extended.push([get(config, at, 2), at]);
  return { standard, extended };
}

describe('what lspci sees', () => {
  test('identity, class and chains', () => {
    const config = new ConfigSpace(fullDescription);
    expect(config.size).toBe(4096);
    expect(get(config, 0x00, 4)).toBe(0x101e_15b3);
    expect(get(config, 0x08, 4)).toBe(0x0200_0005);
    expect(get(config, 0x2c, 4)).toBe(0x0063_15b3);
    expect(get(config, 0x0e, 1)).toBe(0);
    expect(get(config, 0x3d, 1)).toBe(1);
    expect(get(config, 0x06, 2)).toBe(0x0010);
    const { standard, extended } = walk(config);
    expect(standard.map(([id]) => id)).toEqual([0x01, 0x10, 0x05, 0x11, 0x09]);
    expect(standard.every(([, at]) => at >= 0x40 && at % 4 === 0)).toBe(true);
    expect(extended).toEqual([
      [0x0003, 0x100],
      [0x000b, 0x10c],
    ]);
    expect(get(config, 0x100, 4)).toBe(0x10c1_0003);
    expect(get(config, 0x104, 4)).toBe(0x0506_0708);
    expect(get(config, 0x10c, 4)).toBe(0x0002_000b);
    const at = (name: string) => config.capabilities.get(name) ?? 0;
    expect(get(config, at('msix') + 2, 2)).toBe(7);
    expect(get(config, at('msix') + 4, 4)).toBe(0x2000);
    expect(get(config, at('msix') + 8, 4)).toBe(0x3000);
    expect(get(config, at('msi') + 2, 2)).toBe(0x0184);
    expect(get(config, at('pcie') + 2, 2)).toBe(0x0002);
    expect(get(config, at('pcie') + 4, 4) & 0x1000_0000).not.toBe(0);
    expect(get(config, at('pm') + 4, 2)).toBe(0x0008);
    expect(get(config, at('vendor0') + 2, 1)).toBe(8);
    expect(get(config, at('vendor0') + 3, 4)).toBe(0x0403_0201);
    expect(config.pcieCapability).toBe(at('pcie'));
    expect(config.msix?.capability).toBe(at('msix'));
  });

  test('negative control: without capabilities there is no list, no status bit, no pin', () => {
    const config = new ConfigSpace(plainDescription);
    expect(config.size).toBe(256);
    expect(walk(config)).toEqual({ standard: [], extended: [] });
    expect(get(config, 0x06, 2)).toBe(0);
    expect(get(config, 0x3d, 1)).toBe(0);
    expect(config.msi).toBeUndefined();
    expect(config.msix).toBeUndefined();
    expect(config.pcieCapability).toBeUndefined();
    expect(() => get(config, 0x100, 4)).toThrow(/256 bytes/);
  });

  test('MSI registers move with address width and masking', () => {
    const offsets = (address64: boolean, perVectorMasking: boolean) => {
      const capabilities = { msi: { vectors: 32, address64, perVectorMasking } };
      const { layout } = new ConfigSpace({ ...plainDescription, capabilities });
      return ['addressHigh', 'data', 'mask', 'pending'].map(
        (name) => layout.registers.get(`msi.${name}`)?.offset ?? 0,
      );
    };
    expect(offsets(false, false)).toEqual([0, 0x48, 0, 0]);
    expect(offsets(true, false)).toEqual([0x48, 0x4c, 0, 0]);
    expect(offsets(false, true)).toEqual([0, 0x48, 0x4c, 0x50]);
    expect(offsets(true, true)).toEqual([0x48, 0x4c, 0x50, 0x54]);
  });
});

describe('writes', () => {
  test('of the command register only implemented bits stay', () => {
    const config = new ConfigSpace(fullDescription);
    put(config, 0x04, 2, 0xffff);
    expect(get(config, 0x04, 2)).toBe(0x0547);
    expect([config.busMaster, config.memorySpace, config.ioSpace, config.intxDisabled]).toEqual([
      true,
      true,
      true,
      true,
    ]);
    const plain = new ConfigSpace(plainDescription);
    put(plain, 0x04, 2, 0xffff);
    expect(get(plain, 0x04, 2)).toBe(0x0144);
  });

  test('a dword over command and status changes one and clears the other', () => {
    const commands: [number, number][] = [];
    const config = new ConfigSpace(fullDescription, {
      commandChanged: (old, now) => commands.push([old, now]),
    });
    config.reportErrors(0xffff);
    config.setInterruptStatus(true);
    expect(get(config, 0x06, 2)).toBe(0xf918);
    put(config, 0x04, 4, 0x2000_0006);
    expect(get(config, 0x04, 4)).toBe(0xd918_0006);
    put(config, 0x07, 1, 0xff);
    expect(get(config, 0x06, 2)).toBe(0x0018);
    config.setInterruptStatus(false);
    expect(get(config, 0x06, 2)).toBe(0x0010);
    expect(commands).toEqual([[0, 6]]);
  });

  test('an unaligned write across registers obeys each', () => {
    const config = new ConfigSpace(fullDescription);
    // baseClass (read-only), cache line size, latency timer (absent with PCIe), header type.
    put(config, 0x0b, 4, 0xffff_ffff);
    expect(get(config, 0x0b, 4)).toBe(0x0000_ff02);
    put(config, 0x3b, 3, 0xff_0bff);
    expect(get(config, 0x3b, 3)).toBe(0x01_0b00);
    const plain = new ConfigSpace(plainDescription);
    put(plain, 0x0d, 1, 0x40);
    expect(get(plain, 0x0d, 1)).toBe(0x40);
  });

  test('of every length and place are safe, and beyond the end refused', () => {
    const config = new ConfigSpace(fullDescription);
    const all = Buffer.alloc(4096, 0xff);
    config.write(0, 4096, all, 0);
    expect(() => config.write(4093, 4, all, 0)).toThrow(/4096 bytes/);
    expect(() => config.read(-1, 1, all, 0)).toThrow(/4096 bytes/);
    expect(() => config.read(0.5, 1, all, 0)).toThrow(/4096 bytes/);
  });

  test('never change read-only bits, however they are cut', () => {
    const access = fc.record({
      offset: fc.oneof(fc.nat(0x0fff), fc.nat(0xff)),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 12 }),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 40 }), (accesses) => {
        const config = new ConfigSpace(fullDescription);
        const { initial, writable } = config.layout;
        for (const { offset, bytes } of accesses) {
          const count = Math.min(bytes.length, 4096 - offset);
          config.write(offset, count, Buffer.from(bytes), 0);
        }
        const now = config.snapshot();
        for (let o = 0; o < now.length; o++)
          if ((((now[o] ?? 0) ^ (initial[o] ?? 0)) & ~(writable[o] ?? 0)) !== 0) return false;
        return true;
      }),
      { numRuns: 200 },
    );
  });

  test('cut in any way give the same bytes as one piece', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 256, maxLength: 256 }), fc.array(fc.nat(255)), (bytes, cuts) => {
        const source = Buffer.from(bytes);
        const whole = new ConfigSpace(fullDescription);
        whole.write(0, 256, source, 0);
        const pieces = new ConfigSpace(fullDescription);
        const borders = [...new Set([0, ...cuts, 256])].sort((a, b) => a - b);
        borders.forEach((from, i) => {
          pieces.write(from, (borders[i + 1] ?? 256) - from, source, from);
        });
        return whole.snapshot().equals(pieces.snapshot());
      }),
      { numRuns: 200 },
    );
  });
});

describe('function level reset', () => {
  const devctl = (config: ConfigSpace) => (config.pcieCapability ?? 0) + 8;

  test('acts after the write, reads zero, and may reset the space it comes from', () => {
    const seen: number[] = [];
    const config: ConfigSpace = new ConfigSpace(fullDescription, {
      functionLevelReset: () => {
        seen.push(get(config, devctl(config), 2));
        config.reset('flr');
      },
    });
    put(config, 0x10, 4, 0xfe00_0000);
    put(config, 0x04, 2, 6);
    put(config, devctl(config), 2, 0x8810 | 0x0f);
    expect(seen).toEqual([0x081f]);
    expect(get(config, devctl(config), 2)).toBe(0x2810);
    expect(config.command).toBe(0);
    expect(config.bar(0)?.base).toBe(0xfe00_0000);
    config.reset();
    expect(config.snapshot().equals(config.layout.initial)).toBe(true);
  });

  test('by a write of the upper byte alone, and not by one of the lower', () => {
    let resets = 0;
    const config = new ConfigSpace(fullDescription, { functionLevelReset: () => resets++ });
    put(config, devctl(config), 1, 0xff);
    expect(resets).toBe(0);
    put(config, devctl(config) + 1, 1, 0x80);
    expect(resets).toBe(1);
  });

  test('is not there when it was not offered', () => {
    let resets = 0;
    const capabilities = { pcie: {} };
    const config = new ConfigSpace(
      { ...plainDescription, capabilities },
      { functionLevelReset: () => resets++ },
    );
    put(config, devctl(config), 2, 0xffff);
    expect(resets).toBe(0);
    expect(get(config, devctl(config), 2)).toBe(0x78ff);
    expect(get(config, devctl(config) - 4, 4) & 0x1000_0000).toBe(0);
  });
});

describe('power management', () => {
  test('D3hot stops decoding and mastering and keeps everything', () => {
    const states: string[] = [];
    const config = new ConfigSpace(fullDescription, {
      powerStateChanged: (old, now) => states.push(`${old}>${now}`),
    });
    const pmcsr = (config.capabilities.get('pm') ?? 0) + 4;
    put(config, 0x10, 4, 0xfe00_0000);
    put(config, 0x04, 2, 6);
    put(config, pmcsr, 2, 3);
    expect([config.powerState, config.busMaster, config.memorySpace, config.bar(0)?.address]).toEqual([
      'D3hot',
      false,
      false,
      undefined,
    ]);
    put(config, pmcsr, 2, 0);
    expect([config.busMaster, config.bar(0)?.address]).toEqual([true, 0xfe00_0000]);
    expect(states).toEqual(['D0>D3hot', 'D3hot>D0']);
  });

  test('D1 and D2 are discarded', () => {
    const config = new ConfigSpace(fullDescription);
    const pmcsr = (config.capabilities.get('pm') ?? 0) + 4;
    put(config, pmcsr, 2, 1);
    expect(get(config, pmcsr, 2)).toBe(8);
    put(config, pmcsr, 2, 3);
    put(config, pmcsr, 2, 2);
    expect(get(config, pmcsr, 2)).toBe(0xb);
  });
});

describe('message control', () => {
  test('MSI-X enable and function mask are told, other bits are fixed', () => {
    const told: [boolean, boolean][] = [];
    const config = new ConfigSpace(fullDescription, {
      msixControlChanged: (msix) => told.push([msix.enabled, msix.functionMask]),
    });
    const control = (config.msix?.capability ?? 0) + 2;
    put(config, control, 2, 0xffff);
    expect(get(config, control, 2)).toBe(0xc007);
    put(config, control + 1, 1, 0x80);
    put(config, control, 2, 0x8000);
    expect(told).toEqual([
      [true, true],
      [true, false],
    ]);
  });

  test('MSI never grants more than was asked for', () => {
    const config = new ConfigSpace(fullDescription);
    const { msi } = config;
    const control = (msi?.capability ?? 0) + 2;
    put(config, control, 2, 0x0011);
    expect([msi?.enabled, msi?.granted, msi?.vectors]).toEqual([true, 2, 4]);
    put(config, control, 2, 0x0071);
    expect(msi?.granted).toBe(4);
    put(config, control + 2 + 12, 4, 0xffff_ffff);
    expect([0, 3, 4].map((vector) => msi?.masks(vector))).toEqual([true, true, false]);
  });
});
