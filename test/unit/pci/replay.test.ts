import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConfigSpace } from '../../../src/pci/index.ts';
import { compareConfigs, findCapabilities, planReplay } from '../../../src/pci/replay.ts';
import { anyWrites, fullDescription, get, put, written } from './fixtures.ts';

/** A function with PM, MSI-X and PCIe capabilities, as a guest's driver leaves it; built by hand. */
function configured(): Buffer {
  const config = Buffer.alloc(256);
  config.writeUInt16LE(0x15b3, 0x00);
  config.writeUInt16LE(0x101e, 0x02);
  config.writeUInt16LE(0x0406, 0x04);
  config.writeUInt16LE(0x0010, 0x06);
  config.writeUInt8(0x10, 0x0c);
  config.writeUInt32LE(0xfe00_000c, 0x10);
  config.writeUInt32LE(0x0000_0080, 0x14);
  config.writeUInt8(0x40, 0x34);
  config.writeUInt8(0x0b, 0x3c);
  // PM at 0x40: PME_Status set, D0.
  config.set([0x01, 0x50, 0x03, 0x00, 0x08, 0x80], 0x40);
  // MSI-X at 0x50: enabled.
  config.set([0x11, 0x60, 0x07, 0x80], 0x50);
  // PCIe version 2 at 0x60: FLR bit and a payload size in DEVCTL, retrain bit in LNKCTL.
  config.set([0x10, 0x00, 0x02, 0x00], 0x60);
  config.writeUInt16LE(0x8000 | 0x2810, 0x68);
  config.writeUInt16LE(0x0020 | 0x0040, 0x70);
  config.writeUInt16LE(0x0009, 0x88);
  return config;
}

function fresh(): Buffer {
  const config = configured();
  for (const [at, size] of [
    [0x04, 2],
    [0x0c, 1],
    [0x14, 4],
    [0x3c, 1],
    [0x44, 2],
    [0x68, 2],
    [0x70, 2],
    [0x88, 2],
  ] as const)
    config.writeUIntLE(0, at, size);
  config.writeUInt32LE(0x0000_000c, 0x10);
  config.writeUInt16LE(0x0007, 0x52);
  return config;
}

describe('planReplay', () => {
  it('writes what differs from a fresh function, addresses first, MSI-X last', () => {
    const names = planReplay(configured(), fresh()).map(({ name }) => name);
    expect(names).toEqual([
      'bar0',
      'bar1',
      'cacheLineSize',
      'interruptLine',
      'pcie.devctl',
      'pcie.lnkctl',
      'pcie.devctl2',
      'msix.control',
      'pm.pmcsr',
    ]);
  });

  it('never writes a bit that acts: FLR, link retraining, PME status', () => {
    const values = new Map(planReplay(configured()).map(({ name, value }) => [name, value]));
    expect(values.get('pcie.devctl')).toBe(0x2810);
    expect(values.get('pcie.lnkctl')).toBe(0x0040);
    expect(values.get('pm.pmcsr')).toBe(0x0008);
    expect(values.get('msix.control')).toBe(0x8007);
    expect([...values.keys()]).not.toContain('status');
  });

  it('turns a fresh function into the configured one', () => {
    const target = fresh();
    for (const { offset, size, value } of planReplay(configured(), fresh()))
      target.writeUIntLE(value, offset, size);
    target.writeUInt16LE(configured().readUInt16LE(4), 4);
    expect(compareConfigs(configured(), target)).toEqual([]);
    target.writeUInt8(0x0a, 0x3c);
    expect(compareConfigs(configured(), target)).toEqual([
      { name: 'interruptLine', source: 0x0b, destination: 0x0a },
    ]);
  });

  it('finds MSI registers by their layout', () => {
    const config = Buffer.alloc(256);
    config.writeUInt16LE(0x10, 6);
    config.writeUInt8(0x40, 0x34);
    config.set([0x05, 0x00, 0x81, 0x01], 0x40);
    config.writeUInt32LE(0xfee0_1000, 0x44);
    config.writeUInt32LE(0x1, 0x48);
    config.writeUInt16LE(0x4021, 0x4c);
    config.writeUInt32LE(0x2, 0x50);
    const plan = planReplay(config, Buffer.from(config).fill(0, 0x42, 0x54));
    // The masks of the pristine copy say which registers there are: the configured one decides.
    expect(plan.map(({ name, offset }) => [name, offset])).toEqual([
      ['msi.address', 0x44],
      ['msi.upperAddress', 0x48],
      ['msi.data', 0x4c],
      ['msi.mask', 0x50],
      ['msi.control', 0x42],
    ]);
  });

  it('survives capability chains that loop or point outside', () => {
    const config = Buffer.alloc(256);
    config.writeUInt16LE(0x10, 6);
    config.writeUInt8(0xfc, 0x34);
    config.set([0x10, 0xfc, 0xff, 0xff], 0xfc);
    expect([...findCapabilities(config)]).toEqual([[0x10, 0xfc]]);
    expect(() => planReplay(config)).not.toThrow();
  });
});

describe('the plan for a function of ours', () => {
  const fresh = (): Buffer => new ConfigSpace(fullDescription).snapshot();
  const offsets = { command: 0x04, lnkctl2: 0x30 } as const;

  /** What the client's part of a migration comes to; the command register is not the plan's. */
  function replayed(
    source: ConfigSpace,
    pristine: Buffer | undefined,
    resets: { count: number },
  ): ConfigSpace {
    const target = new ConfigSpace(fullDescription, { functionLevelReset: () => resets.count++ });
    const plan = planReplay(source.snapshot(), pristine);
    for (const { offset, size, value } of plan) put(target, offset, size, value);
    put(target, offsets.command, 2, source.command);
    return target;
  }

  it.each([
    ['all of it', undefined],
    ['what differs', fresh()],
  ])('written to a fresh function, %s gives the same space and resets nothing', (_what, pristine) => {
    fc.assert(
      fc.property(anyWrites, (writes) => {
        const source = written(writes);
        const resets = { count: 0 };
        const target = replayed(source, pristine, resets);
        // Link Control 2 travels in the state of the server.
        const at = (source.pcieCapability ?? 0) + offsets.lnkctl2;
        put(target, at, 2, get(source, at, 2));
        return resets.count === 0 && target.snapshot().equals(source.snapshot());
      }),
      { numRuns: 100 },
    );
  });

  it('skips what has its initial value', () => {
    const config = written([{ offset: 0x10, bytes: new Uint8Array(48).fill(0x5a) }]).snapshot();
    expect(planReplay(config, fresh()).length).toBeLessThan(planReplay(config).length);
    expect(planReplay(fresh(), fresh())).toEqual([]);
  });

  it('names its registers, BARs first, message control and power last', () => {
    expect(planReplay(fresh()).map(({ name }) => name)).toEqual([
      'bar0',
      'bar1',
      'bar2',
      'bar3',
      'bar4',
      'bar5',
      'rom',
      'cacheLineSize',
      'latencyTimer',
      'interruptLine',
      'pcie.devctl',
      'pcie.lnkctl',
      'pcie.devctl2',
      'msi.address',
      'msi.upperAddress',
      'msi.data',
      'msi.mask',
      'msi.control',
      'msix.control',
      'pm.pmcsr',
    ]);
  });
});
