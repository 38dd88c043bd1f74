import type { DeviceHost } from '../../src/device/index.ts';
import type { Clock } from './clock.ts';
import type { QueueCounter } from './counters.ts';
import type { CompletionQueue, CompletionQueues } from './cq.ts';
import { add, sum } from './frame/checksum.ts';
import {
  etherType,
  type FrameInfo,
  ipProtocol,
  macAddressesBytes,
  macHeaderBytes,
  uint16,
  vlanTagBytes,
} from './frame/parse.ts';
import type { ReceiveChecksum } from './frame/transport-checksum.ts';
import { limits } from './limits.ts';
import { isDmaRefusal } from './memory.ts';
import type { MkeyCheck } from './mkeys.ts';
import { ObjectTable } from './objects.ts';
import {
  byteCountMask,
  cqe,
  cqeHeaderType,
  cqeOk,
  cqeOpcode,
  cqeSyndrome,
  errorCqe,
  invalidLkey,
  segmentBytes,
  wqeData,
} from './prm/index.ts';
import type { RssResult } from './steering/tir.ts';
import { type QueueState, queueState, WorkQueue, type WorkQueueSettings } from './work-queue.ts';

const indexMask = 0xffff;
const lkeyByte = wqeData.byte('lkey');
const addressByte = wqeData.byte('addr');
const at = {
  hash: cqe.byte('rss_hash_result'),
  hashType: cqe.byte('rss_hash_type'),
  checkSum: cqe.byte('check_sum'),
  ok: cqe.byte('hds_ip_ext'),
  headerType: cqe.byte('l4_l3_hdr_type'),
  vlan: cqe.byte('vlan_info'),
  byteCount: cqe.byte('byte_cnt'),
  timestampHigh: cqe.byte('timestamp_h'),
  timestampLow: cqe.byte('timestamp_l'),
  flowTag: cqe.byte('sop_drop_qpn'),
  counter: cqe.byte('wqe_counter'),
  syndrome: errorCqe.byte('syndrome'),
} as const;
const tcpAckFlag = 0x10;

/** What CREATE_RQ says, except what MODIFY_RQ may change. */
export interface ReceiveQueueSettings {
  readonly wq: WorkQueueSettings;
  readonly cqn: number;
  readonly flushInError: boolean;
  readonly userIndex: number;
}

/** A receive queue of cyclic type. `ci` counts WQEs. */
export class ReceiveQueue extends WorkQueue<ReceiveQueueSettings> {
  /** VLAN strip disabled. */
  vsd = false;
  counterSetId = 0;
  /** Producer index as last read from the doorbell record. */
  pi = 0;
  /** Has had buffers: without any it is a place to drop frames into. */
  fed = false;

  protected override restart(): void {
    super.restart();
    this.pi = 0;
    this.fed = false;
  }
}

/** What became of a frame that was meant for a queue. */
export const delivery = { done: 0, noBuffer: 1, dropped: 2 } as const;
export type Delivery = (typeof delivery)[keyof typeof delivery];

/** Everything known about a received frame. */
export interface ReceivedFrame {
  readonly bytes: Uint8Array;
  readonly info: FrameInfo;
  readonly checksum: ReceiveChecksum;
  readonly rss: RssResult;
  readonly flowTag: number;
}

/** Puts frames into receive queues. */
export class ReceiveQueues {
  readonly table = new ObjectTable<ReceiveQueue>('rq', 0x100, limits.rqs, 8 * limits.rqs);
  readonly #host: DeviceHost;
  readonly #cqs: CompletionQueues;
  readonly #clock: Clock;
  readonly #mkeys: MkeyCheck;
  readonly #qCounters: ObjectTable<QueueCounter>;
  readonly #wqe = Buffer.alloc(2 ** limits.logReceiveStride.max);
  readonly #wqeByStride: readonly Buffer[];

