import { addressOf } from './libc.ts';

/**
 * A piece of memory at a fixed address, for structures that the kernel reads and fills. Made once per
 * module and used again by every call: system calls here are synchronous, so no two are ever under way.
 */
export interface RawArea {
  readonly bytes: Buffer;
  readonly address: number;
}

/** Not from Buffer's pool, and zeroed; alive (and in place) as long as the result is referenced. */
export function rawArea(size: number): RawArea {
  const bytes = Buffer.alloc(size);
  return { bytes, address: addressOf(bytes) };
}

const WORD = 2 ** 32;

/** Stores a pointer or size (an integer below 2^53) as 64 bits, host order (little-endian on all we run on). */
export function putWord(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32LE(value % WORD, at);
  bytes.writeUInt32LE(Math.floor(value / WORD), at + 4);
}

/** Reads 64 bits as a number; only for fields that hold sizes. */
export function getWord(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * WORD;
}
