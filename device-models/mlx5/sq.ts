import type { DeviceHost, Timer } from '../../src/device/index.ts';
import type { Clock } from './clock.ts';
import type { Counters } from './counters.ts';
import type { CompletionQueue, CompletionQueues } from './cq.ts';
import { limits } from './limits.ts';
import { isDmaRefusal } from './memory.ts';
import type { MkeyCheck } from './mkeys.ts';
import { ObjectTable } from './objects.ts';
import type { Transmitter } from './offload/transmit.ts';
import { cqe, cqeOpcode, cqeSyndrome, errorCqe, wqebbBytes, wqeOpcode } from './prm/index.ts';
import { queueState, WorkQueue, type WorkQueueSettings } from './work-queue.ts';
import { parseControl, parseSend, SendWqe } from './wqe.ts';

/** Counters of a work queue are 16 bits. */
const indexMask = 0xffff;
/** The send counter is the second word of the doorbell record. */
const sendCounter = 4;
const qpnByte = cqe.byte('sop_drop_qpn');
const counterByte = cqe.byte('wqe_counter');
const timestampHigh = cqe.byte('timestamp_h');
const timestampLow = cqe.byte('timestamp_l');
const syndromeByte = errorCqe.byte('syndrome');
const headPull = limits.headerBytes;

/** What CREATE_SQ says. */
export interface SendQueueSettings {
  readonly wq: WorkQueueSettings;
  readonly cqn: number;
  /** TIS, or 0 for a queue that sends no frames (the driver's internal control queues). */
  readonly tisn: number;
  readonly flushInError: boolean;
  readonly minInlineMode: number;
  readonly userIndex: number;
  /** Left out for a queue that was saved by a server that kept no such thing. */
  readonly uarPage?: number;
}

/** A send queue. `ci` counts basic blocks. */
export class SendQueue extends WorkQueue<SendQueueSettings> {
  /** A doorbell was not carried out to its end: the queue waits for its turn, or for the device to run. */
  pending = false;

  protected override restart(): void {
    super.restart();
    this.pending = false;
  }
}

/** Executes send WQEs. */
export class SendQueues {
  readonly table = new ObjectTable<SendQueue>('sq', 0x100, limits.sqs, 8 * limits.sqs);
  readonly #host: DeviceHost;
  readonly #cqs: CompletionQueues;
  readonly #transmitter: Transmitter;
  readonly #clock: Clock;
  readonly #mkeys: MkeyCheck;
  readonly #counters: Counters;
  readonly #wqe = new SendWqe();
  readonly #bytes = Buffer.alloc(limits.sendWqeBytes);
  /** For memory that is reached by messages only; made when it is first needed. */
  #bounce: Buffer | undefined;
  readonly #continue: Timer;
  #running = false;
  /** The next frame fails, as if its WQE were malformed: for tests of a driver's recovery. */
  failNext = false;

  constructor(
    host: DeviceHost,
    parts: {
      cqs: CompletionQueues;
      transmitter: Transmitter;
      clock: Clock;
      mkeys: MkeyCheck;
      counters: Counters;
    },
  ) {
    this.#host = host;
    this.#cqs = parts.cqs;
    this.#transmitter = parts.transmitter;
    this.#clock = parts.clock;
    this.#mkeys = parts.mkeys;
    this.#counters = parts.counters;
    this.#continue = host.timer(() => this.#runPending());
  }

  close(): void {
    this.#continue.close();
  }

  clear(): void {
    this.table.clear();
    this.#continue.cancel();
  }

  /** A doorbell: the producer index is in the doorbell record. */
  doorbell(sqn: number): void {
    const sq = this.table.find(sqn);
    if (sq !== undefined) this.run(sq);
  }

  /**
   * After a pause: every queue up to its doorbell record, as its last doorbell asked. A queue that starts anew has had
   * none: a driver that recovers it leaves the record alone, which has the producer index of before until the next send.
   */
  runAll(): void {
    for (const sq of this.table.values()) if (sq.ci !== 0 || sq.pending) this.run(sq);
  }

