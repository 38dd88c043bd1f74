/**
 * Structures as the PRM declares them: named bit fields, bit 0 being the most significant bit of byte 0, all
 * of them big-endian. A field never crosses a 32-bit word unless it is a multiple of whole words.
 */

/** Offset and width of a field, in bits. */
export type BitField = readonly [offset: number, width: number];

export type FieldTable = Readonly<Record<string, BitField>>;

/** Where a layout is declared by the vendor's driver, for the test that compares the two. */
export interface LayoutSource {
  /** Header under `include/linux/mlx5`. */
  readonly header: 'mlx5_ifc.h' | 'device.h' | 'qp.h';
  /** Name of the C structure. */
  readonly struct: string;
}

const wordBits = 32;

/** One declared structure. `base` of every method is the byte where the structure begins in the buffer. */
export class Layout<T extends FieldTable = FieldTable> {
  readonly source: LayoutSource;
  readonly fields: T;
  /** Bytes. */
  readonly size: number;

  constructor(source: LayoutSource, sizeBits: number, fields: T) {
    if (sizeBits % 8 !== 0) throw new RangeError(`${source.struct}: ${sizeBits} bits are not whole bytes`);
    for (const [name, [offset, width]] of Object.entries(fields)) {
      const crosses = (offset % wordBits) + width > wordBits && (offset % 8 !== 0 || width % 8 !== 0);
      if (crosses || offset + width > sizeBits) {
        throw new RangeError(`${source.struct}.${name}: bits ${offset}+${width} do not fit`);
      }
    }
    this.source = source;
    this.fields = fields;
    this.size = sizeBits / 8;
  }

  #field(name: keyof T): BitField {
    const field = this.fields[name];
    if (field === undefined) throw new RangeError(`${this.source.struct} has no field ${String(name)}`);
    return field;
  }

  /** Value of a field of at most 32 bits. */
  get(buffer: Buffer, name: keyof T, base = 0): number {
    const [offset, width] = this.#field(name);
    const word = buffer.readUInt32BE(base + 4 * Math.floor(offset / wordBits));
    const shift = wordBits - (offset % wordBits) - width;
    return width === wordBits ? word : (word >>> shift) & (2 ** width - 1);
  }

  set(buffer: Buffer, name: keyof T, value: number, base = 0): void {
    const [offset, width] = this.#field(name);
    const at = base + 4 * Math.floor(offset / wordBits);
    if (width === wordBits) {
      buffer.writeUInt32BE(value >>> 0, at);
      return;
    }
    const shift = wordBits - (offset % wordBits) - width;
    const mask = (2 ** width - 1) << shift;
    const word = buffer.readUInt32BE(at);
    buffer.writeUInt32BE(((word & ~mask) | ((value << shift) & mask)) >>> 0, at);
  }

  /** A 64-bit field as a number; `Infinity` for what a number can't hold exactly, which no check lets pass. */
  get64(buffer: Buffer, name: keyof T, base = 0): number {
    const at = base + this.byte(name);
    const value = buffer.readUInt32BE(at) * 2 ** wordBits + buffer.readUInt32BE(at + 4);
    return Number.isSafeInteger(value) ? value : Number.POSITIVE_INFINITY;
  }

  set64(buffer: Buffer, name: keyof T, value: number, base = 0): void {
    const at = base + this.byte(name);
    buffer.writeUInt32BE(Math.floor(value / 2 ** wordBits) >>> 0, at);
    buffer.writeUInt32BE(value % 2 ** wordBits, at + 4);
  }

  /** Byte offset of a field that starts on a byte; for nested structures, arrays and hot paths. */
  byte(name: keyof T): number {
    const [offset] = this.#field(name);
    if (offset % 8 !== 0) throw new RangeError(`${this.source.struct}.${String(name)} starts inside a byte`);
    return offset / 8;
  }
}

/** A structure of `mlx5_ifc.h`: `name` without `mlx5_ifc_` and `_bits`. */
export function ifc<const T extends FieldTable>(name: string, sizeBits: number, fields: T): Layout<T> {
  return new Layout({ header: 'mlx5_ifc.h', struct: `mlx5_ifc_${name}_bits` }, sizeBits, fields);
}

/** A plain C structure of `device.h` or `qp.h`. */
export function plain<const T extends FieldTable>(
  header: 'device.h' | 'qp.h',
  struct: string,
  sizeBits: number,
  fields: T,
): Layout<T> {
  return new Layout({ header, struct }, sizeBits, fields);
}
