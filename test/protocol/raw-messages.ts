/** Wire bytes made without the codec: numbers with their width, little-endian. */
export function bytes(
  ...parts: readonly (readonly [value: number | bigint, width: 1 | 2 | 4 | 8])[]
): Buffer {
  const total = parts.reduce((sum, [, width]) => sum + width, 0);
  const buffer = Buffer.alloc(total);
  let at = 0;
  for (const [value, width] of parts) {
    if (width === 8) buffer.writeBigUInt64LE(BigInt(value), at);
    else buffer.writeUIntLE(Number(value), at, width);
    at += width;
  }
  return buffer;
}

export const u32 = (value: number) => [value, 4] as const;
export const u64 = (value: number | bigint) => [value, 8] as const;

/** A message as it is on the wire; `size` is what its header claims. */
export function raw(id: number, cmd: number, payload: Buffer, size = 16 + payload.length, flags = 0): Buffer {
  return Buffer.concat([bytes([id, 2], [cmd, 2], u32(size), u32(flags), u32(0)), payload]);
}

/** So many bytes of zero. */
export const short = (length: number): Buffer => Buffer.alloc(length);

// Payloads of requests.

export const regionAt = (offset: number | bigint, region: number, count: number) =>
  bytes(u64(offset), u32(region), u32(count));
export const map = (
  flags: number,
  offset: number | bigint,
  addr: number | bigint,
  size: number | bigint,
  argsz = 32,
) => bytes(u32(argsz), u32(flags), u64(offset), u64(addr), u64(size));
export const unmap = (addr: number | bigint, size: number | bigint, flags = 0, argsz = 24) =>
  bytes(u32(argsz), u32(flags), u64(addr), u64(size));
export const irqs = (
  flags: number,
  index: number,
  start: number,
  count: number,
  data: Buffer = Buffer.alloc(0),
) => Buffer.concat([bytes(u32(20 + data.length), u32(flags), u32(index), u32(start), u32(count)), data]);
export const featureOf = (flags: number, data: Buffer = Buffer.alloc(0), argsz = 8 + data.length) =>
  Buffer.concat([bytes(u32(argsz), u32(flags)), data]);
