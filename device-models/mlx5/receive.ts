import type { DeviceHost, Timer } from '../../src/device/index.ts';
import type { Counters } from './counters.ts';
import type { CompletionQueue } from './cq.ts';
import { FrameInfo, macHeaderBytes, parseFrame } from './frame/parse.ts';
import { checkReceived, ReceiveChecksum } from './frame/transport-checksum.ts';
import { limits } from './limits.ts';
import type { ObjectTable } from './objects.ts';
import { delivery, type ReceiveQueue, type ReceiveQueues } from './rq.ts';
import { fillMatch } from './steering/match.ts';
import { type Steering, SteeringResult } from './steering/tables.ts';
import { dispatchType, type Rqt, RssResult, rssHash, type Tir } from './steering/tir.ts';
import { queueState } from './work-queue.ts';

/**
 * When a frame that waits for a buffer is offered again: soon, then after twice as long each time up to the second. A guest
 * that has caught up arms its CQ, which is heard of at once.
 */
const firstRetryNs = 200_000;
const lastRetryNs = 20_000_000;
/**
 * How long a queue may go without a buffer before its frames are dropped. The guest's processors are threads of a busy
 * machine, and what was kept through a migration comes at once: neither says that the guest has given the queue up. While
 * a frame waits, all that follow it wait in the network, in order; a dead queue must not stop them for ever.
 */
export const patienceNs = 5_000_000_000;

/** What the receive path needs of the rest of the device. */
export interface ReceiveParts {
  readonly steering: Steering;
  readonly tirs: ObjectTable<Tir>;
  readonly rqts: ObjectTable<Rqt>;
  readonly rqs: ReceiveQueues;
  readonly counters: Counters;
  /** Whether frames are taken at all, and the longest that is (bytes without FCS). */
  readonly accepts: () => boolean;
  readonly maxFrame: () => number;
  /** There is room again: the port may hand over what it keeps. */
  readonly ready: () => void;
}

class Frame {
  bytes: Uint8Array = new Uint8Array(0);
  readonly info = new FrameInfo();
  readonly checksum = new ReceiveChecksum();
  readonly rss = new RssResult();
  flowTag = 0;
}

/**
 * From the port to receive queues: flow tables, RSS, delivery. No more is taken from the port than the guest has posted
 * buffers for: a frame whose queue has none waits at the port, and the network's queues hold what follows (and drop and
 * count what is beyond their bounds). When the queue gets none for long, its frames count as out-of-buffer.
 */
export class ReceivePath {
  readonly #host: DeviceHost;
  readonly #parts: ReceiveParts;
  readonly #frame = new Frame();
  readonly #steered = new SteeringResult();
  readonly #retry: Timer;
  /** The queue that a frame waits for, since when. */
  #waitingFor: ReceiveQueue | undefined;
  #waitingSince = 0;
  #retryNs = firstRetryNs;
  /** Queues that were waited for in vain; they get no patience until they have buffers again. */
  readonly #starved = new Set<number>();
  #busy = false;
  #closed = false;

  constructor(host: DeviceHost, parts: ReceiveParts) {
    this.#host = host;
    this.#parts = parts;
    this.#retry = host.timer(() => this.#offerAgain());
  }

  close(): void {
    this.#closed = true;
    this.#retry.close();
  }

  /** Runs again: the time that it stood still is none in which the guest has failed to post buffers. */
  wake(): void {
    this.#waitingFor = undefined;
    this.#parts.ready();
  }