  constructor(
    host: DeviceHost,
    parts: {
      cqs: CompletionQueues;
      clock: Clock;
      mkeys: MkeyCheck;
      qCounters: ObjectTable<QueueCounter>;
    },
  ) {
    this.#host = host;
    this.#cqs = parts.cqs;
    this.#clock = parts.clock;
    this.#mkeys = parts.mkeys;
    this.#qCounters = parts.qCounters;
    this.#wqeByStride = Array.from({ length: limits.logReceiveStride.max + 1 }, (_, logStride) =>
      this.#wqe.subarray(0, 2 ** logStride),
    );
  }

  counter(rq: ReceiveQueue): QueueCounter | undefined {
    return this.#qCounters.find(rq.counterSetId);
  }

  /**
   * Whether the queue has a WQE, by a look at its doorbell record when the last known ones are used up. Only once it is
   * ready: a driver that recovers it resets the record between RST and RDY, and before that it is of WQEs that are gone.
   */
  hasBuffer(rq: ReceiveQueue): boolean {
    if (rq.state !== queueState.RDY) return false;
    if (rq.ci === rq.pi) {
      try {
        rq.pi = this.#host.dma.readUint32BE(rq.settings.wq.dbr) & indexMask;
      } catch (error) {
        if (!isDmaRefusal(error)) throw error;
        return false;
      }
      if (rq.pi !== rq.ci) rq.fed = true;
    }
    return rq.pi !== rq.ci;
  }

  /** Writes one frame into the next WQE and reports it. `noBuffer` and `dropped` change nothing in the queue. */
  deliver(rq: ReceiveQueue, frame: ReceivedFrame): Delivery {
    if (rq.state !== queueState.RDY) return delivery.dropped;
    const cq = this.#cqs.table.find(rq.settings.cqn);
    if (cq === undefined) return delivery.dropped;
    if (!this.hasBuffer(rq)) return rq.fed ? delivery.noBuffer : delivery.dropped;
    if (((rq.pi - rq.ci) & indexMask) > rq.ring.size) {
      this.#fail(rq, cq, cqeSyndrome.LOCAL_QP_OP_ERR);
      return delivery.dropped;
    }
    const strip = !rq.vsd && frame.info.vlanType === etherType.vlan;
    const length = frame.bytes.length - (strip ? vlanTagBytes : 0);
    const syndrome = this.#scatter(rq, frame.bytes, strip);
    if (syndrome !== 0) {
      const counter = this.counter(rq);
      if (counter !== undefined) {
        counter.cqeErrors++;
        if (syndrome === cqeSyndrome.LOCAL_LENGTH_ERR) counter.lengthErrors++;
        else counter.protectionErrors++;
      }
      if (syndrome === cqeSyndrome.LOCAL_LENGTH_ERR) this.#tooLong(rq, cq);
      else this.#fail(rq, cq, syndrome);
      return delivery.dropped;
    }
    const entry = this.#cqs.blank();
    fillReceiveCqe(entry, frame, length, strip);
    const cycles = this.#clock.cycles();
    entry.writeUInt32BE(cycles.high, at.timestampHigh);
    entry.writeUInt32BE(cycles.low, at.timestampLow);
    entry.writeUInt16BE(rq.ci, at.counter);
    rq.ci = (rq.ci + 1) & indexMask;
    cq.urgent = true;
    if (!this.#cqs.post(cq, cqeOpcode.RESP_SEND)) {
      rq.setState(queueState.ERR);
      return delivery.dropped;
    }
    return delivery.done;
  }

  /** Copies the frame, once, to where the WQE points; returns 0 or a `cqeSyndrome`. */
  #scatter(rq: ReceiveQueue, bytes: Uint8Array, strip: boolean): number {
    const dma = this.#host.dma;
    const wqe = this.#wqeByStride[rq.settings.wq.logStride] ?? this.#wqe;
    try {
      dma.read(rq.ring.address(rq.ci), wqe);
      let from = 0;
      for (let segment = 0; segment < wqe.length && from < bytes.length; segment += segmentBytes) {
        const room = wqe.readUInt32BE(segment) & byteCountMask;
        const lkey = wqe.readUInt32BE(segment + lkeyByte);
        if (lkey === invalidLkey || room === 0) break;
        const high = wqe.readUInt32BE(segment + addressByte);
        let address = high * 2 ** 32 + wqe.readUInt32BE(segment + addressByte + 4);
        if (!Number.isSafeInteger(address + room)) return cqeSyndrome.LOCAL_PROT_ERR;
        if (!this.#mkeys.writable(lkey, rq, address, room)) return cqeSyndrome.LOCAL_PROT_ERR;
        let left = room;
        if (strip && from < macAddressesBytes) {
          const count = Math.min(left, macAddressesBytes - from);
          this.#copy(address, bytes, from, count);
          address += count;
          left -= count;
          from += count;
          if (from === macAddressesBytes) from += vlanTagBytes;
        }
        const count = Math.min(left, bytes.length - from);
        if (count > 0) {
          this.#copy(address, bytes, from, count);
          from += count;
        }
      }
      return from < bytes.length ? cqeSyndrome.LOCAL_LENGTH_ERR : 0;
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      return cqeSyndrome.LOCAL_PROT_ERR;
    }
  }

  #copy(address: number, bytes: Uint8Array, from: number, count: number): void {
    const source = from === 0 && count === bytes.length ? bytes : bytes.subarray(from, from + count);
    const view = this.#host.dma.writableView(address, count);
    if (view !== undefined) view.set(source);
    else this.#host.dma.write(address, source);
  }

  /**
   * The frame is longer than its WQE. That takes the WQE and is reported, and the queue goes on: Linux recovers one after other
   * syndromes only ("non-fatal": `cqe_syndrome_needs_recover`).
   */
  #tooLong(rq: ReceiveQueue, cq: CompletionQueue): void {
    const posted = this.#errorCqe(rq, cq, cqeSyndrome.LOCAL_LENGTH_ERR);
    rq.ci = (rq.ci + 1) & indexMask;
    if (!posted) rq.setState(queueState.ERR);
  }

  /** The queue stops; the driver recovers it with QUERY_RQ and MODIFY_RQ. */
  #fail(rq: ReceiveQueue, cq: CompletionQueue, syndrome: number): void {
    rq.setState(queueState.ERR);
    this.#host.log.warn({ rqn: rq.id, syndrome }, 'receive queue in error');
    if (!this.#errorCqe(rq, cq, syndrome) || !rq.settings.flushInError) return;
    rq.ci = (rq.ci + 1) & indexMask;
    this.#flush(rq, cq);
  }

  /** MODIFY_RQ says what state the queue is in. One that is put in error gives back the WQEs that it has, if it is of that kind. */
  setState(rq: ReceiveQueue, state: QueueState): void {
    rq.setState(state);
    const cq = this.#cqs.table.find(rq.settings.cqn);
    if (state === queueState.ERR && rq.settings.flushInError && cq !== undefined) this.#flush(rq, cq);
  }

  /**
   * Reports each WQE that is posted as flushed. Those that follow are not looked at until the queue starts anew: no doorbell tells
   * of them.
   */
  #flush(rq: ReceiveQueue, cq: CompletionQueue): void {
    try {
      rq.pi = this.#host.dma.readUint32BE(rq.settings.wq.dbr) & indexMask;
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      return;
    }
    if (((rq.pi - rq.ci) & indexMask) > rq.ring.size) return;
    const counter = this.counter(rq);
    while (rq.ci !== rq.pi && this.#errorCqe(rq, cq, cqeSyndrome.WR_FLUSH_ERR)) {
      if (counter !== undefined) counter.flushErrors++;
      rq.ci = (rq.ci + 1) & indexMask;
    }
  }

  /** @returns false when the CQ failed */
  #errorCqe(rq: ReceiveQueue, cq: CompletionQueue, syndrome: number): boolean {
    const entry = this.#cqs.blank();
    entry[at.syndrome] = syndrome;
    entry.writeUInt32BE(rq.id, at.flowTag);
    entry.writeUInt16BE(rq.ci, at.counter);
    cq.urgent = true;
    return this.#cqs.post(cq, cqeOpcode.RESP_ERR, true);
  }
}

