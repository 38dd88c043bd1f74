import { type RawArea, rawArea } from '../posix/index.ts';

/**
 * A record: one 32-bit big-endian word, then that many bytes. In a stream (QEMU's `-netdev stream`, passt) the
 * word is the length; on the switch's socket its top byte says what the bytes are (see switch/protocol.ts).
 */
export const RECORD_HEADER = 4;
const LENGTH_MASK = 0xffffff;

const FIRST_SIZE = 64 * 1024;

export interface QueueLimits {
  readonly frames: number;
  /** Bytes with their record headers. */
  readonly bytes: number;
}

/**
 * Frames in a row, as records in one piece of memory, so that many of them go out with one system call.
 * Bounded; the memory grows to the bound only if it is needed. First in, first out.
 */
export class FrameQueue {
  limits: QueueLimits;
  #area: RawArea;
  #head = 0;
  #tail = 0;
  #frames = 0;
  /** Bytes of the first record that are gone already (a stream took part of it). */
  #taken = 0;

  constructor(limits: QueueLimits) {
    this.limits = limits;
    this.#area = rawArea(Math.min(FIRST_SIZE, Math.max(limits.bytes, RECORD_HEADER)));
  }

  get area(): RawArea {
    return this.#area;
  }

  /** Where the first byte to send lies in `area`. */
  get head(): number {
    return this.#head;
  }

  /** Bytes queued. */
  get length(): number {
    return this.#tail - this.#head;
  }

  get frames(): number {
    return this.#frames;
  }

  /** Appends one record from pieces of `length` bytes in all. False: no room (or the pieces are not that long). */
  push(parts: readonly Uint8Array[], length: number, kind = 0): boolean {
    const size = RECORD_HEADER + length;
    if (!this.#fits(size, 1)) return false;
    const bytes = this.#area.bytes;
    let at = this.#tail + RECORD_HEADER;
    const end = at + length;
    for (const part of parts) {
      if (part.length > end - at) return false;
      bytes.set(part, at);
      at += part.length;
    }
    if (at !== end) return false;
    bytes.writeUInt32BE(kind * (LENGTH_MASK + 1) + length, this.#tail);
    this.#tail = end;
    this.#frames++;
    return true;
  }

  /** Appends the records in `source` from `start` to `end` (whole and well-formed); returns how many fitted. */
  pushRecords(source: Buffer, start: number, end: number): number {
    let pushed = 0;
    let at = start;
    while (at < end) {
      const size = RECORD_HEADER + recordLength(source, at);
      if (!this.#fits(size, 1)) break;
      // Buffer.copy is a memmove without an object for the slice.
      source.copy(this.#area.bytes, this.#tail, at, at + size);
      this.#tail += size;
      this.#frames++;
      at += size;
      pushed++;
    }
    return pushed;
  }

  /** Appends all of `other` that fits, in order, and empties it; returns how many records did not fit. */
  append(other: FrameQueue): number {
    const all = other.#frames;
    const pushed = this.pushRecords(other.#area.bytes, other.#head, other.#tail);
    other.clear();
    return all - pushed;
  }

  /** Bytes of whole records at the head, at most `most`; 0 when the first one is longer. */
  run(most: number): number {
    if (this.length <= most) return this.length;
    let at = this.#head;
    for (;;) {
      const next = at + RECORD_HEADER + recordLength(this.#area.bytes, at);
      if (next - this.#head > most) return at - this.#head;
      at = next;
    }
  }

  /** `count` bytes at the head have been sent; they may end within a record. */
  consume(count: number): void {
    let left = count + this.#taken;
    // The head stands behind the part that is gone; step back to where the record begins.
    let at = this.#head - this.#taken;
    this.#taken = 0;
    while (left > 0) {
      const size = RECORD_HEADER + recordLength(this.#area.bytes, at);
      if (size > left) {
        this.#taken = left;
        break;
      }
      left -= size;
      at += size;
      this.#frames--;
    }
    this.#head += count;
    if (this.#head === this.#tail) this.#reset();
  }

  clear(): void {
    this.#frames = 0;
    this.#taken = 0;
    this.#reset();
  }

  #reset(): void {
    this.#head = 0;
    this.#tail = 0;
  }

  /** Makes room for `size` bytes behind the tail, within the bounds. */
  #fits(size: number, count: number): boolean {
    if (this.#frames + count > this.limits.frames || this.length + size > this.limits.bytes) return false;
    const bytes = this.#area.bytes;
    if (this.#tail + size <= bytes.length) return true;
    const first = this.#head - this.#taken;
    const used = this.#tail - first;
    if (used + size > bytes.length || first < bytes.length / 2) {
      const grown = rawArea(Math.max(bytes.length * 2, used + size));
      bytes.copy(grown.bytes, 0, first, this.#tail);
      this.#area = grown;
    } else bytes.copyWithin(0, first, this.#tail);
    this.#head = this.#taken;
    this.#tail = used;
    return true;
  }
}

/** Length of the record at `at`, without its header. */
export function recordLength(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) & LENGTH_MASK;
}

/** What the record at `at` is; 0 is a frame. */
export function recordKind(bytes: Buffer, at: number): number {
  return bytes.readUInt8(at);
}
