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
  /** In front of `#tasks`. */
  #urgent: Task[] = [];

  constructor(report: (error: unknown, onError: ErrorHandler | undefined) => void) {
    this.#report = report;
  }

  get waiting(): boolean {
    return this.#next < this.#tasks.length || this.#urgent.length > 0;
  }

  add(run: () => void, onError: ErrorHandler | undefined): void {
    this.#tasks.push({ run, onError });
  }

  /** As `add`, but in front of all that wait, and not put off to another time. */
  addNext(run: () => void, onError: ErrorHandler | undefined): void {
    this.#urgent.push({ run, onError });
  }

  /**
   * Runs at most `limit` of the tasks that wait now; returns whether there were any. What they add is for another time: work
   * that goes on by deferring its next stretch lets others come in between.
   */
  run(limit: number): boolean {
    const urgent = this.#runUrgent();
    const count = Math.min(limit, this.#tasks.length - this.#next);
    for (let left = count; left > 0; left -= 1) {
      const task = this.#tasks[this.#next];
      // One of them may have closed the loop.
      if (task === undefined) break;
      this.#next += 1;
      this.#runOne(task);
      this.#runUrgent();
    }
    if (this.#next === this.#tasks.length) this.#forget();
    else if (this.#next > COMPACT_AFTER) this.#compact();
    return urgent || count > 0;
  }

  clear(): void {
    this.#forget();
    this.#urgent = [];
  }

  #runUrgent(): boolean {
    if (this.#urgent.length === 0) return false;
    for (let task = this.#urgent.shift(); task !== undefined; task = this.#urgent.shift()) this.#runOne(task);
    return true;
  }

  #runOne(task: Task): void {
    try {
      task.run();
    } catch (error) {
      this.#report(error, task.onError);
    }
  }

  #forget(): void {
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
