import type { DeviceHost } from '../../src/device/index.ts';
import { limits } from './limits.ts';
import { isDmaRefusal, PagedRing, writeOwnedEntry } from './memory.ts';
import { DeviceObject, ObjectTable } from './objects.ts';
import { eqe, eqeBytes, eventType } from './prm/index.ts';

const counterMask = 0xffffff;
const eqeTypeByte = eqe.byte('type');
const eqeSubTypeByte = eqe.byte('sub_type');
const eqeDataByte = eqe.byte('data');
const eqeOwnerByte = eqe.byte('owner');
export const logEqeBytes = 6;

/** `eqc.status`. */
export const eqStatus = { OK: 0, EQ_WRITE_FAILURE: 0xa } as const;
/** `eqc.st`. */
export const eqState = { ARMED: 9, FIRED: 10 } as const;

/** What CREATE_EQ says; all of it checked. */
export interface EventQueueSettings {
  readonly pages: readonly number[];
  readonly logSize: number;
  /** MSI-X vector. */
  readonly intr: number;
  readonly uarPage: number;
  /** Events 0 to 31 and 32 to 63 that are reported here. */
  readonly maskLow: number;
  readonly maskHigh: number;
}

/** An event queue. `pi` and `ci` count entries modulo 2^24. */
export class EventQueue extends DeviceObject {
  readonly settings: EventQueueSettings;
  readonly ring: PagedRing;
  pi = 0;
  ci = 0;
  armed = false;
  status: number = eqStatus.OK;

  constructor(id: number, settings: EventQueueSettings) {
    super(id);
    this.settings = settings;
    this.ring = new PagedRing(settings.pages, settings.logSize, logEqeBytes);
  }

  /** Whether events of `type` other than completions come here. */
  reports(type: number): boolean {
    const { maskLow, maskHigh } = this.settings;
    return ((type < 32 ? maskLow >>> type : maskHigh >>> (type - 32)) & 1) === 1;
  }
}

/** All event queues and the interrupts behind them. */
export class EventQueues {
  readonly table = new ObjectTable<EventQueue>('eq', 1, limits.eqs, 127);
  readonly #host: DeviceHost;
  readonly #entry = Buffer.alloc(eqeBytes);
  #commandEq: EventQueue | undefined;

  constructor(host: DeviceHost) {
    this.#host = host;
  }

  add(eq: EventQueue): void {
    this.table.add(eq);
    this.#findCommandEq();
  }

  remove(id: number): void {
    this.table.delete(id);
    this.#findCommandEq();
  }

  /** EQs were put into the table by a load. */
  loaded(): void {
    this.#findCommandEq();
  }

  clear(): void {
    this.table.clear();
    this.#commandEq = undefined;
  }

  /** Where command completions are reported, once such an EQ exists. */
  get commandEq(): EventQueue | undefined {
    return this.#commandEq;
  }

  /** Of several it is the one of lowest number, whichever came first: the order does not travel. */
  #findCommandEq(): void {
    this.#commandEq = undefined;
    for (const eq of this.table.values()) {
      if (eq.reports(eventType.CMD) && eq.id < (this.#commandEq?.id ?? Number.POSITIVE_INFINITY)) {
        this.#commandEq = eq;
      }
    }
  }

  /** Reports an event to every EQ that asked for its type; `value` is the 32-bit word at `offset` of its data. */
  publish(
    type: number,
    subType: number,
    offset: number,
    value: number,
    offset2 = offset,
    value2 = value,
  ): void {
    for (const eq of this.table.values()) {
      if (eq.reports(type)) this.post(eq, type, subType, offset, value, offset2, value2);
    }
  }

  /**
   * Writes one EQE and fires the EQ's vector if it is armed. Whoever has an event sees to it that bus mastering is on,
   * and keeps the event until then: it has the state that travels. An EQ that is full loses the event and says so in
   * its status, as the PRM's overrun; a driver that returns its entries never sees that.
   */
  post(
    eq: EventQueue,
    type: number,
    subType: number,
    offset: number,
    value: number,
    offset2 = offset,
    value2 = value,
  ): void {
    if (((eq.pi - eq.ci) & counterMask) >= eq.ring.size) {
      this.#fail(eq, 'overrun');
      return;
    }
    const entry = this.#entry;
    entry.fill(0);
    entry[eqeTypeByte] = type;
    entry[eqeSubTypeByte] = subType;
    entry.writeUInt32BE(value >>> 0, eqeDataByte + offset);
    entry.writeUInt32BE(value2 >>> 0, eqeDataByte + offset2);
    entry[eqeOwnerByte] = (eq.pi >>> eq.ring.logSize) & 1;
    try {
      writeOwnedEntry(this.#host.dma, eq.ring.address(eq.pi), entry);
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      this.#fail(eq, error);
      return;
    }
    eq.pi = (eq.pi + 1) & counterMask;
    this.evaluate(eq);
  }

  #fail(eq: EventQueue, reason: unknown): void {
    if (eq.status === eqStatus.OK) this.#host.log.warn({ eqn: eq.id, reason }, 'event queue failed');
    eq.status = eqStatus.EQ_WRITE_FAILURE;
  }

  /** The guest moved its consumer index, and perhaps asks for an interrupt when there is more. */
  doorbell(eqn: number, ci: number, arm: boolean): void {
    const eq = this.table.find(eqn);
    if (eq === undefined) return;
    eq.ci = ci & counterMask;
    if (arm) {
      eq.armed = true;
      this.evaluate(eq);
    }
  }

  /** Fires an armed EQ that has something to report; an MSI-X message waits for bus mastering as any write does. */
  evaluate(eq: EventQueue): void {
    if (!eq.armed || eq.pi === eq.ci) return;
    if (!this.#host.mayInitiate || !this.#host.pci.busMaster) return;
    eq.armed = false;
    this.#host.interrupts.trigger(eq.settings.intr);
  }

  /** After a pause: everything that arrived in the meantime. */
  evaluateAll(): void {
    for (const eq of this.table.values()) this.evaluate(eq);
  }
}
