/** What a watched descriptor is ready for; bits, so that a callback gets several at once. */
export const ready = {
  read: 1,
  write: 2,
  /** Peer closed or error: reading or writing will tell which. Always reported. */
  hangup: 4,
} as const;

/** A descriptor under watch. The watch does not own the descriptor: close it after `close()`. */
export interface Watch {
  /**
   * Changes what is waited for; a mask of `ready.read | ready.write`. 0 pauses: then not even a hang-up is
   * reported. For a poller, 0 pauses and anything else goes on.
   */
  modify(interest: number): void;
  /** Ends the watch; the callback is not called again, not even for readiness already collected. */
  close(): void;
}

/** A one-shot timer, re-armed at will. */
export interface Timer {
  /** Fires once, `delayNs` nanoseconds from now; replaces an earlier arming. */
  arm(delayNs: number): void;
  cancel(): void;
  readonly armed: boolean;
  /** Cancels and forgets the timer. */
  close(): void;
}

/** Where an exception goes that leaves a callback. */
export type ErrorHandler = (error: unknown) => void;

/**
 * The device loop: one thread that waits on descriptors and runs callbacks to completion. A callback
 * never waits for a promise. An exception that leaves a callback goes to that callback's `onError`
 * (or the reactor's), never out of the loop.
 */
export interface Reactor {
  /** Monotonic time in nanoseconds, as a number (exact to about 104 days of uptime). */
  now(): number;
  watch(fd: number, interest: number, callback: (readiness: number) => void, onError?: ErrorHandler): Watch;
  timer(callback: () => void, onError?: ErrorHandler): Timer;
  /**
   * Runs `task` after the current callback returns, before the loop waits again; first in, first out. What a task
   * defers runs after the next callback, or once the loop has looked at its descriptors.
   */
  defer(task: () => void, onError?: ErrorHandler): void;
  /**
   * Runs `task` right after the current callback or deferred task, before any other. Only for what must not be overtaken and does
   * not go on like this for ever.
   */
  follow(task: () => void, onError?: ErrorHandler): void;
  /**
   * Called over and over while the loop busy-waits; returns true when it found work. A server polls its
   * socket here, so that a request is answered without a sleep and a wake-up. It watches the socket as
   * well: the loop busy-waits only when that pays. See `busyWaitNs`.
   */
  poller(poll: () => boolean, onError?: ErrorHandler): Watch;
  /** Runs one round: deferred tasks, due timers, ready descriptors; waits at most `timeoutMs` (-1: for ever). */
  turn(timeoutMs: number): void;
  /**
   * Runs until `stop()`. Also serves Node's own loop (timers, signals, sockets) whenever it has
   * something to do, without costing the device loop latency.
   */
  run(): Promise<void>;
  stop(): void;
  close(): void;
}
