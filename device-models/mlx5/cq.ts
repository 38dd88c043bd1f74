import type { DeviceHost, Timer } from '../../src/device/index.ts';
import type { EventQueues } from './eq.ts';
import { limits } from './limits.ts';
import { isDmaRefusal, PagedRing, writeOwnedEntry } from './memory.ts';
import { DeviceObject, ObjectTable } from './objects.ts';
import { cqErrorSyndrome, cqe, cqeBytes, eqeComp, eqeCqError, eventType } from './prm/index.ts';

const counterMask = 0xffffff;
const compCqn = eqeComp.byte('cqn');
const errorCqn = eqeCqError.byte('cqn');
/** The syndrome is the last byte of its word. */
const errorSyndromeWord = eqeCqError.byte('syndrome') & ~3;
const ownerByte = cqe.byte('op_own');
const nanosecondsPerMicrosecond = 1000;
export const logCqeBytes = 6;
/**
 * How long the event for frames that went out waits for company: usually the event for an answer, whose handler looks at
 * the send CQ as well. Far below what a sender may have under way without noticing, and well above what a guest takes
 * for one interrupt.
 */
const sentEventDelayNs = 150_000;

/** `cqc.status`. */
export const cqStatus = { OK: 0, OVERFLOW: 9, WRITE_FAIL: 0xa } as const;
/** `cqc.st`: how the CQ is armed. */
export const cqState = { SOLICITED_ARMED: 6, ARMED: 9, FIRED: 10 } as const;

/** What CREATE_CQ says and nothing changes later. */
export interface CompletionQueueSettings {
  readonly pages: readonly number[];
  readonly logSize: number;
  readonly logPageSize: number;
  readonly eqn: number;
  readonly uarPage: number;
  /** Doorbell record: consumer index, arm copy. */
  readonly dbr: number;
  /** Overrun ignored. */
  readonly oi: boolean;
}

/** A completion queue. Counters are modulo 2^24. */
export class CompletionQueue extends DeviceObject {
  readonly settings: CompletionQueueSettings;
  readonly ring: PagedRing;
  pi = 0;
  /** Consumer index as last read from the doorbell record or given with an arm. */
  ci = 0;
  armed = false;
  solicitedOnly = false;
  /** Consumer index that the guest armed with. */
  armCi = 0;
  status: number = cqStatus.OK;
  /** Moderation: no two events within `period` microseconds unless `maxCount` completions came. 0: none. */
  period = 0;
  maxCount = 0;
  periodMode = 0;
  /** Completions since the last event, and when that was. */
  unreported = 0;
  lastEvent = Number.NEGATIVE_INFINITY;
  /** Has told of a frame that came in, which somebody may wait for; a CQ of send queues only never does. */
  urgent = false;
  timer: Timer | undefined;

  constructor(id: number, settings: CompletionQueueSettings) {
    super(id);
    this.settings = settings;
    this.ring = new PagedRing(settings.pages, settings.logSize, logCqeBytes, settings.logPageSize);
  }
}

/** All completion queues. */
export class CompletionQueues {
  readonly table = new ObjectTable<CompletionQueue>('cq', 0x40, limits.cqs, 4 * limits.cqs);
  /** The entry that the next `post` writes; its user fills it after `blank()`. */
  readonly entry = Buffer.alloc(cqeBytes);
  readonly #entryWords = new Uint32Array(this.entry.buffer, this.entry.byteOffset, cqeBytes / 4);
  /** Called when the guest arms a CQ: the moment when it has returned receive buffers. */
  onArm: (cq: CompletionQueue) => void = () => {};
  readonly #host: DeviceHost;
  readonly #eqs: EventQueues;

  constructor(host: DeviceHost, eqs: EventQueues) {
    this.#host = host;
    this.#eqs = eqs;
  }

  blank(): Buffer {
    // `Buffer.fill` costs several times as much.
    this.#entryWords.fill(0);
    return this.entry;
  }

  remove(id: number): void {
    this.table.delete(id).timer?.close();
  }

  clear(): void {
    for (const cq of this.table.values()) cq.timer?.close();
    this.table.clear();
  }

