/** Requests that may wait for the end of a wait for DMA. */
const maxRequests = 65536;
const maxBytes = 64 * 1024 * 1024;

interface QueuedRequest {
  readonly bytes: number;
  run(): void;
}

/** What arrived while the device waited for DMA and may not overtake what it does: kept in order, within bounds. */
export class QueuedRequests {
  /** Those before `#first` have been run. Taking each from the front would move all of the others, each time. */
  #queue: (QueuedRequest | undefined)[] = [];
  #first = 0;
  #bytes = 0;
  #draining = false;

  get length(): number {
    return this.#queue.length - this.#first;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Keeps `run` for later; returns false when there is no more room. `bytes`: what it holds on to. */
  add(bytes: number, run: () => void): boolean {
    if (this.length >= maxRequests || this.#bytes + bytes > maxBytes) return false;
    this.#bytes += bytes;
    this.#queue.push({ bytes, run });
    return true;
  }

  /** Runs everything in order, including what is added meanwhile. */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    try {
      for (let next = this.#take(); next !== undefined; next = this.#take()) next.run();
    } finally {
      this.#draining = false;
    }
  }

  #take(): QueuedRequest | undefined {
    const next = this.#queue[this.#first];
    if (next === undefined) return undefined;
    this.#queue[this.#first++] = undefined;
    this.#bytes -= next.bytes;
    // What has been run goes at once when it is half: each request is moved once at most, however long a drain is refilled.
    if (2 * this.#first >= this.#queue.length) {
      this.#queue.splice(0, this.#first);
      this.#first = 0;
    }
    return next;
  }

  clear(): void {
    this.#queue = [];
    this.#first = 0;
    this.#bytes = 0;
  }
}
