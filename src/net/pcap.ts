import { closeSync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { useTogether } from '../posix/index.ts';
import { NetError } from './errors.ts';
import { MAX_FRAME } from './ethernet.ts';

/** Layout of a capture file: draft-ietf-opsawg-pcap, the variant with nanoseconds. Little-endian. */
const fileHeader = {
  magic: 0,
  versionMajor: 4,
  versionMinor: 6,
  snapLength: 16,
  linkType: 20,
  size: 24,
} as const;
const packetHeader = { seconds: 0, nanoseconds: 4, captured: 8, original: 12, size: 16 } as const;
const MAGIC_NANOSECONDS = 0xa1b23c4d;
const LINKTYPE_ETHERNET = 1;
/** No frame is cut. */
const SNAP_LENGTH = 262144;

const BUFFER_SIZE = 256 * 1024;
const MS_PER_SECOND = 1000;
const NS_PER_MS = 1e6;

/** Writes frames to a capture file that Wireshark and tcpdump open. Buffered: call `flush` from time to time. */
export class PcapWriter {
  readonly #fd: number;
  readonly #path: string;
  readonly #buffer = Buffer.alloc(BUFFER_SIZE);
  readonly #nowMs: () => number;
  #used = 0;
  #failed = false;

  /**
   * Replaces a file that is there, unless a capture into it is under way: then both go on in it, for the two ends of a migration
   * are often told the same. What is on a network is nobody else's business: mode 0600.
   *
   * @param nowMs wall clock in milliseconds with fraction
   */
  constructor(path: string, nowMs: () => number = () => performance.timeOrigin + performance.now()) {
    this.#path = path;
    this.#nowMs = nowMs;
    try {
      this.#fd = openSync(path, 'a', 0o600);
    } catch (error) {
      const reason = error instanceof Error && 'code' in error ? error.code : error;
      const hint = 'name a file, in a directory that exists and that you may write to';
      throw new NetError(`can't write a capture to ${path}: ${String(reason)}`, hint, error);
    }
    try {
      useTogether(this.#fd, () => this.#start());
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  /** Adds a frame in pieces, `length` bytes in all. */
  write(parts: readonly Uint8Array[], length: number): void {
    if (this.#failed || length > MAX_FRAME) return;
    if (!this.#begin(length)) return;
    for (const part of parts) {
      this.#buffer.set(part, this.#used);
      this.#used += part.length;
    }
  }

  writeOne(frame: Uint8Array): void {
    if (this.#failed || frame.length > MAX_FRAME) return;
    if (!this.#begin(frame.length)) return;
    this.#buffer.set(frame, this.#used);
    this.#used += frame.length;
  }

  /** Puts what is buffered into the file. @throws NetError once, when the disk is full or the like */
  flush(): void {
    if (this.#used === 0 || this.#failed) return;
    try {
      for (let at = 0; at < this.#used; ) at += writeSync(this.#fd, this.#buffer, at, this.#used - at);
    } catch (error) {
      this.#failed = true;
      throw new NetError(`capture to ${this.#path} ends here`, 'is the disk full?', error);
    } finally {
      this.#used = 0;
    }
  }

  close(): void {
    try {
      this.flush();
    } finally {
      closeSync(this.#fd);
    }
  }

  #start(): void {
    const header = this.#buffer;
    header.writeUInt32LE(MAGIC_NANOSECONDS, fileHeader.magic);
    header.writeUInt16LE(2, fileHeader.versionMajor);
    header.writeUInt16LE(4, fileHeader.versionMinor);
    header.writeUInt32LE(SNAP_LENGTH, fileHeader.snapLength);
    header.writeUInt32LE(LINKTYPE_ETHERNET, fileHeader.linkType);
    this.#used = fileHeader.size;
    // A pipe takes it with the first frames.
    if (!fstatSync(this.#fd).isFile()) return;
    ftruncateSync(this.#fd);
    this.flush();
  }

  #begin(length: number): boolean {
    if (this.#used + packetHeader.size + length > BUFFER_SIZE) this.flush();
    const now = this.#nowMs();
    const seconds = Math.floor(now / MS_PER_SECOND);
    const header = this.#buffer;
    header.writeUInt32LE(seconds, this.#used + packetHeader.seconds);
    header.writeUInt32LE(
      Math.floor((now - seconds * MS_PER_SECOND) * NS_PER_MS),
      this.#used + packetHeader.nanoseconds,
    );
    header.writeUInt32LE(length, this.#used + packetHeader.captured);
    header.writeUInt32LE(length, this.#used + packetHeader.original);
    this.#used += packetHeader.size;
    return true;
  }
}
