import { randomInt } from 'node:crypto';

const WAYS = 4;
const FREE = -1;
/** Seconds between two searches for old addresses of a port that has used up its share. */
const SEARCH_SECONDS = 1;

export interface ForwardingOptions {
  /** Addresses kept; rounded up to a power of two. */
  readonly entries: number;
  /** Seconds without a frame after which an address is forgotten (IEEE 802.1Q 8.8.3 recommends 300). */
  readonly ageSeconds: number;
  /** Addresses that one port may hold, so that a port which makes them up can't push out the others'. */
  readonly perPort: number;
}

/**
 * Which port a MAC address was last seen at. As hardware does it: sets of four, the oldest of a set gives way,
 * so memory and time of every operation are bounded and nothing is allocated. VLANs share one table.
 *
 * A MAC is given as its first 16 and last 32 bits. Time is in seconds of any clock that goes forward.
 */
export class ForwardingTable {
  readonly #mask: number;
  readonly #high: Uint16Array;
  readonly #low: Uint32Array;
  readonly #port: Int32Array;
  readonly #seen: Float64Array;
  readonly #held = new Map<number, number>();
  readonly #searched = new Map<number, number>();
  readonly #age: number;
  readonly #perPort: number;
  /** So that nobody outside can choose addresses which fall into one set. */
  readonly #seed = randomInt(1, 2 ** 31) | 1;
  #size = 0;

  constructor(options: ForwardingOptions) {
    let sets = 1;
    while (sets * WAYS < options.entries) sets *= 2;
    this.#mask = sets - 1;
    const slots = sets * WAYS;
    this.#high = new Uint16Array(slots);
    this.#low = new Uint32Array(slots);
    this.#port = new Int32Array(slots).fill(FREE);
    this.#seen = new Float64Array(slots);
    this.#age = options.ageSeconds;
    this.#perPort = options.perPort;
  }

  /** Addresses held, those past their age included. */
  get size(): number {
    return this.#size;
  }

  /** The port of a MAC, or -1. */
  lookup(high: number, low: number, now: number): number {
    const slot = this.#find(high, low);
    if (slot === FREE || now - (this.#seen[slot] ?? 0) > this.#age) return FREE;
    return this.#port[slot] ?? FREE;
  }

  /** The port at which a MAC was seen last, however long ago, as far as that is still known; or -1. */
  last(high: number, low: number): number {
    const slot = this.#find(high, low);
    return slot === FREE ? FREE : (this.#port[slot] ?? FREE);
  }

  /** A frame from this MAC came in at `port`. False: the port holds its share of addresses already, and the MAC is at no port. */
  learn(high: number, low: number, port: number, now: number): boolean {
    const known = this.#find(high, low);
    if (known !== FREE && this.#port[known] === port) {
      this.#seen[known] = now;
      return true;
    }
    // Wherever it was known to be, it is there no more.
    if (known !== FREE) this.#drop(known);
    if ((this.#held.get(port) ?? 0) >= this.#perPort) {
      // Looking through the whole table for every frame would be a way to keep the switch busy.
      if (now - (this.#searched.get(port) ?? -Infinity) < SEARCH_SECONDS) return false;
      this.#searched.set(port, now);
      this.#expire(port, now);
      if ((this.#held.get(port) ?? 0) >= this.#perPort) return false;
    }
    const slot = known === FREE ? this.#victim(this.#set(high, low)) : known;
    this.#drop(slot);
    this.#high[slot] = high;
    this.#low[slot] = low;
    this.#port[slot] = port;
    this.#seen[slot] = now;
    this.#held.set(port, (this.#held.get(port) ?? 0) + 1);
    this.#size++;
    return true;
  }

  /** All addresses of `from` are at `to` from now on. */
  move(from: number, to: number): void {
    if (from === to) return;
    for (let slot = 0; slot < this.#port.length; slot++) if (this.#port[slot] === from) this.#port[slot] = to;
    this.#held.set(to, (this.#held.get(to) ?? 0) + (this.#held.get(from) ?? 0));
    this.#held.delete(from);
  }

  /** Forgets all addresses of `port`. */
  forget(port: number): void {
    for (let slot = 0; slot < this.#port.length; slot++) if (this.#port[slot] === port) this.#drop(slot);
    this.#held.delete(port);
    this.#searched.delete(port);
  }

  #expire(port: number, now: number): void {
    for (let slot = 0; slot < this.#port.length; slot++)
      if (this.#port[slot] === port && now - (this.#seen[slot] ?? 0) > this.#age) this.#drop(slot);
  }

  #drop(slot: number): void {
    const port = this.#port[slot] ?? FREE;
    if (port === FREE) return;
    this.#port[slot] = FREE;
    this.#held.set(port, (this.#held.get(port) ?? 1) - 1);
    this.#size--;
  }

  #set(high: number, low: number): number {
    let hash = Math.imul(low ^ this.#seed, 0x9e3779b1) ^ Math.imul(high + this.#seed, 0x85ebca6b);
    hash ^= hash >>> 15;
    return ((Math.imul(hash, 0x2c1b3c6d) >>> 12) & this.#mask) * WAYS;
  }

  #find(high: number, low: number): number {
    const first = this.#set(high, low);
    for (let slot = first; slot < first + WAYS; slot++)
      if (this.#low[slot] === low && this.#high[slot] === high && this.#port[slot] !== FREE) return slot;
    return FREE;
  }

  /** A free slot of the set, or the one not heard of for longest. */
  #victim(first: number): number {
    let oldest = first;
    for (let slot = first; slot < first + WAYS; slot++) {
      if (this.#port[slot] === FREE) return slot;
      if ((this.#seen[slot] ?? 0) < (this.#seen[oldest] ?? 0)) oldest = slot;
    }
    return oldest;
  }
}
