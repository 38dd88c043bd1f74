import fc from 'fast-check';
import { pack, unpack } from 'msgpackr';
import { describe, expect, test } from 'vitest';
import { ConfigSpace, PciStateError } from '../../../src/pci/index.ts';
import { anyWrites, fullDescription, plainDescription, put, written } from './fixtures.ts';

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
