import { readlinkSync } from 'node:fs';
import { errno, RequestError } from '../errors.ts';
import { closeFd, isSizeSealed, MappedMemory, mmapProt, open, openFlag } from '../posix/index.ts';

const shortestToken = 16;

/** Where an orchestrator has put memory that it shares with a server. */
export interface WindowPlace {
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
    throw new RequestError(errno.EPERM, `shared memory is a memfd, not ${name}`);
}

/** Memory that the orchestrator shares with a device's server. Its bytes may change at any time. */
export class SharedWindow {
  readonly #what: string;
  readonly #maxSize: number;
  #memory: MappedMemory | undefined;

  /**
   * @param what for messages: "state window"
   * @param maxSize as much as this may be mapped for an orchestrator, bytes
   */
  constructor(what: string, maxSize: number) {
    this.#what = what;
    this.#maxSize = maxSize;
  }

  /**
   * Maps descriptor `fd` of process `pid`, in place of what was open. It has to be a memfd sealed against
   * shrinking (EPERM): touching a mapping beyond its file's end would kill this process. Named by number because
   * an orchestrator in Node can't send descriptors on its sockets; `token`, which the memory has to begin with (else
   * EPERM), tells that the numbers mean the same here as there (they don't across containers).
   */
  open({ pid, fd, size, token }: WindowPlace): void {
    const what = this.#what;
    this.close();
    if (token.length < shortestToken || token.length > size) {
      throw new RequestError(errno.EINVAL, `the token of a ${what} has ${shortestToken} bytes or more`);
    }
    if (size === 0 || size > this.#maxSize) {
      throw new RequestError(errno.EINVAL, `a ${what} has 1 to ${this.#maxSize} bytes, not ${size}`);
    }
    const path = `/proc/${pid}/fd/${fd}`;
    checkMemfd(path);
    const ours = open(path, openFlag.RDWR | openFlag.NONBLOCK);
    try {
      if (!isSizeSealed(ours)) {
        throw new RequestError(errno.EPERM, `a ${what} is a memfd that is sealed against shrinking`);
      }
      const memory = MappedMemory.map(ours, 0, size, mmapProt.READ | mmapProt.WRITE);
      if (memory.windows[0]?.subarray(0, token.length).equals(token) !== true) {
        memory.unmap();
        throw new RequestError(errno.EPERM, `the ${what} is not the one that was meant: its token differs`);
      }
      this.#memory = memory;
    } finally {
      closeFd(ours);
    }
  }

  close(): void {
    this.#memory?.unmap();
    this.#memory = undefined;
  }

  /** @throws RequestError EINVAL: not open, or empty or beyond the end */
  range(offset: number, length: number): Buffer {
    const window = this.#memory?.windows[0];
    if (window === undefined) throw new RequestError(errno.EINVAL, `no ${this.#what} is open`);
    if (length === 0 || offset > window.length || length > window.length - offset) {
      throw new RequestError(
        errno.EINVAL,
        `bytes ${offset}+${length} are not in a ${this.#what} of ${window.length}`,
      );
    }
    return window.subarray(offset, offset + length);
  }
}
