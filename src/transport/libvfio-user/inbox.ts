import { errno } from '../../errors.ts';
import {
  bytesWaiting,
  PosixError,
  peekBytes,
  peekMessage,
  recvBytes,
  recvMessage,
} from '../../posix/index.ts';
import { header } from '../../vfio-user/structs.ts';

/** What `Inbox.look` found. */
export const found = { nothing: 0, part: 1, message: 2, end: 3 } as const;

/** Enough of a message for everything that is looked at: header and the structures of the small requests. */
const lookSize = 64;

/**
 * The head of a client's stream, looked at but not taken: requests are the library's to receive, replies to the
 * device's own messages are not.
 */
export class Inbox {
  readonly fd: number;
  /** What was seen, from the header on; valid until the next call. */
  readonly bytes: Buffer;
  /** Size that the header claims. */
  size = 0;
  /** Bytes of it in `bytes`. */
  seen = 0;
  /** Bytes of a reply that have been taken, at `taken()`. */
  #got = 0;
  #taking = false;
  readonly #reply: Buffer;

  /** @param largest bytes of the longest reply that is taken */
  constructor(fd: number, largest: number) {
    this.fd = fd;
    const slab = Buffer.allocUnsafeSlow(lookSize + largest);
    this.bytes = slab.subarray(0, lookSize);
    this.#reply = slab.subarray(lookSize);
  }

  /** Whether anything waits, an end included. */
  get ready(): boolean {
    try {
      return peekBytes(this.fd, this.bytes, 0, header.size) !== -errno.EAGAIN;
    } catch {
      return true;
    }
  }

  /** Whether a reply is being taken, which comes before anything else. */
  get taking(): boolean {
    return this.#taking;
  }

  /**
   * Looks at the next message. `part` when its end has not arrived; a size that the library refuses by the
   * header alone counts as whole.
   *
   * @param limit sizes above it are refused
   */
  look(limit: number): number {
    let seen: number;
    try {
      seen = peekBytes(this.fd, this.bytes, 0, lookSize);
    } catch (error) {
      if (error instanceof PosixError) return found.end;
      throw error;
    }
    if (seen === -errno.EAGAIN) return found.nothing;
    if (seen === 0) return found.end;
    this.seen = seen;
    if (seen < header.size) return found.part;
    this.size = this.bytes.readUInt32LE(header.offsets.msg_size);
    if (this.size <= seen || this.size > limit) return found.message;
    return bytesWaiting(this.fd) < this.size ? found.part : found.message;
  }

  /** As much of the message as `room` and its size allow, with copies of its descriptors; it stays where it is. */
  peekWhole(room: number, fds: number[]): Buffer {
    const target = Buffer.alloc(Math.min(room, Math.max(this.size, header.size)));
    const length = peekMessage(this.fd, target, 0, target.length, fds);
    return target.subarray(0, Math.max(0, length));
  }

  /** Takes the message, with its descriptors. */
  take(fds: number[]): Buffer {
    const target = Buffer.alloc(Math.max(this.size, header.size));
    let at = 0;
    while (at < target.length) {
      const length = recvMessage(this.fd, target, at, target.length - at, fds, false);
      if (length <= 0) break;
      at += length;
    }
    return target.subarray(0, at);
  }

  /** Takes all that waits and looks at none of it; the kernel closes what descriptors there are. */
  discard(): void {
    try {
      while (recvBytes(this.fd, this.#reply, 0, this.#reply.length, false) > 0);
    } catch (error) {
      // A connection that was reset holds nothing.
      if (!(error instanceof PosixError)) throw error;
    }
  }

  /**
   * Takes (more of) the reply that was looked at.
   *
   * @returns the whole of it; undefined while bytes are missing; `false` when it is too long to be one
   */
  takeReply(): Buffer | undefined | false {
    if (!this.#taking) {
      if (this.size < header.size || this.size > this.#reply.length) return false;
      this.#taking = true;
      this.#got = 0;
    }
    const length = recvBytes(this.fd, this.#reply, this.#got, this.size - this.#got, false);
    if (length === 0) return false;
    if (length > 0) this.#got += length;
    if (this.#got < this.size) return undefined;
    this.#taking = false;
    return this.#reply.subarray(0, this.size);
  }
}
