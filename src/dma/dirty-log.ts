import { endianness } from 'node:os';
import { errno, RequestError } from '../errors.ts';
import { isPowerOfTwo } from '../power-of-two.ts';
import { PageBitmap } from './dirty-bitmap.ts';
import type { DirtyScopeName, DirtyTracker, IovaRange } from './dirty-tracker.ts';
import { dmaProt } from './types.ts';

/** Bytes of the smallest and of the largest page that is tracked; all powers of two between are. */
export const trackedPage = { smallest: 4096, largest: 2 * 1024 * 1024 } as const;
/** The kernel takes as many ranges as fit in a page (`LOG_MAX_RANGES`, vfio_main.c). */
const maxRanges = 4096 / 16;

export interface DirtyLogOptions {
  readonly scope: DirtyScopeName;
  /** For `pinned` and `all`: what may have been written without being marked. Asked at start and at each report. */
  readonly mayWrite?: () => Iterable<IovaRange>;
  /** Told when marks are wanted and when no longer: attach or detach the log as the sink of guest memory. */
  readonly attach?: (wanted: boolean) => void;
}

/**
 * The internal dirty log. Pages are tracked by address, not by mapping, so what was written stays dirty
 * through unmap and remap, and through resets, until it is reported once. Reporting and clearing is one step of
 * the device loop: nothing can be written in between.
 */
export class DirtyLog implements DirtyTracker {
  readonly scope: DirtyScopeName;
  readonly #options: DirtyLogOptions;
  readonly #pages = new PageBitmap();
  #pageSize = 0;
  #perByte = 0;
  /** Sorted and merged; empty: everything. */
  #ranges: readonly IovaRange[] = [];
  /** The range that held the last mark. */
  #low = 0;
  #high = Number.MAX_SAFE_INTEGER;
  /** What might have been written when it was asked for last; it may have been since. */
  #before: readonly IovaRange[] = [];

  constructor(options: DirtyLogOptions) {
    this.scope = options.scope;
    this.#options = options;
  }

  get active(): boolean {
    return this.#pageSize !== 0;
  }

  get pageSize(): number {
    return this.#pageSize;
  }

  get count(): number {
    this.#gather();
    return this.#pages.count * (this.#pageSize / trackedPage.smallest);
  }

  start(pageSize: number, ranges: readonly IovaRange[]): number {
    if (this.active) throw new RequestError(errno.EINVAL, 'DMA logging is on already');
    if (!isPowerOfTwo(pageSize)) throw new RequestError(errno.EINVAL, `${pageSize} is no page size`);
    if (ranges.length > maxRanges) {
      throw new RequestError(errno.E2BIG, `${ranges.length} ranges; at most ${maxRanges} can be logged`);
    }
    const chosen = Math.min(trackedPage.largest, Math.max(trackedPage.smallest, pageSize));
    this.#ranges = checkRanges(ranges, pageSize);
    this.#low = this.#ranges[0]?.iova ?? 0;
    this.#high = this.#ranges[0] === undefined ? Number.MAX_SAFE_INTEGER : rangeEnd(this.#ranges[0]);
    this.#pageSize = chosen;
    this.#perByte = 1 / chosen;
    this.#before = [...(this.#options.mayWrite?.() ?? [])];
    if (this.scope === 'precise') this.#options.attach?.(true);
    return chosen;
  }

  stop(): void {
    if (!this.active) return;
    this.#pageSize = 0;
    this.#perByte = 0;
    this.#ranges = [];
    this.#before = [];
    this.#pages.clear();
    if (this.scope === 'precise') this.#options.attach?.(false);
  }

