import { CompanionError } from '../../errors.ts';
import { crc32 } from './crc32.ts';
import {
  chunkHeaderSize,
  chunkLayout,
  chunkTrailerSize,
  chunkType,
  disposition,
  formatVersion,
  limits,
  magic,
  preludeLayout,
  preludeSize,
  type StreamHeader,
  type StreamTotals,
  trailerLayout,
} from './format.ts';
import { packValue } from './values.ts';
import { lastSummed, wideSum } from './wide-sum.ts';

const none = new Uint8Array(0);
/** Stands for the rest of a chunk whose source is gone. */
const zeros = new Uint8Array(limits.bulkPiece);

/**
 * Writes the state stream into buffers of any size. One item (a value, a bulk record …) is under way at a
 * time: put one in when `idle`, then take bytes until it is `idle` again. Bulk bytes go from the device's own memory to
 * the caller's buffer by way of a small copy that is summed; memory use does not depend on the size of the state.
 */
export class StreamEncoder {
  /** Small pieces ready to go: prelude, chunk headers, section names, trailers. */
  readonly #staged = Buffer.alloc(512);
  #stagedAt = 0;
  #stagedEnd = 0;
  /** The payload under way and what of the record follows it in chunks of its own. */
  #payload: Uint8Array = none;
  #payloadAt = 0;
  #inChunk = false;
  /** A bulk payload has been copied and summed; `#payload` is what is left of the copy. */
  #copied = false;
  /** Holds the copy when `take` ends within it. */
  readonly #left = Buffer.allocUnsafeSlow(limits.bulkPiece);
  #type = 0;
  #crc = 0;
  #disposition: number = disposition.load;
  #rest: Uint8Array = none;
  #restSection = 0;
  #restOffset = 0;
  #sequence = 0;
  #bytes = 0;
  #digest = 0;
  readonly #sections = new Map<string, number>();
  readonly #scratch = Buffer.alloc(4);

