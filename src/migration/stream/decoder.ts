import { StateRefused } from '../../errors.ts';
import { crc32 } from './crc32.ts';
import {
  chunkFlags,
  chunkHeaderSize,
  chunkLayout,
  chunkTrailerSize,
  chunkType,
  disposition,
  formatVersions,
  limits,
  magic,
  preludeLayout,
  preludeSize,
  type StreamHeader,
  streamFeature,
  trailerLayout,
} from './format.ts';
import { checkHeader, checkTotals, quoted } from './header.ts';
import { unpackValue } from './values.ts';
import { wideSum } from './wide-sum.ts';

/** Where the contents of a stream go, in order. Each may throw to refuse. */
export interface StreamSink {
  /** Always the first call. Another one: the stream began afresh, everything before is void. */
  header(header: StreamHeader): void;
  /** `size` is the packed length, for those who keep values. */
  value(section: string, value: unknown, size: number): void;
  /** `bytes` are valid during the call only. */
  bulk(section: string, offset: number, bytes: Uint8Array): void;
  /** Everything before is void. */
  restart(): void;
}

type Phase = 'prelude' | 'chunk header' | 'payload' | 'trailer' | 'end' | 'refused';

const none = new Uint8Array(0);

/** Longest payload by chunk type; types that are not here are unknown. */
const longest = new Map<number, number>([
  [chunkType.header, limits.headerPayload],
  [chunkType.section, limits.sectionName],
  [chunkType.value, limits.payload],
  [chunkType.bulk, limits.payload],
  [chunkType.restart, 0],
  [chunkType.end, limits.headerPayload],
]);

/**
 * Reads the state stream in pieces of any size. A chunk reaches the sink when all of it is in and its
 * checksum is right, straight from the caller's buffer where it lies there in one piece. At most one
 * chunk is kept; no length is allocated before it has been checked. The first thing that is wrong is thrown as
 * `StateRefused`, and the decoder takes nothing more.
 */
export class StreamDecoder {
  readonly #sink: StreamSink;
  #phase: Phase = 'prelude';
  #sumOfBulk: (bytes: Uint8Array) => number = wideSum;
  /** Assembles what is cut by the end of a write: the prelude, a chunk header, a trailer. */
  readonly #small = Buffer.alloc(Math.max(preludeSize, chunkHeaderSize, chunkTrailerSize));
  #smallAt = 0;
  /** Assembles a payload that is cut; grows to the longest chunk seen. */
  #large: Uint8Array = none;
  #largeAt = 0;
  /** The chunk under way. */
  #type = 0;
  #section = 0;
  #length = 0;
  #offset = 0;
  #payload: Uint8Array = none;
  #sequence = 0;
  #bytes = 0;
  #digest = 0;
  /** Whether another stream may follow behind a chunk. */
  #mayBeginAfresh = false;
  #sections: string[] = [];
  readonly #scratch = Buffer.alloc(4);

  constructor(sink: StreamSink) {
    this.#sink = sink;
  }

  /** The end chunk has come and its totals are right. */
  get complete(): boolean {
    return this.#phase === 'end';
  }

