import type { Counters } from './counters.ts';
import type { EventQueues } from './eq.ts';
import { eqePortState, eventType, portChange } from './prm/index.ts';

/** The only port, in the high nibble of its byte. */
const portByte = 1 << 4;
/** The port is the first byte of its 32-bit word of event data. */
const portWord = eqePortState.byte('port');

/** State of the link to the network, and the event that tells the guest. */
export class Link {
  /** What the guest was told last, by an event or because nothing has changed since power-on. */
  reported: boolean;
  #up: boolean;
  readonly #eqs: EventQueues;
  readonly #counters: Counters;

  constructor(up: boolean, eqs: EventQueues, counters: Counters) {
    this.#up = up;
    this.reported = up;
    this.#eqs = eqs;
    this.#counters = counters;
  }

  get up(): boolean {
    return this.#up;
  }

  /** The cable: from the port, or from the operator. */
  set(up: boolean, mayInitiate: boolean): void {
    if (this.#up === up) return;
    this.#up = up;
    if (!up) this.#counters.count('linkDown');
    if (mayInitiate) this.report();
  }

  /** Sends the PORT_CHANGE event if the guest's knowledge is out of date. */
  report(): void {
    if (this.reported === this.#up) return;
    this.reported = this.#up;
    const subType = this.#up ? portChange.ACTIVE : portChange.DOWN;
    this.#eqs.publish(eventType.PORT_CHANGE, subType, portWord, (portByte << 24) >>> 0);
  }
}