  /** Notes a write of `length` bytes. Tens of nanoseconds; allocates on the first touch of 32768 pages. */
  mark(iova: number, length: number): void {
    if (length <= 0 || this.#pageSize === 0) return;
    if (iova < this.#low || iova + length > this.#high) {
      this.#markAcross(iova, length);
      return;
    }
    const first = Math.floor(iova * this.#perByte);
    const last = Math.floor((iova + length - 1) * this.#perByte);
    if (first === last) this.#pages.set(first);
    else this.#pages.setRange(first, last + 1);
  }

  mapped(iova: number, size: number, prot: number): void {
    if (this.scope === 'all' && (prot & dmaProt.write) !== 0) this.mark(iova, size);
  }

  report(iova: number, length: number, pageSize: number, bitmap: Uint8Array): void {
    this.#checkReport(iova, length, pageSize, bitmap);
    this.#gather();
    const end = iova + length;
    const tracked = this.#pageSize;
    const first = Math.ceil(iova / tracked);
    const last = Math.floor(end / tracked);
    // Tracked pages that the range cuts are told, but stay dirty: the rest of them was not reported.
    for (const page of new Set([first - 1, last])) {
      if (page < 0 || !this.#pages.has(page)) continue;
      setBits(bitmap, iova, pageSize, Math.max(iova, page * tracked), Math.min(end, (page + 1) * tracked));
    }
    if (last <= first) return;
    const aligned = tracked === pageSize && first % 32 === 0;
    const words = aligned ? asWords(bitmap) : undefined;
    this.#pages.takeWords(first, last, (page, bits) => {
      if (words !== undefined) {
        const word = (page - first) / 32;
        words[word] = (words[word] ?? 0) | bits;
      } else if (aligned) orWord(bitmap, (page - first) / 8, bits);
      else {
        for (let left = bits; left !== 0; left &= left - 1) {
          const at = (page + 31 - Math.clz32(left & -left)) * tracked;
          setBits(bitmap, iova, pageSize, at, at + tracked);
        }
      }
      return 0;
    });
  }

  /** Visits whole tracked pages: `limit` is exceeded by what is left of the last one. */
  drainPages(visit: (iova: number) => void, limit = Number.POSITIVE_INFINITY): number {
    if (!this.active) return 0;
    this.#gather();
    const tracked = this.#pageSize;
    let visited = 0;
    if (limit <= 0) return 0;
    this.#pages.takeWords(0, Number.POSITIVE_INFINITY, (page, bits) => {
      for (let left = bits; left !== 0; left &= left - 1) {
        if (visited >= limit) return left;
        const at = (page + 31 - Math.clz32(left & -left)) * tracked;
        for (let offset = 0; offset < tracked; offset += trackedPage.smallest) visit(at + offset);
        visited += tracked / trackedPage.smallest;
      }
      return 0;
    });
    return visited;
  }

  takeDirtyPages(limit = Number.POSITIVE_INFINITY): Float64Array {
    if (!this.active) return new Float64Array(0);
    const whole = this.#pageSize / trackedPage.smallest;
    const room = Math.min(this.count, Math.ceil(Math.max(0, limit) / whole) * whole);
    const pages = new Float64Array(room);
    let count = 0;
    this.drainPages((iova) => {
      pages[count++] = iova;
    }, limit);
    return pages.subarray(0, count);
  }

