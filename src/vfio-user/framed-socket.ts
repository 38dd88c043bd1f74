import { CompanionError, errno } from '../errors.ts';
import { closeFd, dupFd, recvMessage, sendMessage, setSocketBuffers } from '../posix/index.ts';
import { header } from './structs.ts';

/** What `FramedSocket.next()` found. */
export const frame = {
  /** No complete message yet. */
  none: 0,
  /** A complete message at `at`, `length` bytes with its header. */
  message: 1,
  /** A header that announces more than `maxMessage`; the body will be skipped as it comes. */
  oversized: 2,
  /** A header that announces less than itself: nothing behind it can be understood. */
  malformed: 3,
} as const;

/** Room beyond the largest message, so that several small ones fit behind a large one. */
const spareRoom = 64 * 1024;
/** What is kept back of small messages at most, while corked. */
const gatherRoom = 16 * 1024;
/**
 * Descriptors that may be there before the message that they came with is whole: more than one `sendmsg` takes (253), and than any
 * message may have. A peer that sends some with each byte of a long one would fill this process's table of open files.
 */
const maxEarlyDescriptors = 512;
const noDescriptors: readonly number[] = Object.freeze([]);

interface DescriptorGroup {
  /** Stream position behind the bytes that the descriptors came with. */
  readonly end: number;
  readonly fds: number[];
}

interface Outgoing {
  bytes: Buffer;
  /** Duplicates, ours to close; sent with the first byte. */
  fds: number[] | undefined;
}

export interface FramedSocketOptions {
  /** Largest message accepted, header included. */
  readonly maxMessage: number;
  /** Bytes that may wait for a peer that does not read; more closes the socket. */
  readonly maxQueued: number;
  /** Kernel buffers to ask for, for connections that carry much data; the system's default (208 KiB) if left out. */
  readonly kernelBuffers?: number;
}

/**
 * A vfio-user connection as a sequence of messages: one receive buffer in which messages are looked at where
 * they lie, descriptors sorted to the message that they came with, and an output queue with a bound. Owns
 * the descriptor. Never waits, never throws for what a peer does: it is then `closed`, with a `reason`.
 *
 * Which message descriptors belong to: recvmsg on a Linux stream socket returns no bytes behind the buffer
 * (skb) that carried descriptors (net/unix/af_unix.c, unix_stream_read_generic), so they belong to the last
 * message that starts within what one recvmsg returned.
 */
export class FramedSocket {
  readonly fd: number;
  /** Where the message that `next()` found begins in `buffer`. */
  at = 0;
  /** Bytes of the message that `next()` found, header included. */
  length = 0;
  /** Undefined while open; then why it was closed. */
  reason: string | undefined;
  readonly #maxMessage: number;
  readonly #maxQueued: number;
  readonly #pins: Buffer[] = [];
  readonly #groups: DescriptorGroup[] = [];
  readonly #queue: Outgoing[] = [];
  #buffer: Buffer;
  #start = 0;
  #end = 0;
  /** Stream position of byte 0 of the buffer. */
  #base = 0;
  /** Bytes of an oversized message that are still to come. */
  #skip = 0;
  #queued = 0;
  #released = false;
  #corked = false;
  #gathered: Buffer | undefined;
  #gatheredBytes = 0;
  #arrived: number[] = [];

  constructor(fd: number, options: FramedSocketOptions) {
    this.fd = fd;
    this.#maxMessage = options.maxMessage;
    this.#maxQueued = options.maxQueued;
    this.#buffer = Buffer.allocUnsafeSlow(options.maxMessage + spareRoom);
    if (options.kernelBuffers !== undefined) setSocketBuffers(fd, options.kernelBuffers);
  }

  /** The buffer that holds the message found by `next()`. Another one after a `receive()`: keep a reference. */
  get buffer(): Buffer {
    return this.#buffer;
  }

  get closed(): boolean {
    return this.reason !== undefined;
  }

  /** Whether output waits for the peer to read. */
  get blocked(): boolean {
    return this.#queue.length > 0;
  }

