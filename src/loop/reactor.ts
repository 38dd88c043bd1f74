import { Epoll } from '../posix/index.ts';
import { BusyWait, DEFAULT_BUSY_WAIT_NS } from './busy-wait.ts';
import { DeferredTasks } from './deferred.ts';
import { NodeService } from './node-service.ts';
import { TimerQueue } from './timers.ts';
import { type ErrorHandler, type Reactor, ready, type Timer, type Watch } from './types.ts';

export interface ReactorOptions {
  /**
   * Most nanoseconds of busy-waiting before a sleep, 0 for none; how much of it is used adapts, and an idle
   * loop sleeps at once. Default: 50 µs, or 0 on a machine with one processor.
   */
  readonly busyWaitNs?: number;
  /**
   * Busy-waits for all of `busyWaitNs` after the last work, whether that pays or not: for a loop that has a
   * processor to itself. What sleeps is slow for a while when it wakes up (bench/README.md, "net").
   */
  readonly busyWaitAlways?: boolean;
  /**
   * Takes exceptions of callbacks that have no handler of their own. Without it they become uncaught
   * exceptions of the process, outside the loop.
   */
  readonly onError?: ErrorHandler;
}

const NS_PER_MS = 1e6;
/** Deferred tasks run after one callback, before the other descriptors have their turn. */
const TASKS_PER_CALLBACK = 64;
/** Polls between two looks at the descriptors and the clock while busy-waiting. */
const POLLS_PER_LOOK = 16;
/** Times in a row that pollers may find work before the descriptors are looked at. */
const FINDS_PER_LOOK = 32;

interface FdWatch {
  readonly fd: number;
  readonly callback: (readiness: number) => void;
  readonly onError: ErrorHandler | undefined;
  interest: number;
}

interface Poller {
  readonly poll: () => boolean;
  readonly onError: ErrorHandler | undefined;
}

/** The reactor over epoll. One per thread is the idea, more work as well. */
class EpollReactor implements Reactor {
  readonly #epoll = new Epoll();
  readonly #watches = new Map<number, FdWatch>();
  /** Which watch holds a descriptor number, by token: a late `close()` must not hit its successor. */
  readonly #tokens = new Map<number, number>();
  readonly #timers = new TimerQueue(() => this.now());
  readonly #deferred = new DeferredTasks((error, onError) => this.#report(error, onError));
  readonly #onError: ErrorHandler | undefined;
  readonly #busyWait: BusyWait;
  /** Replaced, never changed, so that a round goes on over the list it began with. */
  #pollers: readonly Poller[] = [];
  #node: NodeService | undefined;
  #lastToken = 0;
  #finds = 0;
  #inRound = false;
  #closed = false;

  constructor(options: ReactorOptions) {
    this.#onError = options.onError;
    const { busyWaitNs = DEFAULT_BUSY_WAIT_NS, busyWaitAlways } = options;
    this.#busyWait = new BusyWait(busyWaitNs, undefined, busyWaitAlways);
  }

  now(): number {
    return Number(process.hrtime.bigint());
  }

  watch(fd: number, interest: number, callback: (readiness: number) => void, onError?: ErrorHandler): Watch {
    const token = this.#newToken();
    const entry: FdWatch = { fd, callback, onError, interest: 0 };
    this.#watches.set(token, entry);
    const modify = (wanted: number) => {
      if (this.#watches.get(token) === entry) this.#setInterest(entry, token, wanted);
    };
    try {
      modify(interest);
    } catch (error) {
      this.#watches.delete(token);
      throw error;
    }
    const close = () => {
      if (this.#watches.get(token) !== entry) return;
      modify(0);
      this.#watches.delete(token);
    };
    return { modify, close };
  }

  timer(callback: () => void, onError?: ErrorHandler): Timer {
    return this.#timers.create(() => {
      try {
        callback();
      } catch (error) {
        this.#report(error, onError);
      }
      this.#deferred.run(TASKS_PER_CALLBACK);
    });
  }

  defer(task: () => void, onError?: ErrorHandler): void {
    this.#deferred.add(task, onError);
  }

  follow(task: () => void, onError?: ErrorHandler): void {
    this.#deferred.addNext(task, onError);
  }

  poller(poll: () => boolean, onError?: ErrorHandler): Watch {
    const entry: Poller = { poll, onError };
    const close = () => {
      this.#pollers = this.#pollers.filter((other) => other !== entry);
    };
    const modify = (interest: number) => {
      close();
      if (interest !== 0) this.#pollers = [...this.#pollers, entry];
    };
    modify(ready.read);
    let closed = false;
    return {
      modify: (interest) => {
        if (!closed) modify(interest);
      },
      close: () => {
        closed = true;
        close();
      },
    };
  }

  turn(timeoutMs: number): void {
    this.#round(timeoutMs < 0 ? -1 : timeoutMs * NS_PER_MS);
  }

