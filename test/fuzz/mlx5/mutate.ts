import { commandEntry, opcode, pciCommandTransport } from '../../../device-models/mlx5/prm/index.ts';
import type { StateRecord } from '../../../src/device/index.ts';
import type { BarWrite, Piece, Recording, Step } from './recording.ts';

/** Numbers from a seed (mulberry32): a run can be repeated. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 32 random bits. */
  word(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  /** Whole number below `end`. */
  below(end: number): number {
    return this.word() % Math.max(1, end);
  }

  pick<T>(list: readonly T[]): T {
    if (list.length === 0) throw new RangeError('nothing to pick from');
    return list[this.below(list.length)] as T;
  }
}

/** Values on borders of everything: counts, ids, sizes, addresses. */
const interesting = [
  0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 255, 256, 257, 511, 512, 1023, 1024, 4095,
  4096, 0x7fff, 0x8000, 0xffff, 0x10000, 0x100000, 0xfffff000, 0x7fffffff, 0x80000000, 0xffffff00, 0xffffffff,
  0x00ffffff, 0x00200000, 0x1fffff,
] as const;

/** Lengths of commands, and of none. */
const lengths = [
  0,
  7,
  8,
  12,
  16,
  24,
  32,
  64,
  192,
  256,
  272,
  280,
  512,
  528,
  544,
  1024,
  4112,
  16383,
  16384,
  16385,
  2 ** 31,
];

/** Registers that do something, and neighbours of them. */
const registers = [0x10, 0x14, 0x18, 0x1c, 0x1010, 0x2000, 0xfffc] as const;
const uarRegisters = [0x20, 0x24, 0x40, 0x48, 0x800, 0x804, 0x900, 0xa00, 0xffc, 0] as const;
const barBytes = 1024 * 1024;

/** Changes one to four places of `bytes`: bits, bytes, words on borders, words from elsewhere. */
export function mutateBytes(random: Random, source: Uint8Array, other: Uint8Array): Uint8Array {
  const bytes = Buffer.from(source);
  for (let left = 1 + random.below(4); left > 0 && bytes.length > 0; left--) {
    const at = random.below(bytes.length);
    const word = at & ~3;
    const hasWord = word + 4 <= bytes.length;
    switch (random.below(6)) {
      case 0:
        bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
        break;
      case 1:
        bytes[at] = random.word();
        break;
      case 2:
        if (hasWord) bytes.writeUInt32BE(random.pick(interesting), word);
        break;
      case 3:
        if (hasWord) bytes.writeUInt32BE((bytes.readUInt32BE(word) + random.below(9) - 4) >>> 0, word);
        break;
      case 4:
        if (hasWord) bytes.writeUInt32BE(random.below(0x140), word);
        break;
      default:
        bytes.set(other.subarray(0, bytes.length - at), at);
    }
  }
  return bytes;
}

const opcodes = Object.values(opcode);
/** Offsets in a command entry. */
const entryAt = {
  inLength: commandEntry.byte('inlen'),
  input: commandEntry.byte('in'),
  outLength: commandEntry.byte('outlen'),
} as const;

/** A command entry with another opcode, another op_mod, or lengths that do not fit. */
function mutateCommand(random: Random, source: Uint8Array): Uint8Array {
  const bytes = Buffer.from(source);
  switch (random.below(4)) {
    case 0:
      bytes.writeUInt16BE(random.pick(opcodes), entryAt.input);
      break;
    case 1:
      bytes.writeUInt16BE(random.below(6), entryAt.input + 6);
      break;
    case 2:
      bytes.writeUInt32BE(random.pick(lengths), random.pick([entryAt.inLength, entryAt.outLength]));
      break;
    default:
      bytes.writeUInt32BE(random.pick(interesting), entryAt.input + 8);
  }
  return bytes;
}

function anyPiece(random: Random, recording: Recording): Piece | undefined {
  for (let tries = 0; tries < 8; tries++) {
    const { memory } = random.pick(recording.steps);
    if (memory.length > 0) return random.pick(memory);
  }
  return undefined;
}