/** Everything of a receive CQE but its time stamp, WQE counter and owner. */
function fillReceiveCqe(entry: Buffer, frame: ReceivedFrame, length: number, stripped: boolean): void {
  const { info, checksum, rss } = frame;
  entry.writeUInt32BE(rss.hash, at.hash);
  entry[at.hashType] = rss.type;
  entry.writeUInt16BE(deliveredSum(frame, stripped), at.checkSum);
  entry[at.ok] = cqeOk.L2 | (checksum.l3Ok ? cqeOk.L3 : 0) | (checksum.l4Ok ? cqeOk.L4 : 0);
  let headerType = 0;
  if (stripped) {
    headerType |= cqeHeaderType.vlanStripped;
    entry.writeUInt16BE(info.vlanTci, at.vlan);
  }
  if (info.ip === 4) headerType |= cqeHeaderType.l3.ipv4;
  else if (info.ip === 6) headerType |= cqeHeaderType.l3.ipv6;
  if (info.l4 === ipProtocol.udp) headerType |= cqeHeaderType.l4.udp;
  else if (info.l4 === ipProtocol.tcp) headerType |= tcpType(frame.bytes, info);
  entry[at.headerType] = headerType;
  entry.writeUInt32BE(length, at.byteCount);
  entry.writeUInt32BE(frame.flowTag & 0xffffff, at.flowTag);
}

/**
 * With `cqe_checksum_full` the driver takes `check_sum` for the sum of all that is behind the 14 bytes of the MAC header
 * which it got: tags that were left in the frame are part of it, one that was stripped is not.
 */
function deliveredSum({ bytes, info, checksum }: ReceivedFrame, stripped: boolean): number {
  const start = stripped ? macHeaderBytes + vlanTagBytes : macHeaderBytes;
  if (start === info.l3Offset) return checksum.full;
  return add(checksum.full, sum(bytes, start, info.l3Offset));
}

function tcpType(bytes: Uint8Array, info: FrameInfo): number {
  const ack = (uint16(bytes, info.l4Offset + 12) & tcpAckFlag) !== 0;
  if (!ack) return cqeHeaderType.l4.tcpNoAck;
  const data = info.ipEnd - info.l4Offset > info.l4HeaderLength;
  return data ? cqeHeaderType.l4.tcpAckAndData : cqeHeaderType.l4.tcpAckNoData;
}
