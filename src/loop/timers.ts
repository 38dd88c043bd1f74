import type { Timer } from './types.ts';

/** One timer of a `TimerQueue`. `position` is its place in the heap, -1 when it is not armed. */
class QueuedTimer implements Timer {
  readonly queue: TimerQueue;
  readonly fire: () => void;
  deadline = 0;
  /** Arming order, so that equal deadlines fire first in, first out. */
  order = 0;
  position = -1;
  closed = false;

  constructor(queue: TimerQueue, fire: () => void) {
    this.queue = queue;
    this.fire = fire;
  }

  get armed(): boolean {
    return this.position >= 0;
  }

  arm(delayNs: number): void {
    if (!(delayNs >= 0 && Number.isFinite(delayNs))) throw new RangeError(`timer delay of ${delayNs} ns`);
    if (!this.closed) this.queue.insert(this, delayNs);
  }

  cancel(): void {
    this.queue.remove(this);
  }

  close(): void {
    this.closed = true;
    this.queue.remove(this);
  }
}

/** Armed timers as a binary heap by deadline. Nothing is allocated by arming, firing or cancelling. */
export class TimerQueue {
  readonly #heap: QueuedTimer[] = [];
  readonly #now: () => number;
  #armings = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** @param fire must not throw */
  create(fire: () => void): Timer {
    return new QueuedTimer(this, fire);
  }

  /** Nanoseconds until the next deadline, 0 when it is past; undefined when nothing is armed. */
  next(): number | undefined {
    const first = this.#heap[0];
    return first === undefined ? undefined : Math.max(0, first.deadline - this.#now());
  }

  /**
   * Fires what is due; returns whether anything was. A timer that re-arms itself for now fires again in the
   * next call only, so that it can't keep the loop from its descriptors.
   */
  runDue(): boolean {
    if (this.#heap.length === 0) return false;
    const now = this.#now();
    const lastOrder = this.#armings;
    let fired = false;
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined || first.deadline > now || first.order > lastOrder) return fired;
      this.remove(first);
      first.fire();
      fired = true;
    }
  }

  clear(): void {
    for (const timer of this.#heap.splice(0)) timer.position = -1;
  }

  insert(timer: QueuedTimer, delayNs: number): void {
    this.remove(timer);
    timer.deadline = this.#now() + delayNs;
    this.#armings += 1;
    timer.order = this.#armings;
    timer.position = this.#heap.length;
    this.#heap.push(timer);
    this.#rise(timer);
  }

  remove(timer: QueuedTimer): void {
    const position = timer.position;
    if (position < 0) return;
    timer.position = -1;
    const last = this.#heap.pop();
    if (last === undefined || last === timer) return;
    this.#place(last, position);
    this.#rise(last);
    this.#sink(last);
  }

  #place(timer: QueuedTimer, position: number): void {
    this.#heap[position] = timer;
    timer.position = position;
  }

  #rise(timer: QueuedTimer): void {
    while (timer.position > 0) {
      const above = (timer.position - 1) >> 1;
      const parent = this.#heap[above];
      if (parent === undefined || !earlier(timer, parent)) return;
      this.#place(parent, timer.position);
      this.#place(timer, above);
    }
  }

  #sink(timer: QueuedTimer): void {
    for (;;) {
      const left = this.#heap[2 * timer.position + 1];
      const right = this.#heap[2 * timer.position + 2];
      const child = right !== undefined && left !== undefined && earlier(right, left) ? right : left;
      if (child === undefined || !earlier(child, timer)) return;
      const below = child.position;
      this.#place(child, timer.position);
      this.#place(timer, below);
    }
  }
}

function earlier(a: QueuedTimer, b: QueuedTimer): boolean {
  return a.deadline < b.deadline || (a.deadline === b.deadline && a.order < b.order);
}
