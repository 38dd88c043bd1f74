import { CompanionError, errno } from '../errors.ts';
import type { BarHandler } from './model.ts';

/** One register of a block. Offsets and widths are bytes. */
export interface RegisterSpec {
  readonly offset: number;
  readonly width: 1 | 2 | 4 | 8;
  /**
   * `ro`: writes are ignored. `rw`. `wo`: reads give 0. `w1c`: writing a 1 clears that bit.
   * `trigger`: a write only calls the handler, nothing is stored, reads give 0.
   */
  readonly access: 'ro' | 'rw' | 'wo' | 'w1c' | 'trigger';
  /** Value after reset; default 0. */
  readonly reset?: number;
  /** Bits that a write can change; default all. Not for 8-byte registers. */
  readonly mask?: number;
  /** One line for a person who reads a dump. */
  readonly about?: string;
}

export type RegisterTable = Readonly<Record<string, RegisterSpec>>;

/** What happens on access, by register name. A register without an entry is plain storage. */
export type RegisterHandlers<T extends RegisterTable> = {
  readonly [K in keyof T]?: {
    /** The value to answer with, computed now; it is stored, too. Not called for `wo` and `trigger`. */
    readonly read?: () => number;
    /**
     * Called after a guest's write has been stored, with the value that is stored now; with the value that was written for `w1c` and
     * `trigger`. Not called for `ro`. 8-byte values above 2^53 arrive rounded: still out of any guest's range.
     */
    readonly write?: (value: number) => void;
  };
};

class RegisterTableError extends CompanionError {
  constructor(message: string) {
    super('VC_REGISTER_TABLE', message, { errno: errno.EINVAL });
  }
}

interface Slot {
  readonly name: string;
  readonly spec: RegisterSpec;
  read: (() => number) | undefined;
  write: ((value: number) => void) | undefined;
}

const noSlot = 0xffff;
const widths: readonly unknown[] = [1, 2, 4, 8] satisfies RegisterSpec['width'][];
const accesses: readonly unknown[] = ['ro', 'rw', 'wo', 'w1c', 'trigger'] satisfies RegisterSpec['access'][];

/** What the types tell in TypeScript: a model may be JavaScript. */
function checkSpec(name: string, { offset, width, access }: RegisterSpec): void {
  if (!widths.includes(width))
    throw new RegisterTableError(`register ${name} has width ${width}: it is ${widths.join(', ')}`);
  if (!accesses.includes(access))
    throw new RegisterTableError(`register ${name} has access ${access}: it is ${accesses.join(', ')}`);
  if (!Number.isSafeInteger(offset) || offset < 0)
    throw new RegisterTableError(`register ${name} has offset ${offset}: it is a whole number`);
  if (offset % width !== 0) throw new RegisterTableError(`register ${name} is not aligned to its width`);
}

function isHandler(handler: unknown): boolean {
  if (typeof handler !== 'object' || handler === null) return false;
  return Object.entries(handler).every(
    ([key, hook]) => (key === 'read' || key === 'write') && ['function', 'undefined'].includes(typeof hook),
  );
}

function checkHandlers(table: RegisterTable, handlers: Readonly<Record<string, unknown>>): void {
  for (const [name, handler] of Object.entries(handlers)) {
    if (!Object.hasOwn(table, name)) throw new RegisterTableError(`there is no register ${name} to handle`);
    if (handler !== undefined && !isHandler(handler))
      throw new RegisterTableError(
        `the handler of register ${name} is not read() and write(), or one of them`,
      );
  }
}

/**
 * Registers declared as data, ready to be a BAR (or part of one): accesses of any width and alignment
 * work, holes read as zero and swallow writes. A write that covers several registers calls their
 * handlers in address order; a partial write keeps the other bytes.
 *
 * Byte order is little-endian unless the block is declared big-endian, as mlx5's is.
 */
export class RegisterBlock<T extends RegisterTable> implements BarHandler {
  /** Bytes up to the end of the last register. */
  readonly size: number;
  readonly #bytes: Buffer;
  readonly #slots: Slot[] = [];
  readonly #slotAt: Uint16Array;
  readonly #big: boolean;
  readonly #byName = new Map<keyof T, Slot>();

