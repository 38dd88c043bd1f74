import { engineIsQuiet } from '../engine.ts';
import { type NodeLoop, NodeTurn, nodeLoop, TimerFd } from '../posix/index.ts';

const NS_PER_MS = 1e6;

/**
 * Longest that Node's loop goes without a turn while callbacks of the device loop run, but for the first few of
 * them, which may each add as much. What those leave for Node (ticks, promises, sockets that it has not begun to watch) shows nowhere from outside.
 */
const TURN_EVERY_NS = 1 * NS_PER_MS;
/** The same while the process is to be quiet: as long as all that it has to do in a blackout. */
const QUIET_TURN_EVERY_NS = 10 * NS_PER_MS;

function turnEveryNs(): number {
  return engineIsQuiet() ? QUIET_TURN_EVERY_NS : TURN_EVERY_NS;
}

/**
 * So many rounds of a burst wait by a timeout of their own; then the burst's timer is set. Most bursts are no longer than
 * that, and setting a timer in a process that has just been woken is slow: its code is cold.
 */
const TIMED_ROUNDS = 3;

/**
 * Alternates between the device loop and Node's. The device loop has the thread, and sleeps in its own
 * epoll set, of which Node's backend descriptor is a member; Node gets a turn when that is readable, when a
 * timer or an immediate of Node's is due, and once after a burst of device work. An idle process
 * sleeps in one place, with no periodic wake-up.
 */
export class NodeService {
  readonly #round: (timeoutNs: number) => boolean;
  readonly #finished: () => void;
  readonly #loop: NodeLoop = nodeLoop();
  readonly #turn: NodeTurn;
  #wanted = false;
  /** Node's callbacks may have opened a socket, which its loop begins to watch in the turn after only. */
  #turnAgain = true;
  /**
   * Ends a long burst. A timer of its own, set once for each: a timeout with every sleep of the burst means
   * setting a hardware timer every time, which was measured at half of a register access.
   */
  readonly #burst = new TimerFd();
  #burstOver = false;
  #stopped = false;

  /**
   * @param round runs the device loop once, waiting at most so many nanoseconds (negative: for ever);
   *   returns whether a callback has run
   * @param finished called once after `stop()`
   */
  constructor(round: (timeoutNs: number) => boolean, finished: () => void) {
    this.#round = round;
    this.#finished = finished;
    this.#turn = new NodeTurn(() => this.#serve());
  }

  /** Node's descriptor, for the device loop to watch. */
  get fd(): number {
    return this.#loop.fd;
  }

  /** Descriptor of the timer that ends a burst, for the device loop to watch. */
  get burstFd(): number {
    return this.#burst.fd;
  }

  /** The burst's time is over. */
  burstOver(): void {
    this.#burst.arm(0);
    this.#burstOver = true;
  }

  /** Node's descriptor is readable. */
  wanted(): void {
    this.#wanted = true;
    this.#turnAgain = true;
  }

  start(): void {
    this.#turn.schedule();
  }

  /** Ends the alternation; to be called from a callback of either loop. */
  stop(): void {
    this.#stopped = true;
  }

  /** Has the thread until Node needs it. */
  #serve(): void {
    if (!this.#stopped) this.#serveDevices();
    if (!this.#stopped) {
      this.#turn.schedule();
      return;
    }
    this.#turn.close();
    this.#finished();
    this.#burst.close();
  }

  #serveDevices(): void {
    this.#wanted = false;
    if (this.#turnAgain) {
      this.#turnAgain = false;
      this.#round(0);
      return;
    }
    let rounds = 0;
    this.#burstOver = false;
    while (!this.#stopped) {
      const wait = this.#longest(rounds);
      const ran = this.#round(wait);
      if (this.#wanted || this.#burstOver || wait === 0) return;
      if (ran) {
        rounds += 1;
        if (rounds === TIMED_ROUNDS) this.#burst.arm(turnEveryNs());
      } else if (rounds > 0 && rounds < TIMED_ROUNDS) return;
    }
  }

  /** Nanoseconds that the next round may wait, after so many that had something to do. */
  #longest(rounds: number): number {
    if (rounds === 0) return this.#nodeTimeoutNs();
    return rounds < TIMED_ROUNDS ? turnEveryNs() : -1;
  }

  #nodeTimeoutNs(): number {
    const timeoutMs = this.#loop.timeout();
    return timeoutMs < 0 ? -1 : timeoutMs * NS_PER_MS;
  }
}
