/** Tries after one read, some microseconds in all: about what a sleep and a wake-up cost. */
const tries = 32;
/** In vain so often in a row ends it; it is tried again after so many reads, and later and later. */
const failures = 2;
const pause = { first: 32, last: 4096 } as const;

/**
 * Looking for the next request right after a read was answered, before going back to the device loop: a guest that
 * reads registers one after another asks again at once. The native server does the same (session.ts there).
 */
export class Linger {
  #failed = 0;
  #left = 0;
  #next: number = pause.first;

  /** Tries `look` over and over, if that has paid lately; returns whether it found something. */
  after(look: () => boolean): boolean {
    if (this.#failed >= failures) {
      this.#left -= 1;
      if (this.#left > 0) return false;
      this.#failed = failures - 1;
    }
    for (let i = 0; i < tries; i++) {
      if (!look()) continue;
      this.#failed = 0;
      this.#next = pause.first;
      return true;
    }
    this.#failed += 1;
    this.#left = this.#next;
    this.#next = Math.min(2 * this.#next, pause.last);
    return false;
  }
}