function mutateWrite(random: Random, { offset, bytes }: BarWrite): BarWrite {
  switch (random.below(4)) {
    case 0:
      return { offset: random.pick(registers), bytes };
    case 1: {
      const page = 16 + random.below(random.below(8) === 0 ? 240 : 2);
      return { offset: page * 4096 + random.pick(uarRegisters), bytes };
    }
    case 2: {
      const cut = bytes.subarray(0, 1 + random.below(bytes.length));
      return { offset: random.below(barBytes - 8), bytes: cut };
    }
    default:
      return { offset, bytes: mutateBytes(random, bytes, bytes) };
  }
}

/** `step`, made hostile. */
export function mutateStep(random: Random, step: Step, recording: Recording): Step {
  const memory = [...step.memory];
  const index = random.below(memory.length);
  const piece = memory[index];
  if (step.write !== undefined && random.below(4) === 0)
    return { ...step, write: mutateWrite(random, step.write) };
  if (step.frame !== undefined && random.below(2) === 0) {
    const frame = mutateBytes(random, step.frame, step.frame);
    return { ...step, frame: random.below(3) === 0 ? frame.subarray(0, random.below(frame.length)) : frame };
  }
  if (piece !== undefined) {
    const other = anyPiece(random, recording)?.bytes ?? piece.bytes;
    const isCommand = piece.bytes.length === commandEntry.size && piece.bytes[0] === pciCommandTransport;
    const bytes =
      isCommand && random.below(2) === 0
        ? mutateCommand(random, piece.bytes)
        : mutateBytes(random, piece.bytes, other);
    memory[index] = { at: piece.at, bytes };
    return { ...step, memory };
  }
  // Nothing of its own to change: something that was read at another time.
  const other = anyPiece(random, recording);
  if (other === undefined) return step;
  return { ...step, memory: [{ at: other.at, bytes: mutateBytes(random, other.bytes, other.bytes) }] };
}

const oddities: readonly unknown[] = [
  null,
  undefined,
  true,
  '',
  'x',
  -1,
  0.5,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  2 ** 24,
  2 ** 32,
  2 ** 53,
  2 ** 60,
  [],
  {},
  [[]],
  [null],
  new Uint8Array(0),
  new Uint8Array(64),
];

/** A copy of `value` with one place in it changed. */
function mutateValue(random: Random, value: unknown): unknown {
  if (value instanceof Uint8Array) {
    return random.below(2) === 0 ? mutateBytes(random, value, value) : value.subarray(1);
  }
  if (Array.isArray(value)) {
    const copy = [...value];
    const at = random.below(copy.length);
    switch (random.below(6)) {
      case 0:
        copy.splice(at, 1);
        break;
      case 1:
        copy.push(copy[at]);
        break;
      default:
        copy[at] = mutateValue(random, copy[at]);
    }
    return copy;
  }
  if (typeof value === 'object' && value !== null && random.below(12) !== 0) {
    const copy: Record<string, unknown> = { ...value };
    const name = random.pick([...Object.keys(copy), 'id']);
    if (random.below(20) === 0) delete copy[name];
    else copy[name] = mutateValue(random, copy[name]);
    return copy;
  }
  if (typeof value === 'number' && random.below(4) !== 0) {
    return random.pick([value + 1, value - 1, value * 2, random.below(400), random.pick(interesting)]);
  }
  return random.pick(oddities);
}

/** A saved state, made hostile. */
export function mutateState(random: Random, records: readonly StateRecord[]): StateRecord[] {
  const copy = [...records];
  for (let left = 1 + random.below(3); left > 0; left--) {
    const at = random.below(copy.length);
    const record = copy[at];
    if (record === undefined || !('value' in record)) continue;
    switch (random.below(16)) {
      case 0:
        copy.splice(at, 1);
        break;
      case 1:
        copy.push(record);
        break;
      case 2:
        copy[at] = { section: random.pick(copy).section, value: record.value };
        break;
      case 4:
        copy.splice(at, 0, { section: 'gone', value: { kind: record.section, id: random.below(300) } });
        break;
      case 3:
        copy[at] = { section: record.section, offset: 0, bytes: new Uint8Array(8) };
        break;
      default:
        copy[at] = { section: record.section, value: mutateValue(random, record.value) };
    }
  }
  return copy;
}
