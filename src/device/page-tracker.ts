/**
 * Which pages of a device's own memory were written: a bitmap that counts itself and hands pages out in
 * address order. For on-board memory; writes to guest memory are the framework's to log.
 */
export class PageTracker {
  readonly pageSize: number;
  readonly pages: number;
  readonly #bits: Uint32Array;
  #count = 0;

  /**
   * @param size bytes covered
   * @param pageSize bytes of a page
   */
  constructor(size: number, pageSize = 4096) {
    this.pageSize = pageSize;
    this.pages = Math.ceil(size / pageSize);
    this.#bits = new Uint32Array(Math.ceil(this.pages / 32));
  }

  /** Pages marked. */
  get count(): number {
    return this.#count;
  }

  /** Marks every page that `[offset, offset + length)`, in bytes, touches. */
  mark(offset: number, length: number): void {
    if (length <= 0) return;
    const last = Math.floor((offset + length - 1) / this.pageSize);
    for (let page = Math.floor(offset / this.pageSize); page <= last; page++) {
      const word = this.#bits[page >>> 5] ?? 0;
      const bit = 1 << (page & 31);
      if ((word & bit) === 0) {
        this.#bits[page >>> 5] = word | bit;
        this.#count++;
      }
    }
  }

  /** Whether a page, counted from 0, is marked. */
  has(page: number): boolean {
    return ((this.#bits[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0;
  }

  /** Takes the mark off a page. */
  clear(page: number): void {
    if (!this.has(page)) return;
    this.#bits[page >>> 5] = (this.#bits[page >>> 5] ?? 0) & ~(1 << (page & 31));
    this.#count--;
  }

  clearAll(): void {
    this.#bits.fill(0);
    this.#count = 0;
  }

  /** Takes over all marks of `other`, which covers as many pages. */
  copyFrom(other: PageTracker): void {
    this.#bits.set(other.#bits);
    this.#count = other.#count;
  }

  /** First marked page at or after `from`, or -1. */
  next(from: number): number {
    for (let word = from >>> 5; word < this.#bits.length; word++) {
      let bits = this.#bits[word] ?? 0;
      if (word === from >>> 5) bits &= -1 << (from & 31);
      if (bits !== 0) return word * 32 + (31 - Math.clz32(bits & -bits));
    }
    return -1;
  }

  /** How many marked pages follow each other from `page` on, at most `limit`. */
  run(page: number, limit: number): number {
    let length = 0;
    while (length < limit && page + length < this.pages && this.has(page + length)) length++;
    return length;
  }
}
