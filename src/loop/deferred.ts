import type { ErrorHandler } from './types.ts';

interface Task {
  readonly run: () => void;
  readonly onError: ErrorHandler | undefined;
}

/** Tasks put off until the current callback has returned; first in, first out. */
export class DeferredTasks {
  readonly #report: (error: unknown, onError: ErrorHandler | undefined) => void;
  #tasks: Task[] = [];
  #next = 0;

  constructor(report: (error: unknown, onError: ErrorHandler | undefined) => void) {
    this.#report = report;
  }

  get waiting(): boolean {
    return this.#next < this.#tasks.length;
  }

  add(run: () => void, onError: ErrorHandler | undefined): void {
    this.#tasks.push({ run, onError });
  }

  /**
   * Runs at most `limit` of the tasks that wait now; returns whether there were any. What they add is for another time: work
   * that goes on by deferring its next stretch lets others come in between.
   */
  run(limit: number): boolean {
    const count = Math.min(limit, this.#tasks.length - this.#next);
    for (let left = count; left > 0; left -= 1) {
      const task = this.#tasks[this.#next];
      // One of them may have closed the loop.
      if (task === undefined) break;
      this.#next += 1;
      try {
        task.run();
      } catch (error) {
        this.#report(error, task.onError);
      }
    }
    if (this.#next === this.#tasks.length) this.clear();
    else if (this.#next > COMPACT_AFTER) this.#compact();
    return count > 0;
  }

  clear(): void {
    if (this.#tasks.length > 0) this.#tasks = [];
    this.#next = 0;
  }

  #compact(): void {
    this.#tasks = this.#tasks.slice(this.#next);
    this.#next = 0;
  }
}

/** Finished tasks are dropped once this many have gathered in front of waiting ones. */
const COMPACT_AFTER = 1024;
