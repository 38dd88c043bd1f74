import fc from 'fast-check';
import { pack, unpack } from 'msgpackr';
import { describe, expect, test } from 'vitest';
import { ConfigSpace, PciStateError } from '../../../src/pci/index.ts';
import { fullDescription, get, plainDescription, put } from './fixtures.ts';

const anyWrites = fc.array(
  fc.record({ offset: fc.nat(0xf0), bytes: fc.uint8Array({ minLength: 1, maxLength: 16 }) }),
  { maxLength: 30 },
);

function written(writes: { offset: number; bytes: Uint8Array }[]): ConfigSpace {
  const config = new ConfigSpace(fullDescription);
  for (const { offset, bytes } of writes) config.write(offset, bytes.length, Buffer.from(bytes), 0);
  return config;
}

describe('saved state', () => {
  test('comes back whatever was written, over msgpack too', () => {
    fc.assert(
      fc.property(anyWrites, (writes) => {
        const source = written(writes);
        source.reportErrors(0x2000);
        source.setInterruptStatus(true);
        const target = new ConfigSpace(fullDescription);
        put(target, 0x10, 4, 0xabc0_0000);
        target.load(unpack(pack(source.save())));
        // The interrupt status bit follows the interrupts, which travel on their own.
        source.setInterruptStatus(false);
        return target.snapshot().equals(source.snapshot());
      }),
      { numRuns: 100 },
    );
  });

  test('calls no hooks', () => {
    const fail = () => expect.unreachable();
    const target = new ConfigSpace(fullDescription, {
      barsChanged: fail,
      commandChanged: fail,
      functionLevelReset: fail,
      msixControlChanged: fail,
    });
    target.load(written([{ offset: 0, bytes: new Uint8Array(0xf0).fill(0xff) }]).save());
    expect(target.busMaster).toBe(false); // all ones is D3hot
    expect(target.command).not.toBe(0);
  });

  const good = () => structuredClone(new ConfigSpace(fullDescription).save()) as Mutable;
  type Mutable = { geometry: Record<string, unknown>; registers: Record<string, unknown> };
  const broken: [string, (state: Mutable) => unknown, RegExp][] = [
    ['nothing', () => undefined, /no geometry/],
    ['a list', () => [], /no geometry/],
    ['null registers', (s) => ({ ...s, registers: null }), /no geometry/],
    ['another BAR size', (s) => ({ ...s, geometry: { ...s.geometry, bar0: 'memory64 4096' } }), /bar0/],
    ['more geometry', (s) => ({ ...s, geometry: { ...s.geometry, bar5: 'io 4' } }), /bar5/],
    ['a lost register', (s) => ({ ...s, registers: { command: 0 } }), /register/],
    ['an unknown one', (s) => ({ ...s, registers: { ...s.registers, nonsense: 0 } }), /nonsense/],
    ['a read-only one', (s) => ({ ...s, registers: { ...s.registers, vendorId: 0x15b3 } }), /vendorId/],
    ['read-only bits', (s) => ({ ...s, registers: { ...s.registers, command: 0x8000 } }), /read-only/],
    ['an act bit', (s) => ({ ...s, registers: { ...s.registers, 'pcie.devctl': 0xa810 } }), /read-only/],
    ['a wide value', (s) => ({ ...s, registers: { ...s.registers, interruptLine: 256 } }), /interruptLine/],
    ['a negative value', (s) => ({ ...s, registers: { ...s.registers, bar0: -1 } }), /bar0/],
    ['a fraction', (s) => ({ ...s, registers: { ...s.registers, bar0: 12.5 } }), /bar0/],
    ['a string', (s) => ({ ...s, registers: { ...s.registers, bar0: '12' } }), /bar0/],
    ['an inherited name', (s) => ({ ...s, registers: Object.create({ ...s.registers }) }), /register/],
  ];
  test.each(broken)('refuses %s and stays as it was', (_name, breakIt, message) => {
    const target = new ConfigSpace(fullDescription);
    put(target, 0x10, 4, 0xabc0_0000);
    const before = target.snapshot();
    expect(() => target.load(breakIt(good()))).toThrow(PciStateError);
    expect(() => target.load(breakIt(good()))).toThrow(message);
    expect(target.snapshot().equals(before)).toBe(true);
    expect(() => target.load(good())).not.toThrow();
  });

  test('refuses another function', () => {
    const other = new ConfigSpace(plainDescription);
    expect(() => other.load(good())).toThrow(PciStateError);
  });
});

describe('replay plan', () => {
  test('written to a fresh function in order, gives the same space', () => {
    fc.assert(
      fc.property(anyWrites, (writes) => {
        const source = written(writes);
        let resets = 0;
        const target = new ConfigSpace(fullDescription, { functionLevelReset: () => resets++ });
        for (const { offset, size, value } of source.replayPlan()) put(target, offset, size, value);
        return resets === 0 && target.snapshot().equals(source.snapshot());
      }),
      { numRuns: 100 },
    );
  });

  test('skipping what has its initial value gives the same', () => {
    const source = written([{ offset: 0x10, bytes: new Uint8Array(48).fill(0x5a) }]);
    const target = new ConfigSpace(fullDescription);
    const needed = source.replayPlan().filter(({ value, initial }) => value !== initial);
    for (const { offset, size, value } of needed) put(target, offset, size, value);
    expect(target.snapshot().equals(source.snapshot())).toBe(true);
    expect(needed.length).toBeLessThan(source.replayPlan().length);
  });

  test('names its registers, BARs first, message control and power last', () => {
    const config = new ConfigSpace(fullDescription);
    put(config, 0x04, 2, 0x0406);
    const plan = config.replayPlan();
    expect(plan.map(({ name }) => name)).toEqual([
      'bar0',
      'bar1',
      'bar2',
      'bar3',
      'cacheLineSize',
      'interruptLine',
      'pcie.devctl',
      'pcie.lnkctl',
      'pcie.devctl2',
      'pcie.lnkctl2',
      'msi.address',
      'msi.addressHigh',
      'msi.data',
      'msi.mask',
      'command',
      'msi.control',
      'msix.control',
      'pm.control',
    ]);
    expect(plan.find(({ role }) => role === 'command')).toMatchObject({ offset: 4, size: 2, value: 0x0406 });
    expect(config.guestWrittenRegisters()).toEqual(plan.map(({ offset, size }) => ({ offset, size })));
    expect(get(config, 4, 2)).toBe(0x0406);
  });
});
