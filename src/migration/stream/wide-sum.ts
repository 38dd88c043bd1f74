import { endianness } from 'node:os';
import { wideSumModule } from './wide-sum-code.ts';

/**
 * The checksum of bulk payloads: 32 lanes of 32 bits. Word i of the payload (little-endian, padded with zeros to a
 * multiple of 128 bytes) goes into lane i mod 32; the lanes, which start from 1 … 32 times the prime, and the length are
 * then put together in the same way:
 *
 *     lane = (lane xor word) * prime mod 2^32;  lane = lane xor (lane >>> 15)
 *
 * Each step can be undone, so whatever changes within a single word is always noticed; anything else slips through as
 * one in 2^32. For faults, as the CRC is, not for forgers. Ten times as fast as `zlib.crc32`, which took most of the time
 * of saving and of loading.
 */
export type WideSum = (bytes: Uint8Array) => number;

/** The part of the WebAssembly interface that is used; neither TypeScript's library for ES nor Node's types have it. */
declare const WebAssembly: {
  readonly Memory: new (size: { initial: number }) => { readonly buffer: ArrayBuffer };
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object, imports: object) => { readonly exports: Record<string, unknown> };
  validate(bytes: Uint8Array): boolean;
};

const lanes = 32;
const stripe = lanes * 4;
const vectorBytes = 16;
const prime = 0x9e3779b1;
const shift = 15;
const start = Int32Array.from({ length: lanes }, (_, lane) => Math.imul(lane + 1, prime));

/** Where the lanes are while a sum is under way, then what is summed. */
const lanesAt = 0;
const stagingAt = 4096;
const pageSize = 65536;
/** Bytes that are summed at a time. */
export const stagingSize = 2 * pageSize;
const memory = new WebAssembly.Memory({ initial: stagingSize / pageSize + 1 });
const state = new Int32Array(memory.buffer, lanesAt, lanes);
const staged = new Uint8Array(memory.buffer, stagingAt, stagingSize);

/** The bytes that were summed last, copied before they were: valid until the next sum, if they were `stagingSize` or fewer. */
export function lastSummed(length: number): Uint8Array {
  return staged.subarray(0, length);
}

type Add = (at: number, end: number) => void;

/** The inner loop without vectors: the fallback, and what the tests compare with. */
export const addByWords: Add = (at, end) => {
  const words = new DataView(memory.buffer, at, end - at);
  for (let i = 0; i < end - at; i += 4) {
    const lane = (i / 4) % lanes;
    state[lane] = mixed(state[lane] ?? 0, words.getInt32(i, true));
  }
};

function mixed(value: number, word: number): number {
  const product = Math.imul(value ^ word, prime);
  return product ^ (product >>> shift);
}

/** Undefined where the processor (or Node) has no vectors. */
function vectorAdd(): Add | undefined {
  const module = wideSumModule(stripe / vectorBytes, vectorBytes, prime, shift);
  if (endianness() !== 'LE' || !WebAssembly.validate(module)) return undefined;
  try {
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module), { env: { memory } });
    return exports.add as Add;
  } catch {
    return undefined;
  }
}

export function wideSumWith(add: Add): WideSum {
  return (bytes) => {
    state.set(start);
    let at = 0;
    do {
      const length = Math.min(stagingSize, bytes.length - at);
      staged.set(at === 0 && length === bytes.length ? bytes : bytes.subarray(at, at + length));
      const padded = Math.ceil(length / stripe) * stripe;
      staged.fill(0, length, padded);
      add(stagingAt, stagingAt + padded);
      at += length;
    } while (at < bytes.length);
    let sum = bytes.length;
    for (let lane = 0; lane < lanes; lane++) sum = mixed(sum, state[lane] ?? 0);
    return sum >>> 0;
  };
}

export const wideSum: WideSum = wideSumWith(vectorAdd() ?? addByWords);