  peekDirtyPages(from: number, limit: number): Float64Array {
    const pages = new Float64Array(this.active ? limit : 0);
    if (!this.active) return pages;
    this.#gather();
    const tracked = this.#pageSize;
    let count = 0;
    this.#pages.visitWords(Math.floor(from / tracked), Number.POSITIVE_INFINITY, (page, bits) => {
      for (let left = bits; left !== 0; left &= left - 1) {
        const start = (page + 31 - Math.clz32(left & -left)) * tracked;
        for (let at = Math.max(start, from); at < start + tracked; at += trackedPage.smallest) {
          if (count === limit) return false;
          pages[count++] = at;
        }
      }
      return true;
    });
    return pages.subarray(0, count);
  }

  /** For the scopes that do not see single writes: marks what may have been written since the last time. */
  #gather(): void {
    const { mayWrite } = this.#options;
    if (mayWrite === undefined || !this.active) return;
    const now = [...mayWrite()];
    for (const { iova, length } of this.#before) this.mark(iova, length);
    for (const { iova, length } of now) this.mark(iova, length);
    this.#before = now;
  }

  /** Marks the parts that lie in a logged range, and remembers the last such range. */
  #markAcross(iova: number, length: number): void {
    for (const range of this.#ranges) {
      const low = Math.max(iova, range.iova);
      const high = Math.min(iova + length, rangeEnd(range));
      if (low >= high) continue;
      this.#low = range.iova;
      this.#high = rangeEnd(range);
      this.#pages.setRange(Math.floor(low * this.#perByte), Math.floor((high - 1) * this.#perByte) + 1);
    }
  }

  #checkReport(iova: number, length: number, pageSize: number, bitmap: Uint8Array): void {
    const refuse = (why: string): never => {
      throw new RequestError(errno.EINVAL, `can't report dirty pages: ${why}`, {
        hint: 'Treat all memory as dirty after a failed report.',
      });
    };
    if (!this.active) refuse('DMA logging is off');
    if (!isPowerOfTwo(pageSize) || pageSize < trackedPage.smallest) refuse(`${pageSize} is no page size`);
    const end = iova + length;
    if (!Number.isSafeInteger(iova) || iova < 0 || !(length > 0) || !Number.isSafeInteger(end)) {
      refuse('the range is no range');
    }
    if (iova % pageSize !== 0 || length % pageSize !== 0) refuse(`the range is not aligned to ${pageSize}`);
    if (bitmap.length * 8 < length / pageSize) refuse(`a bitmap of ${bitmap.length} bytes is too short`);
    if (
      this.#ranges.length > 0 &&
      !this.#ranges.some((range) => range.iova <= iova && end <= rangeEnd(range))
    ) {
      refuse('the range is not logged');
    }
  }
}

function rangeEnd(range: IovaRange): number {
  return range.iova + range.length;
}

/** Sorts ranges, joins those that touch, and refuses what is unaligned, empty or overlapping. */
function checkRanges(ranges: readonly IovaRange[], pageSize: number): readonly IovaRange[] {
  const alignment = Math.max(pageSize, trackedPage.smallest);
  const sorted = [...ranges].sort((a, b) => a.iova - b.iova);
  const merged: { iova: number; length: number }[] = [];
  for (const { iova, length } of sorted) {
    if (!Number.isSafeInteger(iova) || iova < 0 || !(length > 0) || !Number.isSafeInteger(iova + length)) {
      throw new RequestError(errno.EINVAL, `the range ${iova}+${length} can't be logged`);
    }
    if (iova % alignment !== 0 || length % alignment !== 0) {
      throw new RequestError(errno.EINVAL, `the range 0x${iova.toString(16)} is not aligned to ${alignment}`);
    }
    const last = merged.at(-1);
    if (last !== undefined && iova < rangeEnd(last)) {
      throw new RequestError(errno.EINVAL, `the range 0x${iova.toString(16)} overlaps another`);
    }
    if (last !== undefined && iova === rangeEnd(last)) last.length += length;
    else merged.push({ iova, length });
  }
  return merged;
}

/** Sets the bits of the report for `[from, to)`. */
function setBits(bitmap: Uint8Array, iova: number, pageSize: number, from: number, to: number): void {
  const last = Math.floor((to - 1 - iova) / pageSize);
  for (let bit = Math.floor((from - iova) / pageSize); bit <= last; bit++) {
    const byte = Math.floor(bit / 8);
    bitmap[byte] = (bitmap[byte] ?? 0) | (1 << (bit & 7));
  }
}

/** The bitmap as 32-bit words, where it lies so (and the machine is little-endian, as the bitmap is). */
function asWords(bitmap: Uint8Array): Uint32Array | undefined {
  const aligned = bitmap.byteOffset % 4 === 0 && bitmap.length % 4 === 0;
  if (!aligned || endianness() !== 'LE') return undefined;
  return new Uint32Array(bitmap.buffer, bitmap.byteOffset, bitmap.length / 4);
}

/** ORs 32 bits into a little-endian bitmap; those beyond its end are 0. */
function orWord(bitmap: Uint8Array, byte: number, bits: number): void {
  for (let left = bits; left !== 0; left >>>= 8) {
    bitmap[byte] = (bitmap[byte] ?? 0) | (left & 0xff);
    byte++;
  }
}
