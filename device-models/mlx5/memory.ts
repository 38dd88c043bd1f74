import { CompanionError, type GuestMemory } from '../../src/device/index.ts';

/** Bytes of the pages that rings are made of (`log_page_size` 0). */
export const adapterPageBytes = 4096;
export const logAdapterPage = 12;

/**
 * Whether an exception means "guest memory said no" (unmapped, read-only, refused by the client): a guest's or
 * client's doing that every caller turns into the error of its queue. Anything else is a bug and passes on.
 */
export function isDmaRefusal(error: unknown): boolean {
  return error instanceof CompanionError;
}

/** A ring whose entries never cross one of its pages: an EQ, a CQ or a work queue. */
export class PagedRing {
  readonly pages: readonly number[];
  readonly logStride: number;
  readonly logSize: number;
  readonly #logPage: number;
  readonly #pageMask: number;
  readonly #indexMask: number;

  constructor(pages: readonly number[], logSize: number, logStride: number, logPageSize = 0) {
    this.pages = pages;
    this.logSize = logSize;
    this.logStride = logStride;
    this.#logPage = logAdapterPage + logPageSize;
    this.#pageMask = 2 ** this.#logPage - 1;
    this.#indexMask = 2 ** logSize - 1;
  }

  /** Entries. */
  get size(): number {
    return this.#indexMask + 1;
  }

  get logPageSize(): number {
    return this.#logPage - logAdapterPage;
  }

  /** Guest address of entry `index`, which counts on and on. */
  address(index: number): number {
    const offset = (index & this.#indexMask) << this.logStride;
    return (this.pages[offset >>> this.#logPage] ?? 0) + (offset & this.#pageMask);
  }

  /** Entries from `index` to the end of its page. */
  toPageEnd(index: number): number {
    const offset = (index & this.#indexMask) << this.logStride;
    return (this.#pageMask + 1 - (offset & this.#pageMask)) >>> this.logStride;
  }

  /** Pages that a ring of this geometry needs. */
  static pagesNeeded(logSize: number, logStride: number, logPageSize = 0): number {
    return Math.ceil(2 ** (logSize + logStride - logAdapterPage - logPageSize));
  }
}

const entryWithoutOwner = 63;
const ownerBit = 1;

/**
 * Writes a 64-byte EQE or CQE whose last byte carries the owner bit: that byte goes last, because the guest may
 * look at any moment.
 */
export function writeOwnedEntry(dma: GuestMemory, iova: number, entry: Buffer): void {
  const view = dma.writableView(iova, entry.length);
  if (view !== undefined) {
    // All of it with the owner bit of before, then that bit: the order of a block copy is nobody's promise.
    const last = entry[entryWithoutOwner] ?? 0;
    entry[entryWithoutOwner] = last ^ ownerBit;
    view.set(entry);
    view[entryWithoutOwner] = last;
    return;
  }
  dma.write(iova, entry.subarray(0, entryWithoutOwner));
  dma.writeUint8(iova + entryWithoutOwner, entry[entryWithoutOwner] ?? 0);
}