  /**
   * All queues are gone. The frame that waited for one of them must not hold up those behind it: nothing else would make
   * the port offer it again. Deferred, for this is the middle of a command or of a reset.
   */
  clear(): void {
    const waited = this.#waitingFor !== undefined;
    this.#waitingFor = undefined;
    this.#starved.clear();
    this.#retry.cancel();
    if (waited && !this.#closed) this.#host.defer(() => this.#offerAgain());
  }

  #offerAgain(): void {
    if (this.#host.mayInitiate && !this.#closed) this.#parts.ready();
  }

  /** The guest armed a CQ, which it does after it has refilled the queues behind it. */
  armed(cq: CompletionQueue): void {
    if (this.#waitingFor?.settings.cqn === cq.id && !this.#busy && this.#host.mayInitiate)
      this.#parts.ready();
  }

  /** A frame from the port. False: not now, offer it again. */
  receive(bytes: Uint8Array): boolean {
    if (!this.#host.mayInitiate) return false;
    // A frame that this device sends to itself must not disturb one that is being received.
    if (this.#busy) return true;
    this.#busy = true;
    try {
      return this.#receive(bytes);
    } finally {
      this.#busy = false;
    }
  }

  #receive(bytes: Uint8Array): boolean {
    const { counters } = this.#parts;
    const frame = this.#frame;
    const { info } = frame;
    if (bytes.length < macHeaderBytes) return true;
    parseFrame(bytes, bytes.length, info);
    if (!this.#parts.accepts() || !this.#host.pci.busMaster) {
      counters.received(info.cast, bytes.length);
      counters.count('rxDiscards');
      return true;
    }
    if (bytes.length > this.#parts.maxFrame()) {
      counters.received(info.cast, bytes.length);
      counters.count('rxTooLong');
      return true;
    }
    const { steering } = this.#parts;
    fillMatch(bytes, info, steering.packet);
    steering.steer(this.#steered);
    const { tirs } = this.#steered;
    frame.bytes = bytes;
    frame.flowTag = this.#steered.flowTag;
    let delivered = false;
    let checked = false;
    for (const tirn of tirs) {
      const rq = this.#queueFor(tirn, frame);
      if (rq === undefined) continue;
      if (tirs.length === 1 && this.#mustWait(rq)) return false;
      if (!checked) checkReceived(bytes, info, frame.checksum);
      checked = true;
      if (this.#deliver(rq, frame)) delivered = true;
    }
    counters.received(info.cast, bytes.length);
    if (delivered) counters.accepted(info.cast, bytes.length);
    else if (tirs.length === 0 && !this.#steered.dropped) counters.count('rxFiltered');
    return true;
  }

  #queueFor(tirn: number, frame: Frame): ReceiveQueue | undefined {
    const tir = this.#parts.tirs.find(tirn);
    if (tir === undefined) return undefined;
    if (tir.settings.dispType === dispatchType.DIRECT) {
      frame.rss.hash = 0;
      frame.rss.type = 0;
      return this.#parts.rqs.table.find(tir.settings.inlineRqn);
    }
    const rqt = this.#parts.rqts.find(tir.settings.indirectTable);
    if (rqt === undefined) return undefined;
    rssHash(tir, frame.bytes, frame.info, frame.rss);
    return this.#parts.rqs.table.find(rqt.select(frame.rss.hash));
  }

  #deliver(rq: ReceiveQueue, frame: Frame): boolean {
    const { counters, rqs } = this.#parts;
    switch (rqs.deliver(rq, frame)) {
      case delivery.done:
        return true;
      case delivery.noBuffer: {
        counters.count('rxOutOfBuffer');
        const counter = rqs.counter(rq);
        if (counter !== undefined) counter.outOfBuffer++;
        return false;
      }
      default:
        counters.count('rxDiscards');
        return false;
    }
  }

  /** Whether a frame for `rq` should wait at the port for a buffer. */
  #mustWait(rq: ReceiveQueue): boolean {
    const { rqs } = this.#parts;
    if (rqs.hasBuffer(rq)) {
      this.#starved.delete(rq.id);
      if (this.#waitingFor === rq) this.#waitingFor = undefined;
      return false;
    }
    // A queue that is not in use drops its frames.
    if (rq.state !== queueState.RDY || !rq.fed || this.#starved.has(rq.id)) return false;
    const now = this.#host.now();
    if (this.#waitingFor !== rq) {
      this.#waitingFor = rq;
      this.#waitingSince = now;
      this.#retryNs = firstRetryNs;
    } else if (now - this.#waitingSince > patienceNs) {
      this.#waitingFor = undefined;
      if (this.#starved.size >= limits.rqs) this.#starved.clear();
      this.#starved.add(rq.id);
      return false;
    }
    this.#retry.arm(this.#retryNs);
    this.#retryNs = Math.min(2 * this.#retryNs, lastRetryNs);
    return true;
  }
}
