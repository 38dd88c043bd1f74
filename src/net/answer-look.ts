/** Looking in vain so often in a row ends it; it is tried again after that many frames, and later and later. */
const failures = 2;
const retry = { first: 32, last: 4096 } as const;
/** Frames that follow each other faster are busy traffic, whose answers are better taken many at a time. */
const rareNs = 1_000_000;

/**
 * Whether to look for an answer as soon as a frame has been sent. A host that answers by itself (ping, a TCP
 * acknowledgement) has done so before the system call returns; taking the answer at once saves the way through the loop,
 * whose code is cold when frames are rare. Where nothing answers, a look is one system call in vain, so that is given up.
 */
export class AnswerLook {
  #failed = 0;
  #pause = 0;
  #retry: number = retry.first;
  #last = Number.NEGATIVE_INFINITY;

  /** Asked once for each frame that was sent, at `now` (monotonic nanoseconds). */
  worthwhile(now: number): boolean {
    const rare = now - this.#last >= rareNs;
    this.#last = now;
    if (!rare) return false;
    if (this.#failed < failures) return true;
    this.#pause -= 1;
    if (this.#pause > 0) return false;
    this.#failed = failures - 1;
    return true;
  }

  /** What a look has shown. */
  looked(found: boolean): void {
    if (found) {
      this.#failed = 0;
      this.#retry = retry.first;
      return;
    }
    this.#failed += 1;
    if (this.#failed < failures) return;
    this.#pause = this.#retry;
    this.#retry = Math.min(2 * this.#retry, retry.last);
  }
}
