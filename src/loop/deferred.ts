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

  /** Runs at most `limit` tasks, those included that are added meanwhile; returns whether there were any. */
  run(limit: number): boolean {
    let left = limit;
    for (; left > 0; left -= 1) {
      const task = this.#tasks[this.#next];
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
    return left < limit;
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
