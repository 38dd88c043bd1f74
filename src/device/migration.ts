/**
 * A piece of saved state. `value` is anything msgpack can say (4 MiB packed at most), named fields, never positional arrays;
 * `bytes` is bulk (memory) at `offset`, in bytes, which travels raw and may be overwritten after the next record is asked for.
 * `section` has 1 to 64 bytes, does not begin with "@", and there are at most 1024 different ones.
 */
export type StateRecord =
  | { readonly section: string; readonly value: unknown }
  | { readonly section: string; readonly offset: number; readonly bytes: Uint8Array };

/** Bulk records longer than this travel, and are loaded, in pieces of this many bytes. */
export const bulkPieceBytes = 64 * 1024;

/** A save that goes on while the device runs (PRE_COPY). Opened once per migration. */
export interface PreCopySession {
  /** Bytes of the first full pass that are still to be read; falls to 0. */
  initialBytes(): number;
  /** Bytes that have changed since they were read; starts at 0, rises and falls. */
  dirtyBytes(): number;
  /** The next piece, or undefined when there is nothing to send for now. */
  next(): StateRecord | undefined;
  /** Bytes that `final()` adds to what initial and dirty bytes tell; an estimate, 0 when left out. */
  finalBytes?(): number;
  /** Everything still missing, once the device is stopped. */
  final(): Iterable<StateRecord>;
  /** Gives tracking back, after the end or an abort. */
  end(): void;
}

/** One range of guest memory (I/O virtual addresses). */
export interface PinnedRange {
  readonly iova: number;
  readonly length: number;
}

/** What a device may write without being told each time; asked of by the `pinned` dirty scope. */
export interface PinnedRanges {
  /**
   * Every range that the guest has registered with the device for writing now, and those that were
   * registered since the last call and given back again. May overlap; need not be page aligned.
   */
  pinned(): Iterable<PinnedRange>;
}

/**
 * How a device travels. All calls come with the device quiesced, except those of a `PreCopySession`. The
 * framework saves PCI configuration, interrupts and timing itself; a device saves what is its own.
 */
export interface DeviceMigration {
  /** Whether the device can stop initiating and still answer others (VFIO_MIGRATION_P2P). */
  readonly p2p: boolean;
  /** What must be equal on both sides (memory size, number of queues …); compared before anything is loaded. */
  readonly geometry: Readonly<Record<string, number | string | boolean>>;
  /** Bytes that `save()` would give now; an estimate. */
  estimate(): number;
  /** The whole state. */
  save(): Iterable<StateRecord>;
  /**
   * Set by a device that can't see what changes under it (memory that clients map): its `final()` gives
   * the whole state again, and the stream then starts afresh, so that it loads with or without what
   * PRE_COPY sent.
   */
  readonly finalIsComplete?: boolean;
  /** Present: the device supports `--dirty pinned`. */
  readonly pinnedRanges?: PinnedRanges;
  /** Present: the device supports PRE_COPY. */
  preCopy?(): PreCopySession;
  /** A state of `version` follows; forget what is there. Throw `StateRefused` for what can't be loaded. */
  beginLoad(version: number): void;
  /**
   * One record, in the order it was saved; hostile until checked: what is thrown refuses the state. Later records of a section replace
   * earlier ones. `bytes` of more than 64 KiB come in several records, each with its own `offset`, and are good during the call only.
   */
  load(record: StateRecord): void;
  /** All records are in: check that they make sense together, and become that device. */
  endLoad(): void;
}
