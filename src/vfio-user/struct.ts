import { errno, RequestError } from '../errors.ts';

/**
 * How one field lies on the wire, little-endian (the specification says host order; all hosts we run on are
 * little-endian). `u64` is a JS number: addresses, sizes and offsets of real machines are exact below
 * 2^53, and anything above is refused. `u64big` is for values that are compared or handed on, not computed with.
 */
export type FieldKind = 'u16' | 'u32' | 'u64' | 'u64big';

const widths: Readonly<Record<FieldKind, number>> = { u16: 2, u32: 4, u64: 8, u64big: 8 };

export type FieldTable = Readonly<Record<string, FieldKind>>;

/** The value of a structure, typed by its declaration. */
export type StructValue<F extends FieldTable> = { [K in keyof F]: F[K] extends 'u64big' ? bigint : number };

/** A packed wire structure: name, size, offset of each field, and both directions. */
export interface Struct<F extends FieldTable = FieldTable> {
  /** The name it has in its specification. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly fields: F;
  readonly offsets: { readonly [K in keyof F]: number };
  /** Reads a value; throws `RequestError` EINVAL for a `u64` of 2^53 or more. The bytes must be there. */
  decode(buffer: Buffer, at: number): StructValue<F>;
  /** Writes a value; returns the offset behind it. */
  encode(value: StructValue<F>, buffer: Buffer, at: number): number;
}

const highLimit = 2 ** 21;
const highUnit = 2 ** 32;

/** Reads an unsigned 64-bit number; throws `RequestError` EINVAL when it is 2^53 or more. */
export function readU64(buffer: Buffer, at: number): number {
  const high = buffer.readUInt32LE(at + 4);
  if (high >= highLimit) {
    throw new RequestError(
      errno.EINVAL,
      `64-bit value 0x${buffer.readBigUInt64LE(at).toString(16)} is out of range`,
    );
  }
  return high * highUnit + buffer.readUInt32LE(at);
}

/** Writes a whole number in [0, 2^53) as 64 bits. */
export function writeU64(buffer: Buffer, value: number, at: number): void {
  buffer.writeUInt32LE(value % highUnit, at);
  buffer.writeUInt32LE(Math.floor(value / highUnit), at + 4);
}

function readField(kind: FieldKind, buffer: Buffer, at: number): number | bigint {
  switch (kind) {
    case 'u16':
      return buffer.readUInt16LE(at);
    case 'u32':
      return buffer.readUInt32LE(at);
    case 'u64':
      return readU64(buffer, at);
    case 'u64big':
      return buffer.readBigUInt64LE(at);
  }
}

function writeField(kind: FieldKind, buffer: Buffer, value: number | bigint, at: number): void {
  switch (kind) {
    case 'u16':
      buffer.writeUInt16LE(Number(value), at);
      return;
    case 'u32':
      buffer.writeUInt32LE(Number(value), at);
      return;
    case 'u64':
      writeU64(buffer, Number(value), at);
      return;
    case 'u64big':
      buffer.writeBigUInt64LE(BigInt(value), at);
  }
}

/** Declares a packed structure; field order is wire order. */
export function struct<const F extends FieldTable>(name: string, fields: F): Struct<F> {
  const names = Object.keys(fields) as (keyof F & string)[];
  const offsets = {} as { [K in keyof F]: number };
  const layout: { readonly name: keyof F & string; readonly kind: FieldKind; readonly offset: number }[] = [];
  let size = 0;
  for (const field of names) {
    const kind = fields[field] as FieldKind;
    offsets[field] = size;
    layout.push({ name: field, kind, offset: size });
    size += widths[kind];
  }
  return {
    name,
    size,
    fields,
    offsets,
    decode(buffer, at) {
      const value = {} as Record<string, number | bigint>;
      for (const field of layout) value[field.name] = readField(field.kind, buffer, at + field.offset);
      return value as StructValue<F>;
    },
    encode(value, buffer, at) {
      for (const field of layout) writeField(field.kind, buffer, value[field.name], at + field.offset);
      return at + size;
    },
  };
}
