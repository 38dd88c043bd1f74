import { crc32 } from 'node:zlib';

/** One chunk as it lies in a stream. A reader and builder of the format for tests; shares no code with the codec. */
export interface Chunk {
  type: number;
  flags: number;
  section: number;
  sequence: number;
  offset: bigint;
  payload: Buffer;
  disposition: number;
  reserved?: number;
  /** Told in the header; the payload's unless given. */
  length?: number;
}

export const preludeBytes = 16;

/** Cuts a sound stream into its chunks. */
export function cut(stream: Buffer): Chunk[] {
  const chunks: Chunk[] = [];
  for (let at = preludeBytes; at < stream.length; ) {
    const length = stream.readUInt32LE(at + 8);
    chunks.push({
      type: stream.readUInt8(at),
      flags: stream.readUInt8(at + 1),
      section: stream.readUInt16LE(at + 2),
      sequence: stream.readUInt32LE(at + 4),
      offset: stream.readBigUInt64LE(at + 16),
      payload: stream.subarray(at + 28, at + 28 + length),
      disposition: stream.readUInt32LE(at + 28 + length),
    });
    at += 28 + length + 8;
  }
  return chunks;
}

/** The sum of bulk payloads as src/migration/stream/wide-sum.ts tells it. */
export function wideSumOf(payload: Uint8Array): number {
  const prime = 0x9e3779b1n;
  const mixed = (value: bigint, word: bigint) => {
    const product = ((value ^ word) * prime) & 0xffffffffn;
    return product ^ (product >> 15n);
  };
  const lanes = Array.from({ length: 32 }, (_, lane) => (BigInt(lane + 1) * prime) & 0xffffffffn);
  const padded = Buffer.alloc(Math.ceil(payload.length / 128) * 128);
  padded.set(payload);
  for (let at = 0; at < padded.length; at += 4) {
    const lane = (at / 4) % 32;
    lanes[lane] = mixed(lanes[lane] ?? 0n, BigInt(padded.readUInt32LE(at)));
  }
  return Number(lanes.reduce(mixed, BigInt(payload.length)));
}

const bulk = 4;

export function chunkBytes(chunk: Chunk, version = 2): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt8(chunk.type, 0);
  header.writeUInt8(chunk.flags, 1);
  header.writeUInt16LE(chunk.section, 2);
  header.writeUInt32LE(chunk.sequence, 4);
  header.writeUInt32LE(chunk.length ?? chunk.payload.length, 8);
  header.writeUInt32LE(chunk.reserved ?? 0, 12);
  header.writeBigUInt64LE(chunk.offset, 16);
  header.writeUInt32LE(crc32(header.subarray(0, 24)), 24);
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(chunk.disposition, 0);
  const sumOf = chunk.type === bulk && version > 1 ? wideSumOf : (bytes: Uint8Array) => crc32(bytes);
  trailer.writeUInt32LE(crc32(trailer.subarray(0, 4), sumOf(chunk.payload)), 4);
  return Buffer.concat([header, chunk.payload, trailer]);
}

/** Puts chunks together again, with the prelude of `stream`; their own sequence numbers stay. */
export function join(stream: Buffer, chunks: readonly Chunk[]): Buffer {
  const version = stream.readUInt16LE(8);
  return Buffer.concat([
    stream.subarray(0, preludeBytes),
    ...chunks.map((chunk) => chunkBytes(chunk, version)),
  ]);
}

/** Numbers chunks anew, so that only what they say is wrong. */
export function renumber(chunks: readonly Chunk[]): Chunk[] {
  return chunks.map((chunk, sequence) => ({ ...chunk, sequence }));
}