  /** @throws CompanionError VC_REGISTER_TABLE for registers that overlap, are not aligned, or are no registers; for handlers of none */
  constructor(table: T, handlers: RegisterHandlers<T> = {}, options: { bigEndian?: boolean } = {}) {
    for (const [name, spec] of Object.entries(table)) checkSpec(name, spec);
    checkHandlers(table, handlers);
    let end = 0;
    for (const spec of Object.values(table)) end = Math.max(end, spec.offset + spec.width);
    this.size = end;
    this.#big = options.bigEndian ?? false;
    this.#bytes = Buffer.alloc(end);
    this.#slotAt = new Uint16Array(end).fill(noSlot);
    const entries = Object.entries(table).sort(([, a], [, b]) => a.offset - b.offset);
    for (const [name, spec] of entries) {
      if (spec.width === 8 && spec.mask !== undefined)
        throw new RegisterTableError(`register ${name} has 8 bytes and a mask, which is for fewer`);
      const handler = handlers[name];
      const slot: Slot = { name, spec, read: handler?.read, write: handler?.write };
      for (let at = spec.offset; at < spec.offset + spec.width; at++) {
        const other = this.#slots[this.#slotAt[at] ?? noSlot];
        if (other) throw new RegisterTableError(`registers ${other.name} and ${name} overlap`);
        this.#slotAt[at] = this.#slots.length;
      }
      this.#slots.push(slot);
      this.#byName.set(name, slot);
    }
    this.reset();
  }

