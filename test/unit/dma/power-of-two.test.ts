import { expect, it } from 'vitest';
import { isPowerOfTwo } from '../../../src/power-of-two.ts';

it('knows the powers of two of those beside them, at both ends', () => {
  for (let exponent = 0; exponent <= 52; exponent += 1) {
    const power = 2 ** exponent;
    expect(isPowerOfTwo(power), `2^${exponent}`).toBe(true);
    if (exponent > 1)
      expect([isPowerOfTwo(power - 1), isPowerOfTwo(power + 1)], `2^${exponent}`).toEqual([false, false]);
  }
  for (const other of [0, -1, -2, 0.5, 1.5, 3, Number.NaN, Number.POSITIVE_INFINITY, Number.MAX_SAFE_INTEGER])
    expect(isPowerOfTwo(other), String(other)).toBe(false);
});
