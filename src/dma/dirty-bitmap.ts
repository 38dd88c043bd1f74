/** Pages in a leaf: 4 KiB of bitmap, 128 MiB of address space at 4 KiB a page. */
const leafPages = 32768;
const leafWords = leafPages / 32;
/** Leaves in a directory. */
const directoryLeaves = 1024;
const directoryPages = directoryLeaves * leafPages;
/** Highest page number plus one: what 2^53 bytes make at 4 KiB a page. */
const maxPages = 2 ** 41;

/** Part of the bitmap, with one summary bit for each of its words so that clean ones are skipped. */
interface Leaf {
  readonly first: number;
  readonly words: Uint32Array;
  readonly summary: Uint32Array;
}

/** Holds no page; where the search starts. */
const nowhere: Leaf = {
  first: Number.NEGATIVE_INFINITY,
  words: new Uint32Array(0),
  summary: new Uint32Array(0),
};

/** Index of the page's leaf in its directory. */
function leafIndex(page: number): number {
  return Math.floor(page / leafPages) % directoryLeaves;
}

/** Number of trailing zero bits; `value` is not 0. */
function lowestBit(value: number): number {
  return 31 - Math.clz32(value & -value);
}

function popcount(value: number): number {
  let v = value - ((value >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** The bits of a 32-bit word from `low` up to and without `high`. */
function wordMask(low: number, high: number): number {
  const below = high >= 32 ? -1 : (1 << high) - 1;
  return (below & (-1 << low)) >>> 0;
}

/**
 * A set of page numbers below 2^41, sparse at three levels (directories of leaves of words): memory and
 * the cost of a walk follow what was ever set, not the width of the space. Setting allocates on the
 * first touch of 32768 pages only.
 */
export class PageBitmap {
  #count = 0;
  readonly #directories: (Leaf | undefined)[][] = [];
  /** The leaf that was used last: most writes fall into it again. */
  #last: Leaf = nowhere;

  /** Number of pages in the set. */
  get count(): number {
    return this.#count;
  }

  clear(): void {
    this.#count = 0;
    this.#directories.length = 0;
    this.#last = nowhere;
  }

  has(page: number): boolean {
    const leaf = this.#directories[Math.floor(page / directoryPages)]?.[leafIndex(page)];
    if (leaf === undefined) return false;
    const at = page - leaf.first;
    return ((leaf.words[at >>> 5] ?? 0) & (1 << (at & 31))) !== 0;
  }

  /** Puts one page in. */
  set(page: number): void {
    let at = page - this.#last.first;
    if (at < 0 || at >= leafPages) {
      this.#last = this.#leafOf(page);
      at = page - this.#last.first;
    }
    const leaf = this.#last;
    const word = at >>> 5;
    const bit = 1 << (at & 31);
    const old = leaf.words[word] ?? 0;
    if ((old & bit) !== 0) return;
    leaf.words[word] = old | bit;
    leaf.summary[word >>> 5] = (leaf.summary[word >>> 5] ?? 0) | (1 << (word & 31));
    this.#count++;
  }

  /** Puts `[first, end)` in, by words. */
  setRange(first: number, end: number): void {
    while (first < end) {
      const leaf = this.#leafOf(first);
      const at = first - leaf.first;
      const stop = Math.min(leafPages, at + (end - first));
      for (let page = at; page < stop; ) {
        const word = page >>> 5;
        const mask = wordMask(page & 31, stop - (page & ~31));
        const old = leaf.words[word] ?? 0;
        leaf.words[word] = old | mask;
        leaf.summary[word >>> 5] = (leaf.summary[word >>> 5] ?? 0) | (1 << (word & 31));
        this.#count += popcount(mask & ~old);
        page = (page & ~31) + 32;
      }
      first += stop - at;
    }
  }

  /**
   * Takes the pages of `[first, end)` out, 32 at a time, ascending: `visit` gets the number of the first page of a
   * group (a multiple of 32) and the non-zero bits that were set. Stops early when `visit` returns bits:
   * these stay in the set.
   */
  takeWords(first: number, end: number, visit: (page: number, bits: number) => number): void {
    this.#eachWord(first, end, (leaf, word, bits) => {
      const kept = visit(leaf.first + word * 32, bits);
      const rest = (((leaf.words[word] ?? 0) & ~bits) | kept) >>> 0;
      leaf.words[word] = rest;
      if (rest === 0) {
        const group = word >>> 5;
        leaf.summary[group] = (leaf.summary[group] ?? 0) & ~(1 << (word & 31));
      }
      this.#count -= popcount(bits) - popcount(kept);
      return kept === 0;
    });
  }

  /** As `takeWords`, but everything stays in the set; goes on until `visit` returns false. */
  visitWords(first: number, end: number, visit: (page: number, bits: number) => boolean): void {
    this.#eachWord(first, end, (leaf, word, bits) => visit(leaf.first + word * 32, bits));
  }

  /** Calls `visit` for the words that have bits in the range, ascending, until it returns false. It may clear such bits. */
  #eachWord(first: number, end: number, visit: (leaf: Leaf, word: number, bits: number) => boolean): void {
    this.#eachLeaf(first, end, (leaf) => {
      const from = Math.max(0, first - leaf.first);
      const to = Math.min(leafPages, end - leaf.first);
      for (let group = from >>> 10; group < leafWords / 32; group++) {
        for (let left = leaf.summary[group] ?? 0; left !== 0; left &= left - 1) {
          const word = group * 32 + lowestBit(left);
          const low = word * 32;
          if (low + 32 <= from) continue;
          if (low >= to) return true;
          const bits = ((leaf.words[word] ?? 0) & wordMask(Math.max(0, from - low), to - low)) >>> 0;
          if (bits !== 0 && !visit(leaf, word, bits)) return false;
        }
      }
      return true;
    });
  }

  /** Calls `visit` for each leaf that exists in the range, ascending, until it returns false. */
  #eachLeaf(first: number, end: number, visit: (leaf: Leaf) => boolean): void {
    const firstDirectory = Math.floor(first / directoryPages);
    for (let d = firstDirectory; d < this.#directories.length && d * directoryPages < end; d++) {
      const directory = this.#directories[d] ?? [];
      for (let i = d === firstDirectory ? leafIndex(first) : 0; i < directory.length; i++) {
        const leaf = directory[i];
        if (leaf === undefined) continue;
        if (leaf.first >= end || !visit(leaf)) return;
      }
    }
  }

  #leafOf(page: number): Leaf {
    if (!(page >= 0 && page < maxPages)) throw new RangeError(`page ${page} is out of range`);
    const d = Math.floor(page / directoryPages);
    // Filled up to d: an array with holes would become a slow dictionary.
    while (this.#directories.length <= d) this.#directories.push([]);
    const directory = this.#directories[d] ?? [];
    if (directory.length === 0) {
      for (let i = 0; i < directoryLeaves; i++) directory.push(undefined);
    }
    const index = leafIndex(page);
    const found = directory[index];
    if (found !== undefined) return found;
    const leaf: Leaf = {
      first: Math.floor(page / leafPages) * leafPages,
      words: new Uint32Array(leafWords),
      summary: new Uint32Array(leafWords / 32),
    };
    directory[index] = leaf;
    return leaf;
  }
}
