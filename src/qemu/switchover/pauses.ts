/**
 * Sleeps that can all be ended at once, without an exception: an `AbortSignal` makes an error with a stack for each, which was seen to
 * take a millisecond of a blackout.
 */
export class Pauses {
  readonly #sleeping = new Map<NodeJS.Timeout, () => void>();
  #over = false;

  /** Sleeps for `ms`, or until `end`, and no longer after it. */
  sleep(ms: number): Promise<void> {
    if (this.#over) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#sleeping.delete(timer);
        resolve();
      }, ms);
      this.#sleeping.set(timer, resolve);
    });
  }

  end(): void {
    this.#over = true;
    for (const [timer, resolve] of this.#sleeping) {
      clearTimeout(timer);
      resolve();
    }
    this.#sleeping.clear();
  }
}
