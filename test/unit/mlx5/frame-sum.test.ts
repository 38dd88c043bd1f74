import fc from 'fast-check';
import { expect, it } from 'vitest';
import { sum } from '../../../device-models/mlx5/frame/checksum.ts';
import { naiveSum } from './frames.ts';

it('carries as often as there is something to carry', () => {
  expect(sum(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0, 1), 0, 6)).toBe(1);
});

it('sums short and long ranges, wherever they lie, as the obvious way does', () => {
  const byte = fc.constantFrom(0, 0, 1, 0x7f, 0xfe, 0xff, 0xff, 0xff);
  fc.assert(
    fc.property(fc.array(byte, { maxLength: 120 }), fc.nat(7), (bytes, shift) => {
      const memory = Uint8Array.of(...Array<number>(shift).fill(0x55), ...bytes, 0x55, 0x55, 0x55, 0x55);
      const found = sum(memory, shift, shift + bytes.length);
      expect(found).toBe(naiveSum(Uint8Array.from(bytes)));
    }),
    { numRuns: 300 },
  );
});
