import { Fifo } from '../fifo.ts';

/** Requests that may wait for the end of a wait for DMA. */
const maxRequests = 65536;
const maxBytes = 64 * 1024 * 1024;

interface QueuedRequest {
  readonly bytes: number;
  run(): void;
}

/** What arrived while the device waited for DMA and may not overtake what it does: kept in order, within bounds. */
export class QueuedRequests {
  readonly #queue = new Fifo<QueuedRequest>();
  #bytes = 0;
  #draining = false;

  get length(): number {
    return this.#queue.length;
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
    const next = this.#queue.take();
    this.#bytes -= next?.bytes ?? 0;
    return next;
  }

  clear(): void {
    this.#queue.clear();
    this.#bytes = 0;
  }
}