  /** Every register back to its reset value; no handler is called. */
  reset(): void {
    for (const slot of this.#slots) this.#store(slot, slot.spec.reset ?? 0);
  }

  /** The stored value (not what a read handler would give). One above 2^53 is rounded. */
  get(name: keyof T & string): number {
    return this.#fetch(this.#slot(name));
  }

  /** Stores a value, whatever the access kind, cut to the register's width; no handler is called. */
  set(name: keyof T & string, value: number): void {
    this.#store(this.#slot(name), value);
  }

  /** The stored values by name, those of `trigger` registers left out: what a model saves. Values above 2^53 are bigints. */
  save(): Record<string, number | bigint> {
    const values: Record<string, number | bigint> = {};
    for (const slot of this.#slots) {
      if (slot.spec.access === 'trigger') continue;
      const value = this.#fetch(slot);
      // Above 2^53 a number would come back as another one.
      values[slot.name] = Number.isSafeInteger(value) ? value : this.#fetchBig(slot);
    }
    return values;
  }

  /**
   * Takes saved values back; registers that are missing are reset. No handler is called.
   * @throws CompanionError VC_REGISTER_TABLE for unknown names, and values that are no unsigned integers or too wide
   */
  load(values: unknown): void {
    if (typeof values !== 'object' || values === null)
      throw new RegisterTableError('register values are missing');
    const given = values as Record<string, unknown>;
    for (const [name, value] of Object.entries(given)) {
      if (!this.#byName.has(name)) throw new RegisterTableError(`there is no register ${name}`);
      const whole = typeof value === 'bigint' || (typeof value === 'number' && Number.isSafeInteger(value));
      if (!whole || value < 0) {
        throw new RegisterTableError(`the value of register ${name} is not an unsigned integer`);
      }
      const bits = BigInt(8 * this.#slot(name).spec.width);
      if (BigInt(value) >> bits !== 0n)
        throw new RegisterTableError(`the value of register ${name} is too wide`);
    }
    for (const slot of this.#slots) {
      const value = given[slot.name];
      if (typeof value === 'bigint') this.#storeBig(slot, value);
      else this.#store(slot, typeof value === 'number' ? value : (slot.spec.reset ?? 0));
    }
  }

  read(offset: number, count: number, target: Buffer, at: number): void {
    target.fill(0, at, at + count);
    const end = Math.min(offset + count, this.size);
    for (let position = offset; position < end; ) {
      const slot = this.#slots[this.#slotAt[position] ?? noSlot];
      if (slot === undefined) {
        position++;
        continue;
      }
      const { spec } = slot;
      const slotEnd = spec.offset + spec.width;
      const stop = Math.min(slotEnd, end);
      if (spec.access !== 'wo' && spec.access !== 'trigger') {
        if (slot.read) this.#store(slot, slot.read());
        this.#bytes.copy(target, at + position - offset, position, stop);
      }
      position = stop;
    }
  }

  write(offset: number, count: number, source: Buffer, at: number): void {
    const end = Math.min(offset + count, this.size);
    for (let position = offset; position < end; ) {
      const slot = this.#slots[this.#slotAt[position] ?? noSlot];
      if (slot === undefined) {
        position++;
        continue;
      }
      const stop = Math.min(slot.spec.offset + slot.spec.width, end);
      this.#writeSlot(slot, position, stop, source, at + position - offset);
      position = stop;
    }
  }

  #writeSlot(slot: Slot, from: number, to: number, source: Buffer, at: number): void {
    const { access, mask, offset, width } = slot.spec;
    if (access === 'ro') return;
    if (access === 'rw' && mask === undefined) {
      source.copy(this.#bytes, from, at, at + to - from);
      slot.write?.(this.#fetch(slot));
      return;
    }
    const before = this.#fetch(slot);
    const wideBefore = width === 8 ? this.#fetchBig(slot) : 0n;
    source.copy(this.#bytes, from, at, at + to - from);
    if (access === 'w1c') this.#bytes.fill(0, offset, from).fill(0, to, offset + width);
    const written = this.#fetch(slot);
    if (access === 'trigger') this.#store(slot, 0);
    else if (access === 'w1c' && width === 8) this.#storeBig(slot, wideBefore & ~this.#fetchBig(slot));
    else if (access === 'w1c') this.#store(slot, (before & ~(written & (mask ?? ~0))) >>> 0);
    else if (mask !== undefined) this.#store(slot, ((before & ~mask) | (written & mask)) >>> 0);
    slot.write?.(access === 'trigger' || access === 'w1c' ? written : this.#fetch(slot));
  }

  #slot(name: keyof T & string): Slot {
    const slot = this.#byName.get(name);
    if (slot === undefined) throw new RegisterTableError(`there is no register ${name}`);
    return slot;
  }

  #fetch({ spec: { offset, width } }: Slot): number {
    const bytes = this.#bytes;
    if (width === 8) {
      const low = this.#big ? bytes.readUInt32BE(offset + 4) : bytes.readUInt32LE(offset);
      const high = this.#big ? bytes.readUInt32BE(offset) : bytes.readUInt32LE(offset + 4);
      return high * 0x1_0000_0000 + low;
    }
    return this.#big ? bytes.readUIntBE(offset, width) : bytes.readUIntLE(offset, width);
  }

  #fetchBig({ spec: { offset } }: Slot): bigint {
    return this.#big ? this.#bytes.readBigUInt64BE(offset) : this.#bytes.readBigUInt64LE(offset);
  }

  #storeBig(slot: Slot, value: bigint): void {
    if (slot.spec.width !== 8) this.#store(slot, Number(value));
    else if (this.#big) this.#bytes.writeBigUInt64BE(value, slot.spec.offset);
    else this.#bytes.writeBigUInt64LE(value, slot.spec.offset);
  }

  #store({ spec: { offset, width } }: Slot, value: number): void {
    const bytes = this.#bytes;
    if (width === 8) {
      const high = Math.min(Math.floor(value / 0x1_0000_0000), 0xffff_ffff);
      const low = value >>> 0;
      if (this.#big) bytes.writeUInt32BE(low, bytes.writeUInt32BE(high, offset));
      else bytes.writeUInt32LE(high, bytes.writeUInt32LE(low, offset));
      return;
    }
    const fits = width === 4 ? value >>> 0 : value & (2 ** (8 * width) - 1);
    if (this.#big) bytes.writeUIntBE(fits, offset, width);
    else bytes.writeUIntLE(fits, offset, width);
  }
}
