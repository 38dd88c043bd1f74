import type { DeviceHost } from '../../src/device/index.ts';
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
  readonly #host: DeviceHost;
  readonly #eqs: EventQueues;
  readonly #counters: Counters;

  constructor(host: DeviceHost, up: boolean, eqs: EventQueues, counters: Counters) {
    this.#host = host;
    this.#up = up;
    this.reported = up;
    this.#eqs = eqs;
    this.#counters = counters;
  }

  get up(): boolean {
    return this.#up;
  }

  /** The cable: from the port, or from the operator. */
  set(up: boolean): void {
    if (this.#up === up) return;
    this.#up = up;
    if (!up) this.#counters.count('linkDown');
    this.report();
  }

  /** Sends the PORT_CHANGE event if the guest's knowledge is out of date, and the device may send one now. */
  report(): void {
    if (this.reported === this.#up || !this.#host.mayInitiate || !this.#host.pci.busMaster) return;
    this.reported = this.#up;
    const subType = this.#up ? portChange.ACTIVE : portChange.DOWN;
    this.#eqs.publish(eventType.PORT_CHANGE, subType, portWord, (portByte << 24) >>> 0);
  }
}
