import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RegisterBlock, type RegisterHandlers, type RegisterSpec } from '../../../src/device/index.ts';
import { readRegister, writeRegister } from '../../../src/device/testing.ts';

const table = {
  ID: { offset: 0, width: 4, access: 'ro', reset: 0xdeadbeef },
  CONTROL: { offset: 4, width: 2, access: 'rw', mask: 0x0ff0 },
  BYTE: { offset: 6, width: 1, access: 'rw', reset: 7 },
  ADDRESS: { offset: 8, width: 8, access: 'rw' },
  CAUSE: { offset: 16, width: 4, access: 'w1c', reset: 0xf },
  KICK: { offset: 20, width: 4, access: 'trigger' },
  SECRET: { offset: 28, width: 4, access: 'wo' },
} as const;

describe('RegisterBlock', () => {
  it('keeps read-only registers, masks, clears ones and triggers', () => {
    const kicks: number[] = [];
    const block = new RegisterBlock(table, { KICK: { write: (value) => kicks.push(value) } });
    writeRegister(block, 0, 1);
    expect(readRegister(block, 0)).toBe(0xdeadbeef);
    writeRegister(block, 4, 0xffff, 2);
    expect(block.get('CONTROL')).toBe(0x0ff0);
    writeRegister(block, 16, 0x5);
    expect(block.get('CAUSE')).toBe(0xa);
    writeRegister(block, 20, 42);
    expect(kicks).toEqual([42]);
    expect(readRegister(block, 20)).toBe(0);
    writeRegister(block, 28, 9);
    expect([block.get('SECRET'), readRegister(block, 28)]).toEqual([9, 0]);
  });

  it.each([
    ['a register that there is not', 'KICKS', { write: () => {} }, 'there is no register KICKS to handle'],
    [
      'a hook that there is not',
      'KICK',
      { writes: () => {} },
      'the handler of register KICK is not read() and',
    ],
    ['a function alone', 'KICK', () => {}, 'the handler of register KICK is not read() and'],
  ])('refuses a handler with %s, which would never be called', (_what, name, handler, says) => {
    expect(() => new RegisterBlock(table, { [name]: handler } as RegisterHandlers<typeof table>)).toThrow(
      says,
    );
  });

  it.each([
    [{ access: 'rx' }, 'register A has access rx: it is ro, rw,'],
    [{ width: 3 }, 'register A has width 3: it is 1, 2, 4, 8'],
    [{ offset: 0.5 }, 'register A has offset 0.5: it is a whole number'],
    [{ offset: -4 }, 'register A has offset -4: it is a whole number'],
    [{ offset: 2 }, 'register A is not aligned to its width'],
  ])('refuses a register with %o', (wrong, says) => {
    const A = { offset: 0, width: 4, access: 'rw', ...wrong } as RegisterSpec;
    expect(() => new RegisterBlock({ A })).toThrow(says);
  });

  it('clears in 64 bits what is written as 1, wherever that is', () => {
    const block = new RegisterBlock({ CAUSE: { offset: 0, width: 8, access: 'w1c' } });
    const all = () => {
      const bytes = Buffer.alloc(8);
      block.read(0, 8, bytes, 0);
      return bytes.toString('hex');
    };
    block.load({ CAUSE: 0xffff_ffff_ffff_ffffn });
    block.write(0, 8, Buffer.from('0100000000000080', 'hex'), 0);
    expect(all()).toBe('feffffffffffff7f');
    writeRegister(block, 4, 2);
    expect(all()).toBe('fefffffffdffff7f');
  });

  it('clears only the bytes written of a write-one-to-clear register', () => {
    const block = new RegisterBlock({ CAUSE: { offset: 0, width: 4, access: 'w1c', reset: 0xffffffff } });
    writeRegister(block, 1, 0xff, 1);
    expect(block.get('CAUSE')).toBe(0xffff00ff);
  });

  it('answers reads from handlers and tells write handlers the stored value', () => {
    let time = 5;
    const seen: number[] = [];
    const block = new RegisterBlock(table, {
      BYTE: { read: () => time },
      CONTROL: { write: (value) => seen.push(value) },
    });
    expect(readRegister(block, 6, 1)).toBe(5);
    time = 6;
    expect(readRegister(block, 4, 4)).toBe(0x060000);
    writeRegister(block, 4, 0x1234, 2);
    expect(seen).toEqual([0x0230]);
  });

  it('reads zero from holes and beyond its end', () => {
    const block = new RegisterBlock(table);
    const bytes = Buffer.alloc(16, 0xaa);
    block.read(24, 16, bytes, 0);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  it('is big-endian when declared so', () => {
    const block = new RegisterBlock({ A: { offset: 0, width: 8, access: 'rw' } }, {}, { bigEndian: true });
    block.set('A', 0x0102030405060);
    const bytes = Buffer.alloc(8);
    block.read(0, 8, bytes, 0);
    expect(bytes.toString('hex')).toBe('0000102030405060');
    expect(block.get('A')).toBe(0x0102030405060);
  });

  it('refuses tables with overlaps, misalignment, or a mask that would not hold', () => {
    const overlap = {
      A: { offset: 0, width: 4, access: 'rw' },
      B: { offset: 2, width: 2, access: 'rw' },
    } as const;
    expect(() => new RegisterBlock(overlap)).toThrow(/A and B overlap/);
    expect(() => new RegisterBlock({ A: { offset: 2, width: 4, access: 'rw' } })).toThrow(/aligned/);
    const wide = { A: { offset: 0, width: 8, access: 'rw', mask: 0xff } } as const;
    expect(() => new RegisterBlock(wide)).toThrow(/A .* mask/);
  });

  it('gives back what any sequence of byte writes left, as plain memory would (rw registers)', () => {
    const plain = {
      A: { offset: 0, width: 8, access: 'rw' },
      B: { offset: 8, width: 4, access: 'rw' },
    } as const;
    const write = fc.tuple(fc.nat(11), fc.uint8Array({ minLength: 1, maxLength: 12 }));
    fc.assert(
      fc.property(fc.array(write), (writes) => {
        const block = new RegisterBlock(plain);
        const model = Buffer.alloc(12);
        for (const [offset, bytes] of writes) {
          block.write(offset, bytes.length, Buffer.from(bytes), 0);
          Buffer.from(bytes).copy(model, offset);
        }
        const read = Buffer.alloc(12);
        block.read(0, 12, read, 0);
        expect(read.equals(model)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  it('saves and loads, 64-bit values exactly, and refuses hostile values', () => {
    const block = new RegisterBlock(table);
    block.write(8, 8, Buffer.from('ffffffffffffffff', 'hex'), 0);
    const copy = new RegisterBlock(table);
    copy.load(block.save());
    const bytes = Buffer.alloc(8);
    copy.read(8, 8, bytes, 0);
    expect(bytes.toString('hex')).toBe('ffffffffffffffff');
    expect(() => copy.load({ NOPE: 1 })).toThrow(/no register NOPE/);
    expect(() => copy.load({ BYTE: 256 })).toThrow(/too wide/);
    expect(() => copy.load({ BYTE: -1 })).toThrow(/unsigned/);
    expect(() => copy.load({ BYTE: 1.5 })).toThrow(/unsigned/);
    expect(() => copy.load(undefined)).toThrow(/missing/);
  });
});
