/**
 * V8 compiles hot functions on threads of its own. That work can wait, and while a guest stands still on a machine with few CPUs
 * it must: it was found to take half of the CPU time of a blackout.
 */
import { setFlagsFromString } from 'node:v8';

let holders = 0;

/**
 * No function of this process is queued for optimization until the function that is returned has been called (twice does no
 * harm). What is optimized already, or under way, stays so. Several may hold at a time.
 */
export function holdOptimizer(): () => void {
  holders += 1;
  if (holders === 1) setFlagsFromString('--no-opt');
  let held = true;
  return () => {
    if (!held) return;
    held = false;
    holders -= 1;
    if (holders === 0) setFlagsFromString('--opt');
  };
}

/** Compiled code is kept however long it has not run: what runs once in an hour should not be slow then. For servers. */
export function keepCompiledCode(): void {
  setFlagsFromString('--no-flush-bytecode');
}
