import type { RawArea } from '../../posix/index.ts';
import { FrameQueue, type QueueLimits, RECORD_HEADER, recordLength } from '../frame-queue.ts';
import type { Notice, PortState } from './protocol.ts';

/** Counters of one port of the switch; "in" is towards the switch. */
export interface MemberStats {
  inFrames: number;
  inBytes: number;
  outFrames: number;
  outBytes: number;
  /** For want of room in the port's queue, of a link, or because the port is in stand-by. */
  dropped: number;
  /** Beyond the bound of what is kept for a parked port. */
  parkDropped: number;
}

/**
 * One port of the switch: what is behind it (a socket, another network port), what is queued for it, and what
 * it is at the moment. How it changes is the business of `Switch`.
 */
export abstract class Member {
  readonly number: number;
  /** What may wait for the port, unless it is parked or what was kept for it then is still on its way. */
  readonly limits: QueueLimits;
  name: string;
  identity: string | undefined;
  state: PortState = 'active';
  /** In stand-by of its own wish, as long as it says nothing else: takes no place that becomes free. */
  reserved = false;
  link = true;
  /** The connection is gone; a parked port stays until somebody takes its place. */
  gone = false;
  /** While parking: what the port gives back, which goes before everything else. Undefined when it is done. */
  returned: FrameQueue | undefined;
  /** Waits for `returned` to be complete, to take over. */
  successor: Member | undefined;
  /** Such a successor: what it sends goes on; what comes for its addresses is kept where they were. */
  succeeding = false;
  queue: FrameQueue;
  readonly stats: MemberStats = {
    inFrames: 0,
    inBytes: 0,
    outFrames: 0,
    outBytes: 0,
    dropped: 0,
    parkDropped: 0,
  };

  constructor(number: number, name: string, limits: QueueLimits) {
    this.number = number;
    this.name = name;
    this.limits = limits;
    this.queue = new FrameQueue(limits);
  }

  /** Sends records without waiting and counts those that went out; returns the bytes that need no further attempt. */
  protected abstract transmit(area: RawArea, start: number, end: number): number;
  /** Asks to have `drain` called when there is room. */
  protected abstract wantRoom(on: boolean): void;
  abstract notify(notice: Notice): void;
  abstract disconnect(): void;

  /** Takes what the port has sent and nobody has looked at yet. */
  receivePending(): void {
    // Nothing waits, unless there is a socket.
  }

  /** Takes records for this port: sends, queues, keeps or drops them, by its state. */
  deliver(area: RawArea, start: number, end: number): void {
    if (this.state === 'standby' || !this.link) {
      this.stats.dropped += countRecords(area.bytes, start, end);
      return;
    }
    let from = start;
    if (this.state === 'active' && this.queue.length === 0) {
      from += this.transmit(area, start, end);
      if (from === end) return;
      this.wantRoom(true);
    }
    const left = countRecords(area.bytes, from, end);
    const lost = left - this.queue.pushRecords(area.bytes, from, end);
    if (this.state === 'parked') this.stats.parkDropped += lost;
    else this.stats.dropped += lost;
  }

  /** Sends what is queued, as far as it goes. */
  drain(): void {
    if (this.state !== 'active') {
      this.wantRoom(false);
      return;
    }
    const { queue } = this;
    while (queue.length > 0) {
      const sent = this.transmit(queue.area, queue.head, queue.head + queue.length);
      if (sent === 0) break;
      queue.consume(sent);
    }
    if (queue.length === 0) queue.limits = this.limits;
    this.wantRoom(queue.length > 0);
  }

  protected countOut(bytes: Buffer, start: number, end: number): void {
    const frames = countRecords(bytes, start, end);
    this.stats.outFrames += frames;
    this.stats.outBytes += end - start - frames * RECORD_HEADER;
  }
}

/** How many records lie from `start` to `end`. */
export function countRecords(bytes: Buffer, start: number, end: number): number {
  let count = 0;
  for (let at = start; at < end; at += RECORD_HEADER + recordLength(bytes, at)) count++;
  return count;
}
