/**
 * The RSS hash: Toeplitz as Microsoft publishes it ("Verifying the RSS hash calculation"): every set bit of the input
 * adds the 32 key bits that start at its position. Tables per input byte make it one look-up a byte.
 */

export const toeplitzKeyBytes = 40;
/** Longest input: two IPv6 addresses and two ports. */
export const toeplitzInputBytes = 36;

const tablesByKey = new Map<string, Uint32Array>();
/** Keys whose tables are kept; a guest that uses more pays by computing them again. */
const maxCachedKeys = 16;

function buildTable(key: Uint8Array): Uint32Array {
  const table = new Uint32Array(toeplitzInputBytes * 256);
  for (let position = 0; position < toeplitzInputBytes; position++) {
    for (let bit = 0; bit < 8; bit++) {
      // 32 key bits from bit `8 * position + bit` on.
      let window = 0;
      for (let index = 0; index < 32; index++) {
        const at = 8 * position + bit + index;
        const keyBit = ((key[at >>> 3] ?? 0) >>> (7 - (at & 7))) & 1;
        window = (window << 1) | keyBit;
      }
      const weight = 0x80 >>> bit;
      for (let value = 0; value < 256; value++) {
        if ((value & weight) !== 0)
          table[position * 256 + value] = ((table[position * 256 + value] ?? 0) ^ window) >>> 0;
      }
    }
  }
  return table;
}

/** The look-up table of a 40-byte key. */
export function toeplitzTable(key: Uint8Array): Uint32Array {
  const name = Buffer.from(key).toString('hex');
  let table = tablesByKey.get(name);
  if (table === undefined) {
    if (tablesByKey.size >= maxCachedKeys) tablesByKey.clear();
    table = buildTable(key);
    tablesByKey.set(name, table);
  }
  return table;
}

/** Hash of the first `length` bytes of `input`. */
export function toeplitz(table: Uint32Array, input: Uint8Array, length: number): number {
  let hash = 0;
  for (let position = 0; position < length; position++) {
    hash ^= table[(position << 8) | (input[position] ?? 0)] ?? 0;
  }
  return hash >>> 0;
}

/** The other hash function of a TIR: bytes folded together. */
export function xor8(input: Uint8Array, length: number): number {
  let hash = 0;
  for (let position = 0; position < length; position++) hash ^= input[position] ?? 0;
  return hash;
}
