import { describe, expect, it } from 'vitest';
import { ecamWrites } from '../../../src/qemu/ecam-writes.ts';

const entry = { name: '', initial: 0 } as const;

describe('ecamWrites', () => {
  it('joins neighbouring BARs and nothing else', () => {
    const writes = ecamWrites(0xb000_0000, [
      { ...entry, offset: 0x10, size: 4, value: 0xfe00_000c, role: 'bar' },
      { ...entry, offset: 0x14, size: 4, value: 0x80, role: 'bar' },
      { ...entry, offset: 0x1c, size: 4, value: 0xfd00_0000, role: 'bar' },
      { ...entry, offset: 0x20, size: 1, value: 0x10, role: 'plain' },
      { ...entry, offset: 0x21, size: 2, value: 0x2810, role: 'plain' },
    ]);
    expect(writes).toEqual([
      { write: 0xb000_0010, bytes: Buffer.from([0x0c, 0, 0, 0xfe, 0x80, 0, 0, 0]) },
      { write: 0xb000_001c, bytes: Buffer.from([0, 0, 0, 0xfd]) },
      { write: 0xb000_0020, bytes: Buffer.from([0x10]) },
      { write: 0xb000_0021, bytes: Buffer.from([0x10, 0x28]) },
    ]);
  });
});