  /** Chunks taken in so far, and their payload bytes; for messages. */
  get progress(): { readonly chunks: number; readonly bytes: number } {
    return { chunks: this.#sequence, bytes: this.#bytes };
  }

  write(source: Uint8Array): void {
    try {
      let at = 0;
      while (at < source.length || (this.#phase === 'payload' && this.#length === 0)) {
        at = this.#step(source, at);
      }
    } catch (error) {
      this.#phase = 'refused';
      this.#large = none;
      throw error;
    }
  }

  #step(source: Uint8Array, at: number): number {
    switch (this.#phase) {
      case 'prelude':
        return this.#gather(source, at, preludeSize, (bytes) => this.#prelude(bytes));
      case 'chunk header':
        if (this.#mayBeginAfresh && this.#smallAt === 0 && source[at] === magic[0]) this.#beginAfresh();
        if (this.#phase !== 'chunk header') return at;
        return this.#gather(source, at, chunkHeaderSize, (bytes) => this.#chunkHeader(bytes));
      case 'payload':
        return this.#gatherPayload(source, at);
      case 'trailer':
        return this.#gather(source, at, chunkTrailerSize, (bytes) => this.#trailer(bytes));
      case 'end':
        throw new StateRefused('bytes follow the end of the state');
      case 'refused':
        throw new StateRefused('the state was refused already', { hint: 'Reset the device and start over.' });
    }
  }

  /** Collects `size` bytes and hands them on, from the source itself when they are all there. */
  #gather(source: Uint8Array, at: number, size: number, then: (bytes: Buffer) => void): number {
    const left = size - this.#smallAt;
    const length = Math.min(left, source.length - at);
    if (this.#smallAt === 0 && length === size) {
      then(Buffer.from(source.buffer, source.byteOffset + at, size));
      return at + size;
    }
    this.#small.set(source.subarray(at, at + length), this.#smallAt);
    this.#smallAt += length;
    if (this.#smallAt === size) {
      this.#smallAt = 0;
      then(this.#small);
    }
    return at + length;
  }

  #gatherPayload(source: Uint8Array, at: number): number {
    // With its trailer: what is in `source` would be gone when the trailer comes with the next write.
    const whole = this.#length + chunkTrailerSize;
    if (this.#largeAt === 0 && source.length - at >= whole) {
      this.#payload = source.subarray(at, at + this.#length);
      this.#phase = 'trailer';
      return at + this.#length;
    }
    if (this.#large.length < this.#length) this.#large = new Uint8Array(this.#length);
    const length = Math.min(this.#length - this.#largeAt, source.length - at);
    this.#large.set(source.subarray(at, at + length), this.#largeAt);
    this.#largeAt += length;
    if (this.#largeAt === this.#length) {
      this.#largeAt = 0;
      this.#payload = this.#large.subarray(0, this.#length);
      this.#phase = 'trailer';
    }
    return at + length;
  }

  /** A prelude begins where a chunk could: forgets the stream so far. The new one's header has to allow the next. */
  #beginAfresh(): void {
    this.#mayBeginAfresh = false;
    this.#sequence = 0;
    this.#bytes = 0;
    this.#digest = 0;
    this.#sections = [];
    this.#phase = 'prelude';
  }

  #prelude(bytes: Buffer): void {
    if (magic.compare(bytes, 0, magic.length) !== 0)
      throw new StateRefused('this is no vfio-companion state');
    const version = bytes.readUInt16LE(preludeLayout.version);
    if (!formatVersions.includes(version)) {
      throw new StateRefused(
        `the state has format ${version}, this server reads ${formatVersions.join(' and ')}`,
      );
    }
    this.#sumOfBulk = version === 1 ? crc32 : wideSum;
    const rest = bytes.subarray(preludeLayout.version + 2, preludeSize);
    if (rest.some((byte) => byte !== 0))
      throw new StateRefused('the reserved bytes of the prelude are not 0');
    this.#phase = 'chunk header';
  }

  #chunkHeader(bytes: Buffer): void {
    const at = `chunk ${this.#sequence}`;
    if (crc32(bytes.subarray(0, chunkLayout.crc)) !== bytes.readUInt32LE(chunkLayout.crc)) {
      throw new StateRefused(`the header of ${at} is corrupt`);
    }
    const sequence = bytes.readUInt32LE(chunkLayout.sequence);
    if (sequence !== this.#sequence) {
      throw new StateRefused(`chunk ${sequence} came where ${at} belongs`);
    }
    this.#type = bytes.readUInt8(chunkLayout.type);
    const flags = bytes.readUInt8(chunkLayout.flags);
    this.#section = bytes.readUInt16LE(chunkLayout.section);
    this.#length = bytes.readUInt32LE(chunkLayout.length);
    const high = bytes.readUInt32LE(chunkLayout.offset + 4);
    this.#offset = high * 2 ** 32 + bytes.readUInt32LE(chunkLayout.offset);

    const known = longest.get(this.#type);
    if (known === undefined && (flags & chunkFlags.skippable) === 0) {
      throw new StateRefused(`${at} is of type ${this.#type}, which this server does not know`);
    }
    if ((this.#type === chunkType.header) !== (this.#sequence === 0)) {
      throw new StateRefused(this.#sequence === 0 ? 'the header is missing' : `${at} is a second header`);
    }
    if (this.#length > (known ?? limits.payload)) {
      throw new StateRefused(`${at} claims ${this.#length} bytes; at most ${known ?? limits.payload} may be`);
    }
    const sectioned = this.#type === chunkType.value || this.#type === chunkType.bulk;
    if (sectioned && this.#section >= this.#sections.length) {
      throw new StateRefused(`${at} is of section ${this.#section}, which was not named`);
    }
    if (
      (flags & ~chunkFlags.skippable) !== 0 ||
      bytes.readUInt32LE(chunkLayout.reserved) !== 0 ||
      (known !== undefined && !sectioned && this.#section !== 0) ||
      (known !== undefined && this.#type !== chunkType.bulk && this.#offset !== 0) ||
      !Number.isSafeInteger(this.#offset + this.#length)
    ) {
      throw new StateRefused(`the header of ${at} has fields that make no sense`);
    }
    this.#phase = 'payload';
  }

  #trailer(bytes: Buffer): void {
    const at = `chunk ${this.#sequence}`;
    const sumOf = this.#type === chunkType.bulk ? this.#sumOfBulk : crc32;
    const sum = crc32(bytes.subarray(0, trailerLayout.crc), sumOf(this.#payload));
    if (sum !== bytes.readUInt32LE(trailerLayout.crc)) throw new StateRefused(`${at} is corrupt`);
    const what = bytes.readUInt32LE(trailerLayout.disposition);
    const mayDrop = this.#type === chunkType.value || this.#type === chunkType.bulk;
    if (what !== disposition.load && !(what === disposition.drop && mayDrop)) {
      throw new StateRefused(`${at} has the disposition ${what}`);
    }
    this.#phase = 'chunk header';
    const payload = this.#payload;
    this.#payload = none;
    if (what === disposition.load) this.#deliver(payload);
    this.#sequence++;
    this.#bytes += payload.length;
    this.#scratch.writeUInt32LE(sum, 0);
    this.#digest = crc32(this.#scratch, this.#digest);
  }

  #deliver(payload: Uint8Array): void {
    switch (this.#type) {
      case chunkType.header: {
        const header = checkHeader(unpackValue(payload, 'header'));
        this.#sink.header(header);
        this.#mayBeginAfresh = header.requires.includes(streamFeature.afresh);
        break;
      }
      case chunkType.section:
        this.#addSection(payload);
        break;
      case chunkType.value: {
        const section = this.#sections[this.#section] ?? '';
        this.#sink.value(section, unpackValue(payload, section), payload.length);
        break;
      }
      case chunkType.bulk:
        this.#sink.bulk(this.#sections[this.#section] ?? '', this.#offset, payload);
        break;
      case chunkType.restart:
        this.#sink.restart();
        break;
      case chunkType.end:
        checkTotals(unpackValue(payload, 'end'), {
          chunks: this.#sequence,
          bytes: this.#bytes,
          digest: this.#digest,
        });
        this.#phase = 'end';
        break;
      default: // unknown and skippable
    }
  }

  #addSection(payload: Uint8Array): void {
    let name: string;
    try {
      name = new TextDecoder('utf-8', { fatal: true }).decode(payload);
    } catch (cause) {
      throw new StateRefused("a section's name is not UTF-8", { cause });
    }
    if (name.length === 0 || this.#sections.includes(name)) {
      throw new StateRefused(
        name.length === 0 ? 'a section has no name' : `section ${quoted(name)} is named twice`,
      );
    }
    if (this.#sections.length >= limits.sections) throw new StateRefused('too many sections');
    this.#sections.push(name);
  }
}