  /** Starts a stream: the prelude and `header` are the first item. */
  constructor(header: StreamHeader) {
    magic.copy(this.#staged, 0);
    this.#staged.fill(0, magic.length, preludeSize);
    this.#staged.writeUInt16LE(formatVersion, preludeLayout.version);
    this.#stagedEnd = preludeSize;
    const payload = packValue(header, 'header');
    if (payload.length > limits.headerPayload) {
      throw new CompanionError(
        'VC_STATE_UNSAVABLE',
        `the geometry is too large: ${payload.length} bytes of header, ${limits.headerPayload} may be`,
      );
    }
    this.#begin(chunkType.header, 0, 0, payload);
  }

  /** Nothing is under way. */
  get idle(): boolean {
    return !this.#inChunk && this.#stagedAt === this.#stagedEnd && this.#rest.length === 0;
  }

  /** Payload bytes of the current item that have not been taken yet. */
  get pending(): number {
    return this.#payload.length - this.#payloadAt + this.#rest.length;
  }

  putValue(section: string, value: unknown): void {
    const payload = packValue(value, section);
    this.#begin(chunkType.value, this.#section(section), 0, payload);
  }

  /** `bytes` must stay as they are, or change like live memory, until the encoder is idle. */
  putBulk(section: string, offset: number, bytes: Uint8Array): void {
    if (!Number.isSafeInteger(offset) || offset < 0 || !Number.isSafeInteger(offset + bytes.length)) {
      throw new CompanionError('VC_STATE_UNSAVABLE', `section "${section}" has bytes at offset ${offset}`);
    }
    this.#rest = bytes;
    this.#restSection = this.#section(section);
    this.#restOffset = offset;
    this.#beginPiece();
  }

  /**
   * Everything put in so far is void. What is under way is completed with zeros and marked to be dropped,
   * for its announced length has to be kept; the source's bytes are not looked at again.
   */
  abandon(): void {
    this.#rest = none;
    const droppable = this.#type === chunkType.value || this.#type === chunkType.bulk;
    if (!this.#inChunk || !droppable) return;
    this.#disposition = disposition.drop;
    if (this.#copied) return;
    const left = this.#payload.length - this.#payloadAt;
    this.#payload = left <= zeros.length ? zeros.subarray(0, left) : new Uint8Array(left);
    this.#payloadAt = 0;
  }

  putRestart(): void {
    this.#begin(chunkType.restart, 0, 0, none);
  }

  putEnd(): void {
    const totals: StreamTotals = { chunks: this.#sequence, bytes: this.#bytes, digest: this.#digest };
    this.#begin(chunkType.end, 0, 0, packValue(totals, 'end'));
  }

  /** Copies what fits into `target` from `at` on; returns the bytes copied, 0 when idle. */
  take(target: Uint8Array, at: number): number {
    const start = at;
    while (at < target.length) {
      if (this.#stagedAt < this.#stagedEnd) {
        const end = Math.min(this.#stagedEnd, this.#stagedAt + target.length - at);
        this.#staged.copy(target, at, this.#stagedAt, end);
        at += end - this.#stagedAt;
        this.#stagedAt = end;
      } else if (this.#inChunk && this.#type === chunkType.bulk && !this.#copied) {
        at += this.#takeCopy(target, at);
        if (this.#payload.length === 0) this.#finishChunk();
      } else if (this.#inChunk) {
        const length = Math.min(this.#payload.length - this.#payloadAt, target.length - at);
        if (length > 0) {
          target.set(this.#payload.subarray(this.#payloadAt, this.#payloadAt + length), at);
          if (!this.#copied) this.#crc = crc32(target.subarray(at, at + length), this.#crc);
          this.#payloadAt += length;
          at += length;
        }
        if (this.#payloadAt === this.#payload.length) this.#finishChunk();
      } else if (this.#rest.length > 0) {
        this.#beginPiece();
      } else break;
    }
    return at - start;
  }

  /** Copies a bulk payload, which may be live memory, sums the copy, and passes it on as far as there is room. */
  #takeCopy(target: Uint8Array, at: number): number {
    const { length } = this.#payload;
    this.#crc = wideSum(this.#payload);
    const copy = lastSummed(length);
    const now = Math.min(length, target.length - at);
    target.set(now === length ? copy : copy.subarray(0, now), at);
    this.#left.set(copy.subarray(now));
    this.#payload = this.#left.subarray(0, length - now);
    this.#payloadAt = 0;
    this.#copied = true;
    return now;
  }

  #beginPiece(): void {
    const length = Math.min(this.#rest.length, limits.bulkPiece);
    this.#begin(chunkType.bulk, this.#restSection, this.#restOffset, this.#rest.subarray(0, length));
    this.#rest = this.#rest.subarray(length);
    this.#restOffset += length;
  }

  /** The number of a section; a new one is announced in a small chunk of its own. */
  #section(name: string): number {
    const known = this.#sections.get(name);
    if (known !== undefined) return known;
    const bytes = Buffer.from(name, 'utf8');
    if (bytes.length === 0 || bytes.length > limits.sectionName || this.#sections.size >= limits.sections) {
      throw new CompanionError(
        'VC_STATE_UNSAVABLE',
        `"${name}" can't be a section's name: at most ${limits.sections} of 1 to ${limits.sectionName} bytes`,
      );
    }
    const number = this.#sections.size;
    this.#sections.set(name, number);
    this.#header(chunkType.section, 0, 0, bytes.length);
    this.#stagedEnd += bytes.copy(this.#staged, this.#stagedEnd);
    this.#trailer(crc32(bytes), disposition.load);
    return number;
  }

  #begin(type: number, section: number, offset: number, payload: Uint8Array): void {
    this.#header(type, section, offset, payload.length);
    this.#type = type;
    this.#payload = payload;
    this.#payloadAt = 0;
    this.#crc = 0;
    this.#disposition = disposition.load;
    this.#inChunk = true;
  }

  #finishChunk(): void {
    this.#trailer(this.#crc, this.#disposition);
    this.#payload = none;
    this.#payloadAt = 0;
    this.#copied = false;
    this.#inChunk = false;
  }

  #header(type: number, section: number, offset: number, length: number): void {
    if (this.#stagedAt === this.#stagedEnd) {
      this.#stagedAt = 0;
      this.#stagedEnd = 0;
    }
    const at = this.#stagedEnd;
    const staged = this.#staged;
    staged.writeUInt8(type, at + chunkLayout.type);
    staged.writeUInt8(0, at + chunkLayout.flags);
    staged.writeUInt16LE(section, at + chunkLayout.section);
    staged.writeUInt32LE(this.#sequence, at + chunkLayout.sequence);
    staged.writeUInt32LE(length, at + chunkLayout.length);
    staged.writeUInt32LE(0, at + chunkLayout.reserved);
    staged.writeUInt32LE(offset % 2 ** 32, at + chunkLayout.offset);
    staged.writeUInt32LE(Math.floor(offset / 2 ** 32), at + chunkLayout.offset + 4);
    staged.writeUInt32LE(crc32(staged.subarray(at, at + chunkLayout.crc)), at + chunkLayout.crc);
    this.#stagedEnd = at + chunkHeaderSize;
    this.#sequence++;
    this.#bytes += length;
  }

  #trailer(crc: number, what: number): void {
    if (this.#stagedAt === this.#stagedEnd) {
      this.#stagedAt = 0;
      this.#stagedEnd = 0;
    }
    const at = this.#stagedEnd;
    const staged = this.#staged;
    staged.writeUInt32LE(what, at + trailerLayout.disposition);
    const sum = crc32(staged.subarray(at, at + trailerLayout.crc), crc);
    staged.writeUInt32LE(sum, at + trailerLayout.crc);
    this.#stagedEnd = at + chunkTrailerSize;
    this.#scratch.writeUInt32LE(sum, 0);
    this.#digest = crc32(this.#scratch, this.#digest);
  }
}
