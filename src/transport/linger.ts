/**
 * Tries to receive the next request right after a read was answered, before the loop is gone back to: a guest that
 * reads registers one after another asks again within some microseconds, about what a sleep and a wake-up cost.
 */
const tries = 32;
/** Lingering in vain so often in a row ends it; it is tried again after that many reads, and later and later. */
const failures = 2;
const retry = { first: 32, last: 4096 } as const;

/** Decides how long to look for the next request before the loop sleeps, by whether that has paid lately. */
export class Linger {
  #failed = 0;
  #pause = 0;
  #retry: number = retry.first;

  /** Calls `receive` until it returns true or it has been tried enough; returns whether it did. */
  for(receive: () => boolean): boolean {
    if (this.#failed >= failures) {
      this.#pause -= 1;
      if (this.#pause > 0) return false;
      this.#failed = failures - 1;
    }
    for (let left = tries; left > 0; left--) {
      if (!receive()) continue;
      this.#failed = 0;
      this.#retry = retry.first;
      return true;
    }
    this.#failed += 1;
    this.#pause = this.#retry;
    this.#retry = Math.min(2 * this.#retry, retry.last);
    return false;
  }
}
