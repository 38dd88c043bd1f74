/**
 * The inner loop of the wide sum as WebAssembly with 128-bit vectors (webassembly.github.io/spec/core, "Binary Format"), put
 * together here, for it is too short for a compiler:
 *
 *     (func (export "add") (param $at i32) (param $end i32)
 *       ;; the lanes are at 0 … 127, eight vectors of four
 *       (loop: for each stripe of 128 bytes from $at up to $end, for each of its eight vectors
 *         lanes = (lanes xor vector) * prime;  lanes = lanes xor (lanes >>> 15)))
 */

const op = {
  block: [0x02, 0x40],
  loop: [0x03, 0x40],
  end: [0x0b],
  brIf: [0x0d],
  localGet: [0x20],
  localSet: [0x21],
  localTee: [0x22],
  constant: [0x41],
  lessUnsigned: [0x49],
  greaterOrEqualUnsigned: [0x4f],
  add: [0x6a],
  vectorLoad: [0xfd, 0x00],
  vectorStore: [0xfd, 0x0b],
  vectorSplat: [0xfd, 0x11],
  vectorXor: [0xfd, 0x51],
  vectorShiftRight: [0xfd, 0xad, 0x01],
  vectorMultiply: [0xfd, 0xb5, 0x01],
} as const;
const type = { i32: 0x7f, v128: 0x7b, function: 0x60 } as const;
const section = { types: 1, imports: 2, functions: 3, exports: 7, code: 10 } as const;
const kind = { function: 0, memory: 2 } as const;
const magic = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0];

/** The module imports `memory` as `env.memory` and exports `add`. */
export function wideSumModule(
  vectors: number,
  vectorBytes: number,
  prime: number,
  shift: number,
): Uint8Array {
  const [at, end, zero] = [0, 1, 2];
  const firstLane = 3;
  const factor = firstLane + vectors;
  const get = (local: number) => [...op.localGet, ...unsigned(local)];
  const set = (local: number) => [...op.localSet, ...unsigned(local)];
  const constant = (value: number) => [...op.constant, ...signed(value)];
  // Alignment 2^0: state lies anywhere.
  const offset = (vector: number) => [0, ...unsigned(vector * vectorBytes)];
  const each = (make: (vector: number, lane: number) => number[]) =>
    Array.from({ length: vectors }, (_, vector) => make(vector, firstLane + vector)).flat();

  const body = [
    ...constant(prime | 0),
    ...op.vectorSplat,
    ...set(factor),
    ...each((vector, lane) => [...get(zero), ...op.vectorLoad, ...offset(vector), ...set(lane)]),
    ...op.block,
    ...[...get(at), ...get(end), ...op.greaterOrEqualUnsigned, ...op.brIf, 0],
    ...op.loop,
    ...each((vector, lane) => [
      ...[...get(lane), ...get(at), ...op.vectorLoad, ...offset(vector), ...op.vectorXor],
      ...[...get(factor), ...op.vectorMultiply, ...op.localTee, ...unsigned(lane)],
      ...[...get(lane), ...constant(shift), ...op.vectorShiftRight, ...op.vectorXor, ...set(lane)],
    ]),
    ...[...get(at), ...constant(vectors * vectorBytes), ...op.add, ...op.localTee, ...unsigned(at)],
    ...[...get(end), ...op.lessUnsigned, ...op.brIf, 0],
    ...op.end,
    ...op.end,
    ...each((vector, lane) => [...get(zero), ...get(lane), ...op.vectorStore, ...offset(vector)]),
    ...op.end,
  ];
  const locals = list([
    [...unsigned(1), type.i32],
    [...unsigned(vectors + 1), type.v128],
  ]);
  const code = [...locals, ...body];
  return Uint8Array.from([
    ...magic,
    ...part(section.types, [[type.function, ...list([[type.i32], [type.i32]]), 0]]),
    ...part(section.imports, [[...name('env'), ...name('memory'), kind.memory, 0, 1]]),
    ...part(section.functions, [[0]]),
    ...part(section.exports, [[...name('add'), kind.function, 0]]),
    ...part(section.code, [[...unsigned(code.length), ...code]]),
  ]);
}

/** LEB128. */
function unsigned(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

/** LEB128 of a 32-bit integer with a sign. */
function signed(value: number): number[] {
  const low = value & 0x7f;
  const rest = value >> 7;
  const last = (rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0);
  return last ? [low] : [low | 0x80, ...signed(rest)];
}

function list(items: readonly number[][]): number[] {
  return [...unsigned(items.length), ...items.flat()];
}

function part(id: number, items: readonly number[][]): number[] {
  const contents = list(items);
  return [id, ...unsigned(contents.length), ...contents];
}

function name(text: string): number[] {
  const bytes = Buffer.from(text);
  return [...unsigned(bytes.length), ...bytes];
}