  /**
   * Receives once.
   *
   * @param wait sleep until something comes, at most as long as `setSocketTimeout` says
   * @returns true when bytes came; false when there were none, or the peer is gone (`closed`)
   */
  receive(wait = false): boolean {
    if (this.closed) return false;
    this.#makeRoom();
    const buffer = this.#buffer;
    let received: number;
    try {
      received = recvMessage(this.fd, buffer, this.#end, buffer.length - this.#end, this.#arrived, wait);
    } catch (error) {
      this.#fail(error);
      return false;
    }
    if (received < 0) return false;
    if (received === 0) {
      const inside = this.#end > this.#start || this.#skip > 0;
      this.close(inside ? 'the peer disconnected inside a message' : 'the peer disconnected');
      return false;
    }
    this.#end += received;
    if (this.#arrived.length > 0) {
      this.#groups.push({ end: this.#base + this.#end, fds: this.#arrived });
      this.#arrived = [];
      if (this.#groups.reduce((sum, { fds }) => sum + fds.length, 0) > maxEarlyDescriptors) {
        this.close('the peer sends descriptors without their messages');
        return false;
      }
    }
    if (this.#skip > 0) this.#skipArrived();
    return true;
  }

  /** Finds the next message among what was received; one of `frame`. The one found before is given up. */
  next(): number {
    const available = this.#end - this.#start;
    if (available < header.size) return frame.none;
    const size = this.#buffer.readUInt32LE(this.#start + header.offsets.msg_size);
    if (size < header.size) {
      this.at = this.#start;
      this.length = header.size;
      return frame.malformed;
    }
    if (size > this.#maxMessage) {
      this.at = this.#start;
      this.length = header.size;
      this.#closeGroups(this.#base + this.#start + size);
      this.#skip = size;
      this.#skipArrived();
      return frame.oversized;
    }
    if (available < size) return frame.none;
    this.at = this.#start;
    this.length = size;
    this.#start += size;
    return frame.message;
  }

  /** Whether `next()` would find something, without another `receive()`. */
  get pending(): boolean {
    const available = this.#end - this.#start;
    if (available < header.size) return false;
    const size = this.#buffer.readUInt32LE(this.#start + header.offsets.msg_size);
    return available >= size || size > this.#maxMessage;
  }

  /** Header flags of the message that `next()` would find; only asked for when `pending`. */
  peekFlags(): number {
    return this.#buffer.readUInt32LE(this.#start + header.offsets.flags);
  }

  /** The descriptors of the message that `next()` found; they become the caller's. Once per message. */
  takeDescriptors(): readonly number[] {
    if (this.#groups.length === 0) return noDescriptors;
    const end = this.#base + this.at + this.length;
    let fds: number[] | undefined;
    for (;;) {
      const group = this.#groups[0];
      if (group === undefined || group.end > end) return fds ?? noDescriptors;
      this.#groups.shift();
      fds = fds === undefined ? group.fds : fds.concat(group.fds);
    }
  }

  /** Keeps the bytes of the message found by `next()` where they are, over calls of `receive()`, until `unpin()`. */
  pin(): void {
    this.#pins.push(this.#buffer);
  }

  unpin(): void {
    this.#pins.pop();
  }

  /**
   * Sends the first `length` bytes of `bytes` and then `payload`; what the peer has no room for is copied and
   * queued. `fds` stay the caller's.
   */
  send(bytes: Buffer, length: number, payload?: Uint8Array, fds?: readonly number[]): void {
    if (this.closed) return;
    const total = length + (payload?.length ?? 0);
    if (this.#corked && fds === undefined && total <= gatherRoom - this.#gatheredBytes) {
      this.#gather(bytes, length, payload);
      return;
    }
    this.sendKept();
    this.#sendNow(bytes, length, payload, fds, total);
  }

  /** Small messages are kept together from now on, and sent by `uncork()` at the latest. */
  cork(): void {
    this.#corked = true;
  }

  uncork(): void {
    this.#corked = false;
    this.sendKept();
  }

  #gather(bytes: Buffer, length: number, payload: Uint8Array | undefined): void {
    this.#gathered ??= Buffer.allocUnsafeSlow(gatherRoom);
    bytes.copy(this.#gathered, this.#gatheredBytes, 0, length);
    if (payload !== undefined) this.#gathered.set(payload, this.#gatheredBytes + length);
    this.#gatheredBytes += length + (payload?.length ?? 0);
  }

  /** Sends what is kept, and goes on keeping. */
  sendKept(): void {
    const length = this.#gatheredBytes;
    if (length === 0 || this.#gathered === undefined) return;
    this.#gatheredBytes = 0;
    if (!this.closed) this.#sendNow(this.#gathered, length, undefined, undefined, length);
  }

  #sendNow(
    bytes: Buffer,
    length: number,
    payload: Uint8Array | undefined,
    fds: readonly number[] | undefined,
    total: number,
  ): void {
    let sent = 0;
    if (this.#queue.length === 0) {
      try {
        sent = sendMessage(this.fd, bytes, length, payload, fds, false);
      } catch (error) {
        this.#fail(error);
        return;
      }
      if (sent === total) return;
      if (sent < 0) sent = 0;
    }
    this.#enqueue(bytes, length, payload, sent > 0 ? undefined : fds, sent);
  }

  /** Sends queued output as far as the peer takes it. */
  flush(): void {
    while (!this.closed) {
      const head = this.#queue[0];
      if (head === undefined) return;
      let sent: number;
      try {
        sent = sendMessage(this.fd, head.bytes, head.bytes.length, undefined, head.fds, false);
      } catch (error) {
        this.#fail(error);
        return;
      }
      if (sent < 0) return;
      this.#releaseQueued(head);
      this.#queued -= sent;
      if (sent < head.bytes.length) {
        head.bytes = head.bytes.subarray(sent);
        return;
      }
      this.#queue.shift();
    }
  }

  /** Ends it; the descriptor itself is given back by `release()`, when nobody can be waiting on it any more. */
  close(reason: string): void {
    if (this.reason !== undefined) return;
    // What a peer was answered before stays answered.
    this.sendKept();
    if (this.closed) return;
    this.reason = reason;
    for (const entry of this.#queue.splice(0)) this.#releaseQueued(entry);
    this.#closeGroups(Number.POSITIVE_INFINITY);
    for (const fd of this.#arrived.splice(0)) closeFd(fd);
    this.#start = 0;
    this.#end = 0;
  }

  /** Closes the descriptor, after `close()`. */
  release(): void {
    this.close('closed');
    if (this.#released) return;
    this.#released = true;
    closeFd(this.fd);
  }

  #fail(error: unknown): void {
    if (!(error instanceof CompanionError)) throw error;
    const gone = error.errno === errno.EPIPE || error.errno === errno.ECONNRESET;
    this.close(gone ? 'the peer disconnected' : error.message);
  }

  #makeRoom(): void {
    const pinned = this.#pins.includes(this.#buffer);
    if (this.#start === this.#end && !pinned) {
      this.#base += this.#end;
      this.#start = 0;
      this.#end = 0;
      return;
    }
    const room = this.#buffer.length - this.#end;
    const have = this.#end - this.#start;
    let needed = header.size - have;
    if (needed <= 0) {
      const size = this.#buffer.readUInt32LE(this.#start + header.offsets.msg_size);
      needed = Math.min(size, this.#maxMessage) - have;
    }
    if (room >= Math.max(needed, header.size)) return;
    const target = pinned ? Buffer.allocUnsafeSlow(this.#buffer.length) : this.#buffer;
    this.#buffer.copy(target, 0, this.#start, this.#end);
    this.#buffer = target;
    this.#base += this.#start;
    this.#start = 0;
    this.#end = have;
  }

  #skipArrived(): void {
    const skipped = Math.min(this.#skip, this.#end - this.#start);
    this.#start += skipped;
    this.#skip -= skipped;
    this.#closeGroups(this.#base + this.#start);
  }

  #closeGroups(end: number): void {
    for (;;) {
      const group = this.#groups[0];
      if (group === undefined || group.end > end) return;
      this.#groups.shift();
      for (const fd of group.fds) closeFd(fd);
    }
  }

  #enqueue(
    bytes: Buffer,
    length: number,
    payload: Uint8Array | undefined,
    fds: readonly number[] | undefined,
    sent: number,
  ): void {
    const total = length + (payload?.length ?? 0);
    if (this.#queued + total - sent > this.#maxQueued) {
      this.close('the peer does not read what it is sent');
      return;
    }
    const rest = Buffer.allocUnsafe(total - sent);
    const fromBytes = Math.max(0, length - sent);
    if (fromBytes > 0) bytes.copy(rest, 0, sent, length);
    if (payload !== undefined) rest.set(payload.subarray(Math.max(0, sent - length)), fromBytes);
    this.#queued += rest.length;
    this.#queue.push({ bytes: rest, fds: fds?.map(dupFd) });
  }

  #releaseQueued(entry: Outgoing): void {
    if (entry.fds === undefined) return;
    for (const fd of entry.fds) closeFd(fd);
    entry.fds = undefined;
  }
}
