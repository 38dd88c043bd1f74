import { type RawArea, rawArea } from '../../posix/index.ts';
import { MAX_FRAME } from '../ethernet.ts';
import { type QueueLimits, RECORD_HEADER, recordLength } from '../frame-queue.ts';
import type { HostPort } from '../port.ts';
import { Member } from './member.ts';

/** A port of the switch whose other end is another kind of port: a tap, a stream. */
export class UplinkMember extends Member {
  readonly #port: HostPort;
  readonly #parts: [Uint8Array] = [new Uint8Array(0)];

  /** @param ingress takes one record, at the start of the area */
  constructor(
    number: number,
    name: string,
    limits: QueueLimits,
    port: HostPort,
    ingress: (member: UplinkMember, area: RawArea, length: number) => void,
  ) {
    super(number, name, limits);
    this.#port = port;
    const area = rawArea(RECORD_HEADER + MAX_FRAME);
    port.receive((frame) => {
      if (frame.length > MAX_FRAME) return true;
      area.bytes.writeUInt32BE(frame.length, 0);
      area.bytes.set(frame, RECORD_HEADER);
      ingress(this, area, RECORD_HEADER + frame.length);
      return true;
    });
  }

  /** What the port can't take is dropped there, as on any wire. */
  protected override transmit(area: RawArea, start: number, end: number): number {
    for (let at = start; at < end; ) {
      const length = recordLength(area.bytes, at);
      const first = at + RECORD_HEADER;
      this.#parts[0] = area.bytes.subarray(first, first + length);
      const next = first + length;
      if (this.#port.send(this.#parts, length)) this.countOut(area.bytes, at, next);
      else this.stats.dropped++;
      at = next;
    }
    return end - start;
  }

  protected override wantRoom(): void {
    // `transmit` takes everything.
  }

  override notify(): void {
    // Nobody there who understands.
  }

  override disconnect(): void {
    this.gone = true;
    this.#port.close();
  }
}
