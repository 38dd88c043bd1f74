import type { Logger } from './log.ts';

/** Lines at once, and lines a second after that, for what a peer can provoke at will. */
const burst = 20;
const linesPerSecond = 5;
const nsPerSecond = 1e9;

/** A log for what a client or a guest can provoke: a flood of bad messages must not become a flood of lines. */
export class LimitedLog {
  readonly #log: Logger;
  readonly #now: () => number;
  #tokens = burst;
  #last: number;
  #suppressed = 0;

  /** @param now monotonic nanoseconds */
  constructor(log: Logger, now: () => number) {
    this.#log = log;
    this.#now = now;
    this.#last = now();
  }

  warn(details: object, message: string): void {
    if (this.allows()) this.#log.warn(details, message);
  }

  debug(details: object, message: string): void {
    this.#log.debug(details, message);
  }

  /** Whether one more line may be written, and takes it for written. */
  allows(): boolean {
    const now = this.#now();
    this.#tokens = Math.min(burst, this.#tokens + ((now - this.#last) / nsPerSecond) * linesPerSecond);
    this.#last = now;
    if (this.#tokens < 1) {
      this.#suppressed += 1;
      return false;
    }
    this.#tokens -= 1;
    if (this.#suppressed > 0) {
      this.#log.warn({ suppressed: this.#suppressed }, 'more lines like the following were left out');
      this.#suppressed = 0;
    }
    return true;
  }
}
