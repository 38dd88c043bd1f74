import { dmaProt } from '../../dma/types.ts';
import { errno, RequestError } from '../../errors.ts';

/** Memory of the client at `iova`, reached by the server's DMA messages. */
export interface MemoryRange {
  readonly iova: number;
  readonly size: number;
  /** `dmaProt` bits. */
  readonly prot: number;
  readonly read: (offset: number, target: Uint8Array) => void;
  readonly write: (offset: number, source: Uint8Array) => void;
}

/** A range backed by bytes at hand. */
export function bytesRange(iova: number, bytes: Uint8Array, prot: number): MemoryRange {
  return {
    iova,
    size: bytes.length,
    prot,
    read: (offset, target) => target.set(bytes.subarray(offset, offset + target.length)),
    write: (offset, source) => bytes.set(source, offset),
  };
}

/** What the client answers DMA_READ and DMA_WRITE from. An access lies within one range. */
export class ClientMemory {
  readonly #ranges = new Map<number, MemoryRange>();

  /** Adds a range; one at the same `iova` is replaced. */
  add(range: MemoryRange): void {
    this.#ranges.set(range.iova, range);
  }

  /** All ranges that lie in `[iova, iova + size)`. */
  remove(iova: number, size: number): void {
    for (const range of this.#ranges.values())
      if (range.iova >= iova && range.iova + range.size <= iova + size) this.#ranges.delete(range.iova);
  }

  clear(): void {
    this.#ranges.clear();
  }

  /** Throws `RequestError` ENODEV where nothing is (as QEMU does), EACCES without permission. */
  read(iova: number, target: Uint8Array): void {
    const range = this.#find(iova, target.length, dmaProt.read);
    range.read(iova - range.iova, target);
  }

  /** Throws as `read`. */
  write(iova: number, source: Uint8Array): void {
    const range = this.#find(iova, source.length, dmaProt.write);
    range.write(iova - range.iova, source);
  }

  #find(iova: number, length: number, prot: number): MemoryRange {
    for (const range of this.#ranges.values()) {
      if (iova < range.iova || iova + length > range.iova + range.size) continue;
      if ((range.prot & prot) !== 0) return range;
      throw new RequestError(errno.EACCES, `no permission for ${length} bytes at 0x${iova.toString(16)}`);
    }
    throw new RequestError(errno.ENODEV, `no memory for ${length} bytes at 0x${iova.toString(16)}`);
  }
}
