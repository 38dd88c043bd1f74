import type { Reactor, Timer } from '../loop/types.ts';
import { rarpFrame } from './ethernet.ts';

/** Announcements after the first: frames get lost, and a bridge that is just starting forgets (as QEMU's announce timer). */
const REPEATS = 4;
const FIRST_NS = 50e6;
const STEP_NS = 100e6;
/** Addresses that are repeated; those beyond are sent once. More than the unicast list of a NIC holds. */
const MAX_ADDRESSES = 256;

/** Tells the network where MAC addresses live, several times each, in the order in which they were given. */
export class Announcer {
  readonly #timer: Timer;
  readonly #send: (frame: Buffer) => void;
  readonly #frames = new Map<string, Buffer>();
  #left = 0;

  constructor(reactor: Reactor, send: (frame: Buffer) => void) {
    this.#timer = reactor.timer(() => this.#again());
    this.#send = send;
  }

  /** Sends it now, and again together with all that are still being repeated. */
  announce(mac: Uint8Array, vlan?: number): void {
    const frame = rarpFrame(mac, vlan);
    const key = frame.toString('latin1');
    if (this.#frames.has(key) || this.#frames.size < MAX_ADDRESSES) this.#frames.set(key, frame);
    this.#left = REPEATS;
    this.#timer.arm(FIRST_NS);
    this.#send(frame);
  }

  /** Nothing is repeated any more: the addresses are about to live elsewhere. */
  stop(): void {
    this.#timer.cancel();
    this.#frames.clear();
  }

  close(): void {
    this.stop();
    this.#timer.close();
  }

  #again(): void {
    // Stopping meanwhile empties the list and thereby ends this, too.
    for (const frame of this.#frames.values()) this.#send(frame);
    if (--this.#left === 0) this.stop();
    else if (this.#frames.size > 0) this.#timer.arm(FIRST_NS + (REPEATS - this.#left) * STEP_NS);
  }
}
