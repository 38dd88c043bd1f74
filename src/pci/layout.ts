/**
 * Configuration space as data. Every register is declared once (name, place, power-on value, which bits
 * take writes and how); the byte masks that a write goes through are derived from that, so that an access
 * of any size and alignment obeys the same rules.
 */

/** One register, at `offset` from the start of its group (the header, or a capability). */
export interface RegisterSpec {
  /** Unique in the space once prefixed with its group; the name in saved state. */
  readonly name: string;
  readonly offset: number;
  readonly size: 1 | 2 | 4;
  /** Value after power-on; default 0. */
  readonly value?: number;
  /** Bits that keep what is written to them. */
  readonly writable?: number;
  /** Bits that the device sets and a written one clears (RW1C). */
  readonly clearOnOne?: number;
  /** Bits that read zero; a written one starts something. */
  readonly act?: number;
  /** Read-only bits that the device changes while it runs. */
  readonly live?: number;
}

/** A register in its final place, every field filled in. */
export interface PlacedRegister {
  readonly name: string;
  readonly offset: number;
  readonly size: 1 | 2 | 4;
  readonly value: number;
  readonly writable: number;
  readonly clearOnOne: number;
  readonly act: number;
  readonly live: number;
}

/** Reads a little-endian register of 1, 2 or 4 bytes. */
export function readRegister(bytes: Buffer, offset: number, size: 1 | 2 | 4): number {
  return bytes.readUIntLE(offset, size);
}

/** Writes a little-endian register of 1, 2 or 4 bytes. */
export function writeRegister(bytes: Buffer, offset: number, size: 1 | 2 | 4, value: number): void {
  bytes.writeUIntLE(value >>> 0, offset, size);
}

/** The registers of a function and the per-byte masks that follow from them. */
export class ConfigLayout {
  readonly size: 256 | 4096;
  /** Contents after power-on. */
  readonly initial: Buffer;
  readonly writable: Buffer;
  readonly clearOnOne: Buffer;
  readonly act: Buffer;
  readonly registers = new Map<string, PlacedRegister>();

  constructor(size: 256 | 4096) {
    this.size = size;
    this.initial = Buffer.alloc(size);
    this.writable = Buffer.alloc(size);
    this.clearOnOne = Buffer.alloc(size);
    this.act = Buffer.alloc(size);
  }

  /** Declares `specs` relative to `base`; names become `group.name` when a group is given. */
  place(base: number, specs: readonly RegisterSpec[], group?: string): void {
    for (const spec of specs) {
      const register: PlacedRegister = {
        name: group === undefined ? spec.name : `${group}.${spec.name}`,
        offset: base + spec.offset,
        size: spec.size,
        value: spec.value ?? 0,
        writable: spec.writable ?? 0,
        clearOnOne: spec.clearOnOne ?? 0,
        act: spec.act ?? 0,
        live: spec.live ?? 0,
      };
      if (this.registers.has(register.name)) throw new RangeError(`register ${register.name} declared twice`);
      this.registers.set(register.name, register);
      const { offset, size: bytes } = register;
      writeRegister(this.initial, offset, bytes, register.value);
      writeRegister(this.writable, offset, bytes, register.writable);
      writeRegister(this.clearOnOne, offset, bytes, register.clearOnOne);
      writeRegister(this.act, offset, bytes, register.act);
    }
  }

  /** Read-only bytes that have no register of their own (bodies of vendor capabilities). */
  placeBytes(offset: number, bytes: Uint8Array): void {
    this.initial.set(bytes, offset);
  }

  /** The register called `name`, which a layout of this description must have. */
  register(name: string): PlacedRegister {
    const found = this.registers.get(name);
    if (found === undefined) throw new RangeError(`no register ${name}`);
    return found;
  }
}
