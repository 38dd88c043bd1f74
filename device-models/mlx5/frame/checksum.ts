/**
 * The Internet checksum (RFC 1071): one's complement sums of 16-bit big-endian words. Sums here are folded to
 * 16 bits but not complemented.
 */

const shortRange = 40;

/** 32-bit views of the buffers that were summed last: guest memory comes in few, large buffers. */
const wordViews = new WeakMap<ArrayBufferLike, Uint32Array>();
let lastBuffer: ArrayBufferLike | undefined;
let lastWords: Uint32Array = new Uint32Array(0);

function wordsOf(buffer: ArrayBufferLike): Uint32Array {
  if (buffer === lastBuffer) return lastWords;
  let words = wordViews.get(buffer);
  if (words === undefined) {
    words = new Uint32Array(buffer, 0, buffer.byteLength >>> 2);
    wordViews.set(buffer, words);
  }
  lastBuffer = buffer;
  lastWords = words;
  return words;
}

/** Folds carries into 16 bits. */
export function fold(sum: number): number {
  let folded = (sum & 0xffff) + (sum >>> 16);
  folded = (folded & 0xffff) + (folded >>> 16);
  return folded;
}

export function swap(sum: number): number {
  return ((sum & 0xff) << 8) | (sum >>> 8);
}

/** One's complement sum of `bytes[from, to)`, its first byte being the high byte of a word. */
export function sum(bytes: Uint8Array, from: number, to: number): number {
  if (to - from < shortRange) {
    let total = 0;
    let at = from;
    for (; at + 1 < to; at += 2) total += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
    if (at < to) total += (bytes[at] ?? 0) << 8;
    return fold(total);
  }
  // Summing little-endian words and swapping at the end gives the same result (RFC 1071, section 2B); which
  // byte of a word is which follows from the absolute address, hence the parity of the start.
  const shift = bytes.byteOffset;
  const start = shift + from;
  const end = shift + to;
  let edges = 0;
  let at = start;
  for (; (at & 3) !== 0; at++) edges += (bytes[at - shift] ?? 0) << ((at & 1) << 3);
  const lastWord = end >>> 2;
  const words = wordsOf(bytes.buffer);
  let first = 0;
  let second = 0;
  let index = at >>> 2;
  for (; index + 3 < lastWord; index += 4) {
    first += (words[index] ?? 0) + (words[index + 1] ?? 0);
    second += (words[index + 2] ?? 0) + (words[index + 3] ?? 0);
  }
  for (; index < lastWord; index++) first += words[index] ?? 0;
  for (at = lastWord << 2; at < end; at++) edges += (bytes[at - shift] ?? 0) << ((at & 1) << 3);
  const total = first + second;
  const high = Math.floor(total / 2 ** 32);
  const low = total >>> 0;
  const little = fold((low & 0xffff) + (low >>> 16) + (high & 0xffff) + (high >>> 16) + fold(edges));
  return (start & 1) === 0 ? swap(little) : little;
}

/** Adds two folded sums. */
export function add(left: number, right: number): number {
  const total = left + right;
  return (total & 0xffff) + (total >>> 16);
}

/** What remains of folded sum `whole` when `part`, summed at an even distance, is taken out of it. */
export function subtract(whole: number, part: number): number {
  return add(whole, ~part & 0xffff);
}

/** Continues `total` with a piece whose first byte is at byte `offset` of the whole. */
export function append(total: number, piece: number, offset: number): number {
  return add(total, (offset & 1) === 0 ? piece : swap(piece));
}
