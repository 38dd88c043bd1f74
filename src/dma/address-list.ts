/** Something that occupies the addresses `[iova, end)`. */
export interface AddressRange {
  readonly iova: number;
  readonly end: number;
}

/** Ranges in address order, none overlapping another. */
export class AddressList<T extends AddressRange> {
  readonly #ranges: T[] = [];
  readonly #nothing: T;
  /** What was found last: a device works in one place for a while. */
  #last: T;
  #snapshot: readonly T[] | undefined;

  /** @param nothing an empty range, returned where there is none */
  constructor(nothing: T) {
    this.#nothing = nothing;
    this.#last = nothing;
  }

  get count(): number {
    return this.#ranges.length;
  }

  /** The range that holds `iova`, or `nothing`. */
  find(iova: number): T {
    const last = this.#last;
    if (iova >= last.iova && iova < last.end) return last;
    const below = this.#ranges[this.#indexAfter(iova) - 1];
    if (below === undefined || !(iova < below.end)) return this.#nothing;
    this.#last = below;
    return below;
  }

  /** Some range that shares addresses with `[iova, end)`. */
  overlapping(iova: number, end: number): T | undefined {
    const below = this.#ranges[this.#indexAfter(end - 1) - 1];
    return below !== undefined && below.end > iova ? below : undefined;
  }

  add(range: T): void {
    this.#ranges.splice(this.#indexAfter(range.iova), 0, range);
    this.#snapshot = undefined;
  }

  /** Removes the ranges that begin in `[iova, end)`. */
  remove(iova: number, end: number): T[] {
    const first = this.#indexAfter(iova - 1);
    const removed = this.#ranges.splice(first, this.#indexAfter(end - 1) - first);
    this.#last = this.#nothing;
    this.#snapshot = undefined;
    return removed;
  }

  /** In address order; a new array only after a change. */
  all(): readonly T[] {
    this.#snapshot ??= [...this.#ranges];
    return this.#snapshot;
  }

  /** Number of ranges that begin at or below `iova`. */
  #indexAfter(iova: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const range = this.#ranges[middle];
      if (range !== undefined && range.iova <= iova) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
