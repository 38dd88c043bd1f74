import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { describe, expect, it } from 'vitest';
import { engineIsQuiet, quietEngine } from '../../../src/engine.ts';

setFlagsFromString('--allow-natives-syntax');
// Parsed only now, with the flag on.
const statusOf = new Function('f', 'return %GetOptimizationStatus(f)') as (f: unknown) => number;
const optimizeNow = new Function(
  'f',
  '%PrepareFunctionForOptimization(f); f(1); %OptimizeFunctionOnNextCall(f); f(1);',
) as (f: unknown) => void;
const callsInARow = 5000;
const fewRows = 30;
/** For a machine on which other things run. */
const enoughRows = 2000;

/** A function of its own each time: what is optimized stays so. */
function makeHot(seed: number): (n: number) => number {
  return new Function(
    'n',
    `let s = ${seed}; for (let i = 0; i < 40; i++) s = (s * 31 + n + i) | 0; return s;`,
  ) as (n: number) => number;
}

/** V8's `OptimizationStatus` bits of a function that is optimized, whichever version of V8 this is (src/runtime/runtime.h). */
function bitsOfOptimized(): number {
  const [fresh, hot] = [makeHot(3), makeHot(4)];
  fresh(1);
  optimizeNow(hot);
  return statusOf(hot) & ~statusOf(fresh);
}
const optimized = bitsOfOptimized();

/**
 * Calls it until it is optimized; the rows of calls that took, or undefined if it never was. V8 does it on a thread of its own, which
 * has to get a processor in between.
 */
async function rowsUntilOptimized(hot: (n: number) => number, rows: number): Promise<number | undefined> {
  for (let row = 1; row <= rows; row++) {
    for (let call = 0; call < callsInARow; call++) hot(call);
    if ((statusOf(hot) & optimized) !== 0) return row;
    await delay(1);
  }
  return undefined;
}

describe('quietEngine', () => {
  it('keeps hot functions from being optimized until the last holder lets go', async () => {
    expect(engineIsQuiet()).toBe(false);
    // Control: the same function is, without it.
    const needed =
      (await rowsUntilOptimized(makeHot(1), enoughRows)) ?? expect.fail('it was never optimized');
    const [first, second] = [quietEngine(), quietEngine()];
    first();
    first();
    const hot = makeHot(2);
    expect(await rowsUntilOptimized(hot, 2 * needed + fewRows)).toBeUndefined();
    second();
    expect(await rowsUntilOptimized(hot, enoughRows)).toBeDefined();
  });
});