  /** Whether a CQE can be written now; looks at the doorbell record only when the last known state says no. */
  hasRoom(cq: CompletionQueue): boolean {
    if (cq.status !== cqStatus.OK) return false;
    if (((cq.pi - cq.ci) & counterMask) < cq.ring.size || cq.settings.oi) return true;
    try {
      cq.ci = this.#host.dma.readUint32BE(cq.settings.dbr) & counterMask;
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      return false;
    }
    return ((cq.pi - cq.ci) & counterMask) < cq.ring.size;
  }

  /**
   * Writes the prepared `entry`. `opcodeNibble` is the CQE's opcode; owner and format are added here.
   * @param solicited what a CQ tells of that is armed for solicited completions only: failures, and what was sent so
   * @returns false when the CQ failed (overrun, memory): the guest has got a CQ_ERROR event then
   */
  post(cq: CompletionQueue, opcodeNibble: number, solicited = false): boolean {
    if (!this.hasRoom(cq)) {
      this.#fail(cq, cqStatus.OVERFLOW, cqErrorSyndrome.OVERRUN);
      return false;
    }
    this.entry[ownerByte] = (opcodeNibble << 4) | ((cq.pi >>> cq.ring.logSize) & 1);
    try {
      writeOwnedEntry(this.#host.dma, cq.ring.address(cq.pi), this.entry);
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      this.#fail(cq, cqStatus.WRITE_FAIL, cqErrorSyndrome.ACCESS);
      return false;
    }
    cq.pi = (cq.pi + 1) & counterMask;
    cq.unreported++;
    if (cq.armed && (solicited || !cq.solicitedOnly)) this.evaluate(cq);
    return true;
  }

  #fail(cq: CompletionQueue, status: number, eventSyndrome: number): void {
    if (cq.status !== cqStatus.OK) return;
    cq.status = status;
    this.#host.log.warn({ cqn: cq.id, status }, 'completion queue failed');
    this.#eqs.publish(eventType.CQ_ERROR, 0, errorCqn, cq.id, errorSyndromeWord, eventSyndrome);
  }

  /** The guest wants an event for the next completion after `ci`; if there is one already, now. */
  arm(cqn: number, ci: number, solicitedOnly: boolean): void {
    const cq = this.table.find(cqn);
    if (cq === undefined) return;
    cq.ci = ci & counterMask;
    cq.armCi = cq.ci;
    cq.armed = true;
    cq.solicitedOnly = solicitedOnly;
    // Seen without an event: what is completed next gets its full time.
    if (cq.pi === cq.armCi) cq.timer?.cancel();
    this.onArm(cq);
    this.evaluate(cq);
  }

  /** Sends the event of an armed CQ that has completions, now or as late as its moderation says. */
  evaluate(cq: CompletionQueue): void {
    if (!this.#mayNotify(cq)) return;
    if (cq.period !== 0 && !(cq.maxCount !== 0 && cq.unreported >= cq.maxCount)) {
      const now = this.#host.now();
      const due = cq.lastEvent + cq.period * nanosecondsPerMicrosecond;
      const start = cq.urgent ? due : Math.max(due, now + sentEventDelayNs);
      if (now < start) {
        cq.timer ??= this.#host.timer(() => this.#moderationOver(cq));
        if (!cq.timer.armed) cq.timer.arm(start - now);
        return;
      }
    }
    this.#notify(cq);
  }

  #moderationOver(cq: CompletionQueue): void {
    if (this.#mayNotify(cq)) this.#notify(cq);
  }

  /** An EQE is written by DMA: without bus mastering the CQ stays armed until `evaluateAll`. */
  #mayNotify(cq: CompletionQueue): boolean {
    if (!cq.armed || cq.pi === cq.armCi) return false;
    return this.#host.mayInitiate && this.#host.pci.busMaster;
  }

  #notify(cq: CompletionQueue): void {
    const eq = this.#eqs.table.find(cq.settings.eqn);
    if (eq === undefined) return;
    cq.armed = false;
    cq.unreported = 0;
    if (cq.period !== 0) cq.lastEvent = this.#host.now();
    cq.timer?.cancel();
    this.#eqs.post(eq, eventType.COMP, 0, compCqn, cq.id);
  }

  evaluateAll(): void {
    for (const cq of this.table.values()) this.evaluate(cq);
  }
}
