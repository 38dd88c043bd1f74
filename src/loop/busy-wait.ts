import { availableParallelism } from 'node:os';

/**
 * Longest busy-wait when nothing else is said. A guest's next register access comes within about 20 µs
 * while its driver is at work; longer gaps are better slept through.
 */
export const DEFAULT_BUSY_WAIT_NS = availableParallelism() > 1 ? 50_000 : 0;

/** Below this a busy-wait does not even cover one poll of everything. */
const MINIMUM_NS = 1_000;

/**
 * How long to busy-wait before sleeping. Decided by what sleeping turned out to be: a sleep that was over
 * sooner than the limit would have been worth waiting out, and the next wait covers twice its length; each
 * longer sleep halves the wait, until an idle device does not busy-wait at all. (KVM's halt polling
 * works on the same evidence: Documentation/virt/kvm/halt-polling.rst.)
 */
export class BusyWait {
  readonly #limit: number;
  #budget = 0;

  /** @param limitNs 0: never busy-wait */
  constructor(limitNs: number) {
    this.#limit = limitNs;
  }

  /** Nanoseconds to busy-wait now. */
  get budget(): number {
    return this.#budget;
  }

  /** A device descriptor became ready `waitedNs` after waiting began, in spite of the busy-wait. */
  slept(waitedNs: number): void {
    if (waitedNs <= this.#limit) {
      this.#budget = Math.max(this.#budget, Math.min(this.#limit, 2 * waitedNs));
      return;
    }
    this.idle();
  }

  /** A sleep ended without work for the device. */
  idle(): void {
    this.#budget = this.#budget < 2 * MINIMUM_NS ? 0 : this.#budget / 2;
  }
}
