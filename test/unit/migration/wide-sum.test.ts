import fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  addByWords,
  lastSummed,
  stagingSize,
  wideSum,
  wideSumWith,
} from '../../../src/migration/stream/wide-sum.ts';
import { wideSumOf } from './chunks.ts';

const byWords = wideSumWith(addByWords);

it('is what its description says, by vectors and by words, wherever the bytes lie', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 700 }), fc.nat(7), (bytes, from) => {
      const part = bytes.subarray(Math.min(from, bytes.length));
      const expected = wideSumOf(part);
      expect(wideSum(part)).toBe(expected);
      expect(byWords(part)).toBe(expected);
      expect(lastSummed(part.length)).toEqual(part);
    }),
    { numRuns: 300 },
  );
  expect(wideSum(Buffer.alloc(0))).toBe(wideSumOf(Buffer.alloc(0)));
});

it('goes on where its staging ends', () => {
  for (const length of [stagingSize - 1, stagingSize, stagingSize + 1, 2 * stagingSize + 333]) {
    const bytes = Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 31) ^ (i >> 9)));
    expect(wideSum(bytes)).toBe(byWords(bytes));
    const [first, ...rest] = [bytes.subarray(0, length - 1), Buffer.concat([bytes, Buffer.alloc(1)])];
    for (const other of [first, ...rest]) expect(wideSum(other as Buffer)).not.toBe(wideSum(bytes));
  }
  const long = Buffer.alloc(stagingSize + 200, 3);
  expect(wideSum(long)).toBe(wideSumOf(long));
});

it('notices whatever changes in one word, and what changes places', () => {
  const bytes = Buffer.from(Uint8Array.from({ length: 4096 }, (_, i) => (i * 7) % 253));
  const sum = wideSum(bytes);
  fc.assert(
    fc.property(fc.nat(1023), fc.integer({ min: 1, max: 0xffffffff }), (word, change) => {
      const other = Buffer.from(bytes);
      other.writeUInt32LE((other.readUInt32LE(word * 4) ^ change) >>> 0, word * 4);
      expect(wideSum(other)).not.toBe(sum);
    }),
    { numRuns: 300 },
  );
  for (const distance of [4, 64, 128, 512, 2048]) {
    const other = Buffer.from(bytes);
    bytes.copy(other, 0, distance, distance + 64);
    bytes.copy(other, distance, 0, 64);
    expect(wideSum(other), `exchanged at ${distance}`).not.toBe(sum);
  }
  // Two highest bits, alone and in one lane: what a plain product would miss.
  for (const [a, b] of [
    [0, 1],
    [0, 32],
    [5, 37],
  ] as const) {
    const other = Buffer.from(bytes);
    for (const word of [a, b])
      other.writeUInt32LE((other.readUInt32LE(word * 4) ^ 0x80000000) >>> 0, word * 4);
    expect(wideSum(other)).not.toBe(sum);
  }
});