  #runPending(): void {
    for (const sq of this.table.values()) if (sq.pending) this.run(sq);
  }

  /** Sends up to the producer index, or so much as one queue may at a time; the rest follows by itself. */
  run(sq: SendQueue): void {
    const flushing = sq.state === queueState.ERR && sq.settings.flushInError;
    if (sq.state !== queueState.RDY && !flushing) return;
    if (!this.#host.mayInitiate || !this.#host.pci.busMaster) {
      sq.pending = true;
      return;
    }
    if (this.#running) {
      // A frame that comes back to this device may make its driver's doorbell ring while one is being sent.
      this.#later(sq);
      return;
    }
    this.#running = true;
    try {
      this.#runTo(sq);
    } finally {
      this.#running = false;
      this.#transmitter.release();
    }
  }

  #later(sq: SendQueue): void {
    sq.pending = true;
    if (!this.#continue.armed) this.#continue.arm(0);
  }

  #runTo(sq: SendQueue): void {
    sq.pending = false;
    let producer: number;
    try {
      producer = this.#host.dma.readUint32BE(sq.settings.wq.dbr + sendCounter) & indexMask;
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      if (sq.state === queueState.RDY) this.#fail(sq, sq.ci, 0, cqeSyndrome.LOCAL_PROT_ERR);
      return;
    }
    if (sq.state !== queueState.RDY) {
      this.#flush(sq, producer);
      return;
    }
    let bytes = 0;
    let frames = 0;
    while (sq.ci !== producer) {
      const ready = (producer - sq.ci) & indexMask;
      const index = sq.ci;
      this.#wqe.forget();
      const syndrome = ready > sq.ring.size ? cqeSyndrome.LOCAL_QP_OP_ERR : this.#execute(sq, ready);
      if (syndrome !== 0) {
        const blocks = Math.min(this.#wqe.basicBlocks, ready);
        this.#fail(sq, index, this.#wqe.opcode, syndrome);
        sq.ci = (sq.ci + blocks) & indexMask;
        if (sq.settings.flushInError) this.#flush(sq, producer);
        return;
      }
      sq.ci = (sq.ci + this.#wqe.basicBlocks) & indexMask;
      if (this.#wqe.signalled) this.#complete(sq, index);
      bytes += this.#wqe.payloadLength;
      frames += this.#frames();
      if (bytes >= limits.sendBurstBytes || frames >= limits.sendBurstFrames) {
        if (sq.ci !== producer) this.#later(sq);
        return;
      }
    }
  }

  /** Frames that the WQE became: an LSO of tiny segments is as much work as so many, one of little payload as one. */
  #frames(): number {
    const { opcode, payloadLength, mss } = this.#wqe;
    return opcode === wqeOpcode.LSO ? Math.max(1, Math.ceil(payloadLength / mss)) : 1;
  }

  /** One WQE at `sq.ci`; returns 0 or a `cqeSyndrome`. */
  #execute(sq: SendQueue, ready: number): number {
    const wqe = this.#wqe;
    const dma = this.#host.dma;
    try {
      dma.read(sq.ring.address(sq.ci), firstBlock(this.#bytes));
      parseControl(this.#bytes, wqe);
      if (wqe.qpn !== sq.id || wqe.length === 0) return cqeSyndrome.LOCAL_QP_OP_ERR;
      const toEnd = sq.ring.size - (sq.ci % sq.ring.size);
      if (wqe.basicBlocks > ready || wqe.basicBlocks > toEnd) return cqeSyndrome.LOCAL_QP_OP_ERR;
      for (let block = 1; block < wqe.basicBlocks; ) {
        const count = Math.min(wqe.basicBlocks - block, sq.ring.toPageEnd(sq.ci + block));
        const at = block * wqebbBytes;
        dma.read(sq.ring.address(sq.ci + block), this.#bytes.subarray(at, at + count * wqebbBytes));
        block += count;
      }
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      return cqeSyndrome.LOCAL_PROT_ERR;
    }
    if (wqe.opcode === wqeOpcode.NOP) return 0;
    if (wqe.opcode !== wqeOpcode.SEND && wqe.opcode !== wqeOpcode.LSO) return cqeSyndrome.LOCAL_QP_OP_ERR;
    if (sq.settings.tisn === 0) return cqeSyndrome.LOCAL_QP_OP_ERR;
    if (this.failNext) {
      this.failNext = false;
      return cqeSyndrome.LOCAL_QP_OP_ERR;
    }
    const malformed = parseSend(this.#bytes, wqe, limits.lsoPayloadBytes);
    if (malformed !== 0) return malformed;
    return this.#gather(sq);
  }

  /** Headers into the transmitter's head, payload as views of guest memory. */
  #gather(sq: SendQueue): number {
    const wqe = this.#wqe;
    const { head, pieces } = this.#transmitter;
    head.start();
    pieces.length = 0;
    // Inline headers may not reach beyond the WQE, but the parser allows the last 16-byte unit to be part full.
    head.append(this.#bytes, wqe.inlineAt, wqe.inlineLength);
    // LSO: the inline headers are the template. Otherwise headers may be in the first data segments.
    const pull = wqe.opcode === wqeOpcode.LSO ? 0 : Math.max(0, headPull - wqe.inlineLength);
    let payload = 0;
    let bounced = 0;
    try {
      for (let index = 0; index < wqe.segments; index++) {
        const length = wqe.segmentLength[index] ?? 0;
        const address = wqe.segmentAddress[index] ?? 0;
        let source: Uint8Array | undefined;
        if (address < 0) {
          source = this.#bytes.subarray(-address, -address + length);
        } else {
          const lkey = wqe.segmentLkey[index] ?? 0;
          if (!this.#mkeys.readable(lkey, sq, address, length)) return cqeSyndrome.LOCAL_PROT_ERR;
          source = this.#host.dma.view(address, length);
          if (source === undefined) {
            this.#bounce ??= Buffer.alloc(limits.lsoPayloadBytes);
            source = this.#bounce.subarray(bounced, bounced + length);
            this.#host.dma.read(address, source);
            bounced += length;
          }
        }
        const inHead = Math.min(length, Math.max(0, pull + wqe.inlineLength - head.length));
        if (inHead > 0 && pull > 0) head.append(source, 0, inHead);
        const taken = pull > 0 ? inHead : 0;
        if (taken < length) {
          pieces.push(taken === 0 ? source : source.subarray(taken));
          payload += length - taken;
        }
      }
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      return cqeSyndrome.LOCAL_PROT_ERR;
    }
    return this.#transmitter.send(wqe, payload);
  }

  #stamp(entry: Buffer): void {
    const cycles = this.#clock.cycles();
    entry.writeUInt32BE(cycles.high, timestampHigh);
    entry.writeUInt32BE(cycles.low, timestampLow);
  }

  #complete(sq: SendQueue, index: number): void {
    const cq = this.#cqs.table.find(sq.settings.cqn);
    if (cq === undefined) return;
    const entry = this.#cqs.blank();
    this.#stamp(entry);
    entry.writeUInt32BE(((this.#wqe.opcode << 24) | sq.id) >>> 0, qpnByte);
    entry.writeUInt16BE(index, counterByte);
    if (!this.#cqs.post(cq, cqeOpcode.REQ, this.#wqe.solicited)) sq.setState(queueState.ERR);
  }

  /** The queue stops at WQE `index`; the driver recovers it with QUERY_SQ and MODIFY_SQ. */
  #fail(sq: SendQueue, index: number, opcode: number, syndrome: number): void {
    sq.setState(queueState.ERR);
    this.#counters.count('txErrors');
    this.#host.log.warn({ sqn: sq.id, index, opcode, syndrome }, 'send queue in error');
    const cq = this.#cqs.table.find(sq.settings.cqn);
    if (cq !== undefined) this.#errorCqe(sq, cq, index, opcode, syndrome);
  }

  #errorCqe(sq: SendQueue, cq: CompletionQueue, index: number, opcode: number, syndrome: number): void {
    const entry = this.#cqs.blank();
    entry[syndromeByte] = syndrome;
    entry.writeUInt32BE(((opcode << 24) | sq.id) >>> 0, qpnByte);
    entry.writeUInt16BE(index, counterByte);
    this.#cqs.post(cq, cqeOpcode.REQ_ERR, true);
  }

  /**
   * Reports everything up to the producer index as flushed, with one CQE for the last WQE: a driver retires all
   * before it, and waits for just that when it recovers the queue.
   */
  #flush(sq: SendQueue, producer: number): void {
    const cq = this.#cqs.table.find(sq.settings.cqn);
    const waiting = (producer - sq.ci) & indexMask;
    if (cq === undefined || waiting === 0 || waiting > sq.ring.size || !this.#cqs.hasRoom(cq)) return;
    const wqe = this.#wqe;
    let last = sq.ci;
    try {
      for (let left = waiting; left > 0; left -= wqe.basicBlocks) {
        last = sq.ci;
        this.#host.dma.read(sq.ring.address(last), firstBlock(this.#bytes));
        parseControl(this.#bytes, wqe);
        sq.ci = (sq.ci + Math.min(left, wqe.basicBlocks)) & indexMask;
      }
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      return;
    }
    this.#errorCqe(sq, cq, last, wqe.opcode, cqeSyndrome.WR_FLUSH_ERR);
  }
}

const firstBlocks = new WeakMap<Buffer, Buffer>();

/** The first basic block of `bytes`, as a view made once. */
function firstBlock(bytes: Buffer): Buffer {
  let view = firstBlocks.get(bytes);
  if (view === undefined) {
    view = bytes.subarray(0, wqebbBytes);
    firstBlocks.set(bytes, view);
  }
  return view;
}
