import { readlinkSync } from 'node:fs';
import { errno, RequestError } from '../errors.ts';
import { closeFd, isSizeSealed, MappedMemory, mmapProt, open, openFlag } from '../posix/index.ts';
import type { ServedMigration } from '../transport/served-device.ts';

/** Largest window; as much as this may be mapped for an orchestrator. */
const maxSize = 64 * 1024 * 1024;
const shortestToken = 16;
/** State is loaded in pieces of this size; small enough to stay in a CPU's cache between its two passes. */
const pieceSize = 512 * 1024;

/** Where an orchestrator has put a window. */
export interface StateWindowPlace {
  readonly pid: number;
  readonly fd: number;
  /** Bytes from the start of the file. */
  readonly size: number;
  /** What these begin with, at random. */
  readonly token: Uint8Array;
}

/** Before it is opened, which does something to terminals, pipes and devices. */
function checkMemfd(path: string): void {
  let name: string;
  try {
    name = readlinkSync(path);
  } catch (cause) {
    const number = -((cause as NodeJS.ErrnoException).errno ?? -errno.ENOENT);
    throw new RequestError(number, `${path} can't be seen from here`, { cause });
  }
  if (!name.startsWith('/memfd:'))
    throw new RequestError(errno.EPERM, `a state window is a memfd, not ${name}`);
}

/**
 * Memory that the orchestrator shares with a device's server, for state to travel through instead of the migration
 * socket: MIG_DATA_READ and MIG_DATA_WRITE with the data left where both see it. The same memory given to
 * source and destination spares four copies. The orchestrator asks for each piece, as it does on the socket.
 */
export class StateWindow {
  #memory: MappedMemory | undefined;
  /** Holds what is being loaded: the window may change under the loader's checks. */
  #piece: Buffer | undefined;

  /**
   * Maps descriptor `fd` of process `pid`, in place of what was open. It has to be a memfd sealed against
   * shrinking (EPERM): touching a mapping beyond its file's end would kill this process. Named by number because
   * an orchestrator in Node can't send descriptors on its sockets; `token`, which the memory has to begin with (else
   * EPERM), tells that the numbers mean the same here as there (they don't across containers).
   */
  open({ pid, fd, size, token }: StateWindowPlace): void {
    this.close();
    if (token.length < shortestToken || token.length > size) {
      throw new RequestError(errno.EINVAL, `the token of a state window has ${shortestToken} bytes or more`);
    }
    if (size === 0 || size > maxSize) {
      throw new RequestError(errno.EINVAL, `a state window has 1 to ${maxSize} bytes, not ${size}`);
    }
    const path = `/proc/${pid}/fd/${fd}`;
    checkMemfd(path);
    const ours = open(path, openFlag.RDWR | openFlag.NONBLOCK);
    try {
      if (!isSizeSealed(ours)) {
        throw new RequestError(errno.EPERM, 'a state window is a memfd that is sealed against shrinking');
      }
      const memory = MappedMemory.map(ours, 0, size, mmapProt.READ | mmapProt.WRITE);
      if (memory.windows[0]?.subarray(0, token.length).equals(token) !== true) {
        memory.unmap();
        throw new RequestError(
          errno.EPERM,
          'the state window is not the one that was meant: its token differs',
        );
      }
      this.#memory = memory;
    } finally {
      closeFd(ours);
    }
  }

  close(): void {
    this.#memory?.unmap();
    this.#memory = undefined;
    this.#piece = undefined;
  }

  /** As MIG_DATA_READ, into the window at `offset`; returns the bytes read. */
  read(migration: ServedMigration, offset: number, length: number): number {
    return migration.read(this.#range(offset, length));
  }

  /** As MIG_DATA_WRITE, from the window. */
  write(migration: ServedMigration, offset: number, length: number): void {
    const bytes = this.#range(offset, length);
    this.#piece ??= Buffer.allocUnsafeSlow(pieceSize);
    for (let at = 0; at < length; at += pieceSize) {
      const piece = this.#piece.subarray(0, Math.min(pieceSize, length - at));
      bytes.copy(piece, 0, at);
      migration.write(piece);
    }
  }

  #range(offset: number, length: number): Buffer {
    const window = this.#memory?.windows[0];
    if (window === undefined) throw new RequestError(errno.EINVAL, 'no state window is open');
    if (length === 0 || offset > window.length || length > window.length - offset) {
      throw new RequestError(
        errno.EINVAL,
        `bytes ${offset}+${length} are not in a state window of ${window.length}`,
      );
    }
    return window.subarray(offset, offset + length);
  }
}
