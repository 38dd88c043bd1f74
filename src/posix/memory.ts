import { errno, RequestError } from '../errors.ts';
import { check } from './errno.ts';
import { fstatSize } from './files.ts';
import { mmapFlag, mmapProt, PAGE_SIZE } from './layout.ts';
import { libc, viewOf } from './libc.ts';

/** Bytes of one window: an ArrayBuffer of more than 4 GiB aborts Node 20. Every window but the last is this long. */
export const WINDOW_SIZE = 2 ** 30;

/** The address range of an unmapped memory, given back once no window of it is reachable any more. */
interface Remains {
  readonly address: number;
  readonly length: number;
  windows: number;
}

const buried = new FinalizationRegistry<Remains>((remains) => {
  remains.windows -= 1;
  if (remains.windows === 0) libc.munmap(remains.address, remains.length);
});

/**
 * A shared mapping of a file (guest RAM, a BAR). JavaScript keeps views of it alive at will, and touching
 * an unmapped page kills the process; `unmap` therefore lets go of the file at once but leaves harmless
 * zero pages in its place until the last window has been garbage collected.
 *
 * A peer that shrinks the file after it was mapped makes the next access raise SIGBUS, which can't be
 * caught here; only what is knowable at the time of mapping is checked.
 */
export class MappedMemory {
  readonly length: number;
  readonly windows: readonly Buffer[];
  readonly #address: number;
  #mapped = true;

  private constructor(address: number, length: number) {
    this.#address = address;
    this.length = length;
    const windows: Buffer[] = [];
    for (let at = 0; at < length; at += WINDOW_SIZE)
      windows.push(viewOf(address + at, Math.min(WINDOW_SIZE, length - at)));
    this.windows = windows;
  }

  /**
   * Maps `length` bytes of `fd` from `offset` (a multiple of the page size), shared. The descriptor is not
   * needed afterwards and stays the caller's. A write through a mapping without `WRITE` kills the process.
   *
   * @param prot `mmapProt` bits
   * @throws RequestError EINVAL when the range is not within the file; PosixError for what mmap refuses
   */
  static map(fd: number, offset: number, length: number, prot: number): MappedMemory {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset % PAGE_SIZE !== 0)
      throw new RequestError(
        errno.EINVAL,
        `can't map from file offset ${offset}: not a multiple of ${PAGE_SIZE}`,
      );
    if (!Number.isSafeInteger(length) || length <= 0)
      throw new RequestError(errno.EINVAL, `can't map ${length} bytes`);
    const size = fstatSize(fd);
    if (offset + length > size)
      throw new RequestError(errno.EINVAL, `can't map bytes ${offset}+${length} of a file of ${size}`);
    const address = libc.mmap(
      0,
      length,
      prot & (mmapProt.READ | mmapProt.WRITE),
      mmapFlag.SHARED,
      fd,
      offset,
    );
    check(address, `mmap ${length} bytes of descriptor ${fd}`);
    return new MappedMemory(address, length);
  }

  /** Address in this process; for native code that is handed the memory. */
  get address(): bigint {
    return BigInt(this.#address);
  }

  /** Lets go of the file. Idempotent. Late reads see zeros (or what late writes put there). */
  unmap(): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    const flags = mmapFlag.PRIVATE | mmapFlag.ANONYMOUS | mmapFlag.NORESERVE | mmapFlag.FIXED;
    const prot = mmapProt.READ | mmapProt.WRITE;
    if (libc.mmap(this.#address, this.length, prot, flags, -1, 0) === -1) {
      // No memory for page tables: the file must be let go of, and then late views are fatal.
      check(libc.munmap(this.#address, this.length), 'munmap');
      return;
    }
    const remains = { address: this.#address, length: this.length, windows: this.windows.length };
    for (const window of this.windows) buried.register(window.buffer, remains);
  }
}
