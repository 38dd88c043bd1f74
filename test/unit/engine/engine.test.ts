import { setFlagsFromString } from 'node:v8';
import { describe, expect, it } from 'vitest';
import { quietEngine } from '../../../src/engine.ts';

setFlagsFromString('--allow-natives-syntax');
// Parsed only now, with the flag on.
const statusOf = new Function('f', 'return %GetOptimizationStatus(f)') as (f: unknown) => number;
/** V8's `OptimizationStatus::kOptimized` (src/runtime/runtime.h). */
const optimized = 1 << 4;
const callsInARow = 5000;
const enoughRows = 60;

/** A function of its own each time: what is optimized stays so. */
function makeHot(seed: number): (n: number) => number {
  return new Function(
    'n',
    `let s = ${seed}; for (let i = 0; i < 40; i++) s = (s * 31 + n + i) | 0; return s;`,
  ) as (n: number) => number;
}

/** Calls it until it is optimized; the rows of calls that took, or undefined if it never was. */
function rowsUntilOptimized(hot: (n: number) => number): number | undefined {
  for (let row = 1; row <= enoughRows; row++) {
    for (let call = 0; call < callsInARow; call++) hot(call);
    if ((statusOf(hot) & optimized) !== 0) return row;
  }
  return undefined;
}

describe('quietEngine', () => {
  it('keeps hot functions from being optimized until the last holder lets go', () => {
    // Control: the same function is, without it, long before the end.
    expect(rowsUntilOptimized(makeHot(1))).toBeLessThan(enoughRows / 2);
    const [first, second] = [quietEngine(), quietEngine()];
    first();
    first();
    const hot = makeHot(2);
    expect(rowsUntilOptimized(hot)).toBeUndefined();
    second();
    expect(rowsUntilOptimized(hot)).toBeDefined();
  });
});
