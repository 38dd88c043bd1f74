import { pciRegion } from '../../vfio-user/constants.ts';
import { Fifo } from '../fifo.ts';

/** A write that has been answered and is still to be done. */
export interface DueWrite {
  readonly region: number;
  readonly offset: number;
  readonly count: number;
  readonly source: Buffer;
}

/** What is to be done in order: a write, or something else. */
export type Due = DueWrite | (() => void);

interface Entry {
  readonly due: Due;
  /** A write to configuration space that did not wait for those before it. */
  done: boolean;
}

/** What is due, in order. Writes to configuration space can be taken before their turn. */
export class DueQueue {
  readonly #all = new Fifo<Entry>();
  /** Those of `#all` that are writes to configuration space and not done. */
  readonly #config = new Fifo<Entry>();
  /** Entries of `#all` that are done. */
  #done = 0;

  /** How many are still to be done. */
  get length(): number {
    return this.#all.length - this.#done;
  }

  push(due: Due): void {
    const entry = { due, done: false };
    this.#all.push(entry);
    if (isConfig(due)) this.#config.push(entry);
  }

  /** The next one. */
  take(): Due | undefined {
    for (let next = this.#all.take(); next !== undefined; next = this.#all.take()) {
      if (!next.done) {
        // The first of both.
        if (isConfig(next.due)) this.#config.take();
        return next.due;
      }
      this.#done--;
    }
    return undefined;
  }

  /** The next write to configuration space, whatever is before it. */
  takeConfig(): Due | undefined {
    const next = this.#config.take();
    if (next === undefined) return undefined;
    next.done = true;
    this.#done++;
    // While the device waits, they come and go behind all others: nothing is left of them.
    while (this.#all.last?.done === true) {
      this.#all.dropLast();
      this.#done--;
    }
    return next.due;
  }

  clear(): void {
    this.#all.clear();
    this.#config.clear();
    this.#done = 0;
  }
}

function isConfig(due: Due): boolean {
  return typeof due === 'object' && due.region === pciRegion.config;
}
