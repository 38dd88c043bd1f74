import { limits } from './limits.ts';
import { DeviceObject, ObjectTable } from './objects.ts';

/** Bytes of FCS, which the port's own counters include and the vport's do not. */
const fcsBytes = 4;

/** Upper bounds, with FCS, of the RFC 2819 histogram that PPCNT knows. */
export const sizeBuckets = [64, 127, 255, 511, 1023, 1518, 2047, 4095, 8191, 10239] as const;

/** Frames and bytes by destination: [unicast, multicast, broadcast]. */
export interface Traffic {
  readonly packets: Float64Array;
  readonly octets: Float64Array;
}

function traffic(): Traffic {
  return { packets: new Float64Array(3), octets: new Float64Array(3) };
}

function bump(counter: Float64Array, index: number, by: number): void {
  counter[index] = (counter[index] ?? 0) + by;
}

export function total(counter: Float64Array): number {
  let result = 0;
  for (const value of counter) result += value;
  return result;
}

/** Named single counters; all count frames unless they say otherwise. */
export interface Events {
  /** Received but longer than the port's MTU. */
  rxTooLong: number;
  /** Received while nothing was ready for them: no queue, queue not ready, port down. */
  rxDiscards: number;
  /** Received for a queue that had no buffer. */
  rxOutOfBuffer: number;
  /** Received, and the flow tables have no place for it. Not counted: what a rule drops. */
  rxFiltered: number;
  /** Not sent: link down, or the network had no room. */
  txDiscards: number;
  txErrors: number;
  linkDown: number;
}

function noEvents(): Events {
  return {
    rxTooLong: 0,
    rxDiscards: 0,
    rxOutOfBuffer: 0,
    rxFiltered: 0,
    txDiscards: 0,
    txErrors: 0,
    linkDown: 0,
  };
}

/** Everything that `ethtool -S` shows of the device itself; exact to 2^53. */
export class Counters {
  /** What passed the port (with FCS), and what the vport sent or was given (without). */
  readonly port = { rx: traffic(), tx: traffic() };
  readonly vport = { rx: traffic(), tx: traffic() };
  readonly rxSizes = new Float64Array(sizeBuckets.length);
  readonly events: Events = noEvents();

  received(cast: number, length: number): void {
    bump(this.port.rx.packets, cast, 1);
    bump(this.port.rx.octets, cast, length + fcsBytes);
    const size = length + fcsBytes;
    let bucket = 0;
    while (bucket < sizeBuckets.length - 1 && size > (sizeBuckets[bucket] ?? 0)) bucket++;
    bump(this.rxSizes, bucket, 1);
  }

  accepted(cast: number, length: number): void {
    bump(this.vport.rx.packets, cast, 1);
    bump(this.vport.rx.octets, cast, length);
  }

  /**
   * @param length bytes of all frames together
   * @param frames more than one when the port cuts what it was given
   */
  sent(cast: number, length: number, frames = 1): void {
    bump(this.vport.tx.packets, cast, frames);
    bump(this.vport.tx.octets, cast, length);
    bump(this.port.tx.packets, cast, frames);
    bump(this.port.tx.octets, cast, length + frames * fcsBytes);
  }

  /** Counts `by` more of an event. */
  count(event: keyof Events, by = 1): void {
    this.events[event] += by;
  }

  clearVport(): void {
    for (const direction of [this.vport.rx, this.vport.tx]) {
      direction.packets.fill(0);
      direction.octets.fill(0);
    }
  }

  clearAll(): void {
    this.clearVport();
    for (const direction of [this.port.rx, this.port.tx]) {
      direction.packets.fill(0);
      direction.octets.fill(0);
    }
    this.rxSizes.fill(0);
    Object.assign(this.events, noEvents());
  }
}

/** A queue counter set (ALLOC_Q_COUNTER): counts for the RQs that name it. */
export class QueueCounter extends DeviceObject {
  outOfBuffer = 0;
  lengthErrors = 0;
  protectionErrors = 0;
  cqeErrors = 0;
  flushErrors = 0;
}

export function queueCounterTable(): ObjectTable<QueueCounter> {
  return new ObjectTable<QueueCounter>('q_counter', 1, limits.qCounters, 255);
}
