/**
 * What we ask of V8. It compiles hot functions on threads of its own and collects garbage when it likes: work that can wait, and while
 * a guest stands still on a machine with few CPUs must. It was found to take half of the CPU time of a blackout.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Node runs V8's Maglev, which `--opt` says nothing of, from V8 13 on (Node 24). Where it is off by default it must stay so. */
const hasMaglev = Number.parseInt(process.versions.v8, 10) >= 13;

type Collector = (options: { readonly type: 'minor' }) => void;

let collect: Collector | undefined;
let holders = 0;

/**
 * Clears the young generation, so that it is some time until that has to be done again, and queues no function of this process for
 * optimization until what is returned has been called (twice does no harm). What is optimized already, or under way, stays so. The
 * device loop leaves Node's turns for later meanwhile. Several may hold at a time.
 */
export function quietEngine(): () => void {
  holders += 1;
  if (holders === 1) optimize(false);
  collectYoung();
  let held = true;
  return () => {
    if (!held) return;
    held = false;
    holders -= 1;
    if (holders === 0) optimize(true);
  };
}

/** Whether somebody holds this process to be quiet. */
export function engineIsQuiet(): boolean {
  return holders > 0;
}

/** Compiled code is kept however long it has not run: what runs once in an hour should not be slow then. For servers. */
export function keepCompiledCode(): void {
  setFlagsFromString('--no-flush-bytecode');
}

function optimize(on: boolean): void {
  const prefix = on ? '--' : '--no-';
  setFlagsFromString(`${prefix}opt`);
  if (hasMaglev) setFlagsFromString(`${prefix}maglev`);
}

function collectYoung(): void {
  if (collect === undefined) {
    // The function is only put into contexts that are made after the flag.
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as Collector;
    setFlagsFromString('--no-expose-gc');
  }
  collect({ type: 'minor' });
}
