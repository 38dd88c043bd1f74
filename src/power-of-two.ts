/** Whether `value` is 1, 2, 4 … up to 2^52. Not by the logarithm alone: that is rounded, and whole for 2^49 + 1, too. */
export function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && 2 ** Math.round(Math.log2(value)) === value;
}
