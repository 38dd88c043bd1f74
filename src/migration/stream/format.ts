import { bulkPieceBytes } from '../../device/migration.ts';

/**
 * The state stream, byte by byte. All integers are little-endian.
 *
 *     prelude   8 bytes magic, u16 format version, u16 zero, u32 zero
 *     chunk     header (28) | payload (`length`) | trailer (8)        … repeated; the last one is `end`
 *
 *     header    u8 type, u8 flags, u16 section, u32 sequence, u32 length, u32 zero, u64 offset, u32 CRC of
 *               the 24 bytes before
 *     trailer   u32 disposition, u32 CRC of the disposition, going on from the payload's sum as from a CRC
 *
 * The sum of a bulk payload is a `wideSum` (wide-sum.ts), in format 1 a CRC; that of all others is a CRC.
 *
 * The header has a CRC of its own so that no length is believed unchecked; the payload's comes after it
 * because the bytes of a running device may change until the moment they are copied out. `sequence`
 * counts chunks from 0, so a chunk that is lost, repeated or out of place is noticed at once. `end`
 * carries the totals of what went before, so a stream that is cut between chunks is noticed too.
 *
 * A stream whose header requires `afresh` may break off behind any chunk and another stream follow, from its
 * prelude on: everything before is void, numbers and section names too. So no chunk type is 0x89, the
 * first byte of a prelude.
 */
export const magic = Buffer.from('\x89VCSTATE', 'latin1');
/** What is written. */
export const formatVersion = 2;
/** What is read. */
export const formatVersions: readonly number[] = [1, formatVersion];
export const preludeSize = 16;
export const preludeLayout = { version: 8 } as const;

export const chunkHeaderSize = 28;
export const chunkLayout = {
  type: 0,
  flags: 1,
  section: 2,
  sequence: 4,
  length: 8,
  reserved: 12,
  offset: 16,
  crc: 24,
} as const;

export const chunkTrailerSize = 8;
export const trailerLayout = { disposition: 0, crc: 4 } as const;
export const disposition = {
  load: 0,
  /** The sender dropped what this chunk comes from (a reset in the middle of it): check it and forget it. */
  drop: 1,
} as const;

export const chunkType = {
  /** msgpack `StreamHeader`; the first chunk and no other. */
  header: 1,
  /** UTF-8 name of the next section number, counted from 0. */
  section: 2,
  /** msgpack value of a section. */
  value: 3,
  /** Raw bytes of a section, at `offset`. */
  bulk: 4,
  /** Everything so far is void: the state begins again. */
  restart: 5,
  /** msgpack `StreamTotals`; nothing follows. */
  end: 6,
} as const;

export const chunkFlags = {
  /** A reader that does not know the type skips the chunk; without it, it refuses the stream. */
  skippable: 1,
} as const;

/** Bounds that a reader enforces before it allocates; a writer that keeps them is always understood. */
export const limits = {
  /** Bulk records are cut at multiples of this. */
  bulkPiece: bulkPieceBytes,
  /** Longest payload of any chunk, of a structured value among them. */
  payload: 4 * 1024 * 1024,
  headerPayload: 64 * 1024,
  sectionName: 64,
  sections: 1024,
  /** All values of the framework's own sections together; they are kept until the end. */
  frameworkValues: 8 * 1024 * 1024,
} as const;

/** Sections that the framework saves itself are told from the device's by this first character. */
export const frameworkPrefix = '@';

/** Stream features beyond the basic format. */
export const streamFeature = {
  /** There may be `restart` chunks. */
  restart: 'restart',
  /** Behind any chunk another stream may begin, which replaces this one. */
  afresh: 'afresh',
} as const;

/** What a reader of this version understands; a stream names what it needs. */
export const knownFeatures: readonly string[] = Object.values(streamFeature);

export type Geometry = Readonly<Record<string, number | string | boolean>>;

/** What the destination compares before it loads anything. */
export interface StreamHeader {
  readonly model: string;
  readonly stateVersion: number;
  readonly geometry: Geometry;
  /** Stream features that a reader must know. */
  readonly requires: readonly string[];
  /** Version of the framework's own sections. */
  readonly frameworkVersion: number;
  /** Page size that offsets of bulk sections tend to; information. */
  readonly pageSize: number;
}

export interface StreamTotals {
  /** Chunks before this one. */
  readonly chunks: number;
  /** Their payload bytes. */
  readonly bytes: number;
  /** CRC over the payload CRCs of all of them, in order (as 4 bytes each). */
  readonly digest: number;
}
