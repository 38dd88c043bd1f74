import { availableParallelism } from 'node:os';

/**
 * Longest busy-wait when nothing else is said. A guest's next register access comes within about 20 µs
 * while its driver is at work; longer gaps are better slept through.
 */
export const DEFAULT_BUSY_WAIT_NS = availableParallelism() > 1 ? 50_000 : 0;

/** Below this a busy-wait does not even cover one poll of everything. */
const MINIMUM_NS = 1_000;

/** Rounds of each kind that are compared, and rounds that the verdict then holds for. */
export const TRIAL_ROUNDS = 32;
export const HOLD_ROUNDS = 4096;
/** A round counts as at most so many times the limit: one in which somebody was preempted says little. */
const CLIP = 4;

/** So many busy-waits are looked at together, and so many interruptions of them are too many. */
export const CHECK_SPINS = 64;
export const CONTENDED = 8;

function involuntarySwitches(): number {
  return process.resourceUsage().involuntaryContextSwitches;
}

/**
 * How long to busy-wait before sleeping. Two questions, both answered by measuring:
 *
 * How long? A sleep that was over sooner than the limit would have been worth waiting out, and the next wait
 * covers twice its length; each longer sleep halves the wait, until an idle device does not busy-wait at
 * all. (KVM's halt polling works on the same evidence: Documentation/virt/kvm/halt-polling.rst.)
 *
 * At all? With a processor to spare, busy-waiting makes rounds shorter by two wake-ups. Without one it keeps
 * the client from running, and rounds get longer (measured: three times). So from time to time a few rounds
 * are spent either way, and the shorter kind is kept. Short rounds are not everything, though: where each frame is met
 * by a busy-wait, many short rounds do less than a few long ones, and the time is missed by whoever makes the
 * frames or takes them. So nothing is kept that the kernel had to interrupt for others (measured with three busy
 * processes on two processors: 1.1 to 1.6 times the packets without busy-waiting).
 */
export class BusyWait {
  readonly #limit: number;
  readonly #always: boolean;
  #budget = 0;
  #spinning = true;
  #phase: 'spin' | 'sleep' | 'hold' = 'spin';
  #left = TRIAL_ROUNDS;
  #total = { spin: 0, sleep: 0 };
  #spins = 0;
  #interruptedBefore = 0;
  readonly #interruptions: () => number;

  /**
   * @param limitNs 0: never busy-wait
   * @param interruptions how often this process had to give way to another so far
   * @param always for `limitNs` each time, without asking any of that: there is a processor for it
   */
  constructor(limitNs: number, interruptions: () => number = involuntarySwitches, always = false) {
    this.#limit = limitNs;
    this.#always = always;
    this.#interruptions = interruptions;
    if (limitNs === 0) this.#spinning = false;
  }

  /** Nanoseconds to busy-wait now. */
  get budget(): number {
    if (this.#always) return this.#limit;
    return this.#spinning ? this.#budget : 0;
  }

  /** Whether `round` wants to know how long rounds take. */
  get measuring(): boolean {
    return this.#limit > 0 && !this.#always;
  }

  /** A descriptor became ready `waitedNs` after waiting began, in spite of the busy-wait. */
  slept(waitedNs: number): void {
    if (waitedNs > this.#limit) this.idle();
    else this.#budget = Math.max(this.#budget, Math.min(this.#limit, 2 * waitedNs));
  }

  /** A sleep ended without work. */
  idle(): void {
    this.#budget = this.#budget < 2 * MINIMUM_NS ? 0 : this.#budget / 2;
  }

  /** A busy-wait is over, whether it found something or not. */
  spun(): void {
    if (this.#always) return;
    if (this.#spins === 0) this.#interruptedBefore = this.#interruptions();
    this.#spins += 1;
    if (this.#spins <= CHECK_SPINS) return;
    this.#spins = 0;
    if (this.#interruptions() - this.#interruptedBefore >= CONTENDED) this.#hold(false);
  }

  /** Waiting for work and doing it took `ns` altogether. */
  round(ns: number): void {
    // Without a budget both kinds are the same.
    if (this.#budget === 0) return;
    if (this.#phase !== 'hold') this.#total[this.#phase] += Math.min(ns, CLIP * this.#limit);
    this.#left -= 1;
    if (this.#left === 0) this.#nextPhase();
  }

  #hold(spinning: boolean): void {
    this.#phase = 'hold';
    this.#left = HOLD_ROUNDS;
    this.#spinning = spinning;
    // What happened in between says nothing about the next busy-waits.
    this.#spins = 0;
  }

  #nextPhase(): void {
    this.#left = TRIAL_ROUNDS;
    if (this.#phase === 'spin') {
      this.#phase = 'sleep';
      this.#spinning = false;
    } else if (this.#phase === 'sleep') {
      this.#hold(this.#total.spin < this.#total.sleep);
    } else {
      this.#phase = 'spin';
      this.#spinning = true;
      this.#total = { spin: 0, sleep: 0 };
    }
  }
}
