import { errno } from '../errors.ts';
import { PosixError } from './errno.ts';
import { checkRange } from './files.ts';
import { iovec, msgFlag } from './layout.ts';
import { addressOf, lastErrno, libc } from './libc.ts';
import { putWord, type RawArea, rawArea } from './raw.ts';

/**
 * Sends bytes of an area on a socket without waiting.
 *
 * @returns bytes sent, fewer than asked for only on a stream; -EAGAIN when there is no room
 * @throws PosixError EPIPE, ECONNRESET, EMSGSIZE
 */
export function sendArea(fd: number, area: RawArea, at: number, length: number): number {
  checkRange(area.bytes, at, length);
  for (;;) {
    const sent = libc.send(fd, area.address + at, length, msgFlag.DONTWAIT | msgFlag.NOSIGNAL);
    if (sent >= 0) return sent;
    const error = lastErrno();
    if (error !== errno.EINTR) return refused(error, 'send', fd);
  }
}

/** Memory pressure (ENOBUFS) is over as soon as somebody reads: for a caller it is a full socket. */
const ENOBUFS = 105;

function refused(error: number, call: string, fd: number): number {
  if (error === errno.EAGAIN || error === ENOBUFS || error === errno.ENOMEM) return -errno.EAGAIN;
  throw new PosixError(`${call} ${fd}`, error);
}

/** Arrays whose addresses are found without a look-up. */
const RECENT = 4;

/**
 * A list of pieces of memory that one `writev` sends as one, laid out once. Addresses of the arrays that
 * pieces lie in are remembered weakly, so guest memory is looked up once per mapping.
 */
export class VectorList {
  readonly #vectors: RawArea;
  readonly #capacity: number;
  readonly #addresses = new WeakMap<ArrayBufferLike, number>();
  /** The arrays that were looked up last: a frame's pieces come from few (its headers, guest memory). */
  readonly #recent = new Array<ArrayBufferLike | undefined>(RECENT).fill(undefined);
  readonly #recentAddress = new Array<number>(RECENT).fill(0);
  #replaced = 0;
  #count = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#vectors = rawArea(capacity * iovec.size);
  }

  clear(): void {
    this.#count = 0;
  }

  /** Adds a piece; it must not move until it is written. False when the list is full. */
  add(piece: Uint8Array): boolean {
    if (this.#count === this.#capacity) return false;
    const at = this.#count++ * iovec.size;
    putWord(this.#vectors.bytes, at + iovec.base, this.#addressOf(piece));
    putWord(this.#vectors.bytes, at + iovec.len, piece.length);
    return true;
  }

  /**
   * Writes all pieces with one call.
   *
   * @returns bytes written, or the negative errno: what a write to a network interface fails with is
   *   ordinary (it is down, its queue is full), so nothing is thrown
   */
  write(fd: number): number {
    for (;;) {
      const written = libc.writev(fd, this.#vectors.address, this.#count);
      if (written >= 0) return written;
      const error = lastErrno();
      if (error !== errno.EINTR) return -error;
    }
  }

  #addressOf(piece: Uint8Array): number {
    const array = piece.buffer;
    for (let slot = 0; slot < RECENT; slot++)
      if (this.#recent[slot] === array) return (this.#recentAddress[slot] ?? 0) + piece.byteOffset;
    let address = this.#addresses.get(array);
    if (address === undefined) {
      address = addressOf(piece) - piece.byteOffset;
      this.#addresses.set(array, address);
    }
    this.#recent[this.#replaced] = array;
    this.#recentAddress[this.#replaced] = address;
    this.#replaced = (this.#replaced + 1) % RECENT;
    return address + piece.byteOffset;
  }
}