  run(): Promise<void> {
    if (this.#closed || this.#node !== undefined)
      return Promise.reject(new Error(this.#closed ? 'the reactor is closed' : 'the reactor runs already'));
    return new Promise((resolve) => {
      const node = new NodeService(
        (timeoutNs) => this.#round(timeoutNs),
        () => {
          watch.close();
          burst.close();
          this.#node = undefined;
          resolve();
        },
      );
      const watch = this.watch(node.fd, ready.read, () => node.wanted());
      const burst = this.watch(node.burstFd, ready.read, () => node.burstOver());
      this.#node = node;
      node.start();
    });
  }

  stop(): void {
    this.#node?.stop();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.stop();
    this.#watches.clear();
    this.#tokens.clear();
    this.#timers.clear();
    this.#deferred.clear();
    this.#pollers = [];
    // Inside a callback the round still needs the set.
    if (!this.#inRound) this.#epoll.close();
  }

  /** Returns whether a callback has run. Waits at most `limitNs`, negative: for ever. */
  #round(limitNs: number): boolean {
    if (this.#inRound) throw new Error('the device loop can’t be turned from inside one of its callbacks');
    if (this.#closed) return false;
    this.#inRound = true;
    try {
      const fired = this.#timers.runDue();
      const tasks = this.#deferred.run(TASKS_PER_CALLBACK);
      if (this.#closed) return true;
      const limit = this.#limit(fired || tasks ? 0 : limitNs);
      const found = this.#wait(limit);
      const late = !this.#closed && this.#timers.runDue();
      return found || fired || tasks || late;
    } finally {
      this.#inRound = false;
      if (this.#closed) this.#epoll.close();
    }
  }

  /** How long may be waited: not at all with tasks left, not beyond the next timer. */
  #limit(limitNs: number): number {
    if (limitNs === 0 || this.#deferred.waiting) return 0;
    const next = this.#timers.next();
    if (next === undefined) return limitNs;
    return limitNs < 0 ? next : Math.min(limitNs, next);
  }

  #wait(limitNs: number): boolean {
    const start = this.now();
    if (limitNs === 0) return this.#collect();
    const budget = limitNs < 0 ? this.#busyWait.budget : Math.min(limitNs, this.#busyWait.budget);
    let found = false;
    if (budget > 0) {
      found = this.#spin(start, budget);
      this.#busyWait.spun();
    }
    if (!found) found = this.#sleep(start, limitNs, budget);
    if (found && this.#busyWait.measuring) this.#busyWait.round(this.now() - start);
    return found;
  }

  #sleep(start: number, limitNs: number, spent: number): boolean {
    if (this.#closed) return true;
    const count = this.#epoll.wait(limitNs < 0 ? -1 : Math.max(0, limitNs - spent));
    const waited = this.now() - start;
    const found = count > 0 && this.#dispatch(count);
    if (found) this.#busyWait.slept(waited);
    else this.#busyWait.idle();
    return found;
  }

  /** Polls for `budget` nanoseconds; returns whether anything was found. */
  #spin(start: number, budget: number): boolean {
    do {
      for (let times = 0; times < POLLS_PER_LOOK && this.#pollers.length > 0; times += 1)
        if (this.#poll()) return true;
      if (this.#closed || this.#collect()) return true;
    } while (this.now() - start < budget);
    return false;
  }

  #poll(): boolean {
    let found = false;
    for (const poller of this.#pollers) {
      try {
        if (poller.poll()) found = true;
      } catch (error) {
        found = true;
        this.#report(error, poller.onError);
      }
    }
    if (!found) return false;
    this.#deferred.run(TASKS_PER_CALLBACK);
    this.#finds += 1;
    if (this.#finds >= FINDS_PER_LOOK && !this.#closed) this.#collect();
    return true;
  }

  #collect(): boolean {
    this.#finds = 0;
    const count = this.#epoll.wait(0);
    return count > 0 && this.#dispatch(count);
  }

  #dispatch(count: number): boolean {
    let called = false;
    for (let index = 0; index < count && !this.#closed; index += 1) {
      // An earlier callback of this round may have closed or paused this watch.
      const entry = this.#watches.get(this.#epoll.token(index));
      if (entry === undefined || entry.interest === 0) continue;
      const readiness = this.#epoll.readiness(index) & (entry.interest | ready.hangup);
      if (readiness === 0) continue;
      called = true;
      try {
        entry.callback(readiness);
      } catch (error) {
        this.#report(error, entry.onError);
      }
      this.#deferred.run(TASKS_PER_CALLBACK);
    }
    return called;
  }

  #setInterest(entry: FdWatch, token: number, interest: number): void {
    if (interest === entry.interest) return;
    if (interest === 0) {
      // The descriptor may have been closed, and its number be somebody else's by now.
      if (this.#tokens.get(entry.fd) === token) {
        this.#epoll.remove(entry.fd);
        this.#tokens.delete(entry.fd);
      }
    } else if (entry.interest === 0) {
      this.#epoll.add(entry.fd, interest, token);
      this.#tokens.set(entry.fd, token);
    } else {
      this.#epoll.modify(entry.fd, interest, token);
    }
    entry.interest = interest;
  }

  #newToken(): number {
    do this.#lastToken = (this.#lastToken + 1) >>> 0;
    while (this.#watches.has(this.#lastToken));
    return this.#lastToken;
  }

  #report(error: unknown, onError: ErrorHandler | undefined): void {
    const handler = onError ?? this.#onError;
    try {
      if (handler === undefined) throw error;
      handler(error);
    } catch (unhandled) {
      process.nextTick(() => {
        throw unhandled;
      });
    }
  }
}

/** A device loop of its own, on the calling thread (main or worker). */
export function createReactor(options: ReactorOptions = {}): Reactor {
  return new EpollReactor(options);
}
