import type { RawArea } from '../../posix/index.ts';
import { ethernet, isForBridge } from '../ethernet.ts';
import { RECORD_HEADER } from '../frame-queue.ts';
import { type ForwardingOptions, ForwardingTable } from './forwarding-table.ts';
import type { Member } from './member.ts';
import { recordEnd, recordKinds } from './protocol.ts';

const FLOOD = -1;
const DROP = -2;

/** What a datagram may hold besides frames is handled elsewhere; `start` and `end` bound the record's bytes. */
export type OtherRecord = (member: Member, kind: number, bytes: Buffer, start: number, end: number) => void;

/**
 * The data path of the switch: learns where addresses are, and hands each frame on to the port of its
 * destination, or to all. Consecutive frames for the same place travel together.
 */
export class Fabric {
  readonly table: ForwardingTable;
  /** What ports that have left had counted. */
  readonly departed = { inFrames: 0, outFrames: 0, dropped: 0, parkDropped: 0 };
  /** Ports that take part in flooding. Replaced, never changed: a port may vanish while frames are handed out. */
  #ports: readonly Member[] = [];
  readonly #byNumber: (Member | undefined)[] = [];
  readonly #now: () => number;

  /** @param now seconds of a clock that goes forward */
  constructor(options: ForwardingOptions, now: () => number) {
    this.table = new ForwardingTable(options);
    this.#now = now;
  }

  get ports(): readonly Member[] {
    return this.#ports;
  }

  add(member: Member): void {
    this.#byNumber[member.number] = member;
    this.#ports = [...this.#ports, member];
  }

  remove(member: Member): void {
    if (this.#byNumber[member.number] !== member) return;
    const { departed } = this;
    departed.inFrames += member.stats.inFrames;
    departed.outFrames += member.stats.outFrames;
    departed.dropped += member.stats.dropped;
    departed.parkDropped += member.stats.parkDropped;
    this.#byNumber[member.number] = undefined;
    this.#ports = this.#ports.filter((other) => other !== member);
    this.table.forget(member.number);
  }

  at(number: number): Member | undefined {
    return this.#byNumber[number];
  }

  /**
   * Takes a datagram that came in at `member`.
   *
   * @throws NetProtocolError for what is no datagram of this protocol; frames before the fault may have gone on
   */
  receive(member: Member, area: RawArea, length: number, other: OtherRecord): void {
    const { bytes } = area;
    const now = this.#now();
    let runStart = 0;
    let runTarget = DROP;
    let at = 0;
    while (at < length) {
      const end = recordEnd(bytes, at, length);
      const kind = bytes.readUInt8(at);
      const target =
        kind === recordKinds.frame ? this.#route(member, bytes, at + RECORD_HEADER, end, now) : DROP;
      if (target !== runTarget) {
        this.#forward(member, runTarget, area, runStart, at);
        runStart = at;
        runTarget = target;
      }
      if (kind !== recordKinds.frame) other(member, kind, bytes, at + RECORD_HEADER, end);
      at = end;
    }
    this.#forward(member, runTarget, area, runStart, length);
  }

  #route(member: Member, bytes: Buffer, at: number, end: number, now: number): number {
    const { stats } = member;
    const silent = member.state === 'standby' && !member.succeeding;
    if (end - at < ethernet.headerLength || silent || !member.link) {
      stats.dropped++;
      return DROP;
    }
    stats.inFrames++;
    stats.inBytes += end - at;
    // It teaches nothing either: cards of a bond, which have one address, all send LACP.
    if (isForBridge(bytes, at)) return DROP;
    const sourceHigh = bytes.readUInt16BE(at + ethernet.source);
    // A parked port is about to be somewhere else: a late frame of it teaches nothing. Nor does one of its successor, as
    // long as that waits. Group addresses are nobody's.
    if (member.state === 'active' && !member.succeeding && (sourceHigh & 0x100) === 0)
      this.table.learn(sourceHigh, bytes.readUInt32BE(at + ethernet.source + 2), member.number, now);
    const high = bytes.readUInt16BE(at);
    if ((high & 0x100) !== 0) return FLOOD;
    const target = this.table.lookup(high, bytes.readUInt32BE(at + 2), now);
    return target === member.number ? DROP : target;
  }

  #forward(from: Member, target: number, area: RawArea, start: number, end: number): void {
    if (target === DROP || start === end) return;
    if (target !== FLOOD) {
      const member = this.#byNumber[target];
      if (member !== undefined && isElsewhere(member, from)) member.deliver(area, start, end);
      return;
    }
    for (const member of this.#ports)
      if (isElsewhere(member, from) && member.state !== 'standby') member.deliver(area, start, end);
  }
}

/** Whether frames of `from` may go to `member`: what is kept for a predecessor is for `from` itself. */
function isElsewhere(member: Member, from: Member): boolean {
  return member !== from && member.successor !== from;
}
