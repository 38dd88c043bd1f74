import * as zlib from 'node:zlib';

/** CRC-32 (ISO 3309, as in zlib) of `bytes`, going on from `crc`. */
export type Crc32 = (bytes: Uint8Array, crc?: number) => number;

const polynomial = 0xedb88320;

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ polynomial : value >>> 1;
  return value;
});

/** For Node before 20.15 and 22.2, which have no `zlib.crc32`, and for a few bytes; many times slower for many. */
export function crc32ByTable(bytes: Uint8Array, crc = 0): number {
  let value = ~crc;
  for (let at = 0; at < bytes.length; at++) {
    value = (table[(value ^ (bytes[at] ?? 0)) & 0xff] ?? 0) ^ (value >>> 8);
  }
  return ~value >>> 0;
}

/** Up to this length the table is faster than the call into zlib. */
const shortest = 48;

export const crc32: Crc32 =
  typeof zlib.crc32 === 'function'
    ? (bytes, crc = 0) => (bytes.length < shortest ? crc32ByTable(bytes, crc) : zlib.crc32(bytes, crc))
    : crc32ByTable;
