/** Permission bits of a DMA mapping (vfio-user DMA_MAP flags, `VFIO_DMA_MAP_FLAG_READ/WRITE`). */
export const dmaProt = { read: 1, write: 2 } as const;

/** A `VFIO_USER_DMA_MAP` request. */
export interface DmaMapRequest {
  readonly iova: number;
  readonly size: number;
  /** `dmaProt` bits. */
  readonly prot: number;
  /** Shared memory that holds the region's bytes at `fdOffset`; without it, it is reached by messages. */
  readonly fd?: number | undefined;
  readonly fdOffset: number;
}

/** One mapping that the client made: I/O virtual addresses `[iova, iova + size)`. */
export interface DmaRegion {
  readonly iova: number;
  readonly size: number;
  /** `dmaProt` bits. */
  readonly prot: number;
  /** Whether the region came with a descriptor (else it is reached by messages). */
  readonly mapped: boolean;
}

/**
 * Guest memory as a device sees it. Addresses are I/O virtual addresses (guest-physical without a vIOMMU).
 *
 * Every access is checked against the client's mappings and their permissions, and crosses region borders. What
 * can't be done throws `DmaFault` before a byte has moved: EFAULT (not mapped), EACCES (not permitted). Writes go through
 * the dirty log when logging is on.
 *
 * Regions without a descriptor are reached by messages to the client: the call waits for the reply, and
 * region accesses that arrive meanwhile are answered. That is impossible *inside* a register read, where
 * it throws `DmaFault` with errno EAGAIN: use `host.defer` there. Without a client it is ENOTCONN. Such an access may also fail
 * half way, as on a real bus, with a `RequestError` and the client's errno (ETIMEDOUT: no answer; ECANCELED: a reset).
 */
export interface GuestMemory {
  /** Fills `target` from guest memory at `iova`. */
  read(iova: number, target: Uint8Array): void;
  /** Copies `source` to guest memory at `iova`. */
  write(iova: number, source: Uint8Array): void;
  /**
   * The guest's own bytes, without a copy, valid until the current callback returns; undefined when the range
   * crosses windows, or is reachable by message only. Read-only by contract: a write through it would
   * escape the dirty log.
   */
  view(iova: number, length: number): Uint8Array | undefined;
  /**
   * As `view`, for writing: the whole range is marked dirty before it is handed out. Valid until the
   * current callback returns.
   */
  writableView(iova: number, length: number): Uint8Array | undefined;
  readUint16BE(iova: number): number;
  readUint32BE(iova: number): number;
  readUint32LE(iova: number): number;
  writeUint32BE(iova: number, value: number): void;
  writeUint32LE(iova: number, value: number): void;
  writeUint8(iova: number, value: number): void;
  /** Whether `[iova, iova + length)` is mapped with all bits of `prot` (`dmaProt`). */
  accessible(iova: number, length: number, prot: number): boolean;
  /** All mappings, in address order. */
  regions(): readonly DmaRegion[];
}

/** The message path to the client (`VFIO_USER_DMA_READ` / `VFIO_USER_DMA_WRITE`); both wait for the reply. */
export interface MessageDma {
  /** Throws `RequestError` with the client's errno. Splits by the negotiated transfer size, pipelined. */
  read(iova: number, target: Uint8Array): void;
  write(iova: number, source: Uint8Array): void;
  /** False inside a register read, when waiting would deadlock the client. */
  readonly mayWait: boolean;
  /**
   * Writes `bytes[i]` to `addresses[i]`, for `i` below `count`, each as a message of its own, pipelined: a way to
   * mark pages dirty at the client. Errors of single writes are counted, not thrown; `results[i]` gets the errno
   * of each (0: written). Absent where a transport has nothing better than `write` in a loop.
   */
  writeByteBatch?(
    addresses: ArrayLike<number>,
    count: number,
    bytes: Uint8Array,
    results?: Int32Array,
  ): ByteBatchResult;
  /**
   * Writes pieces of one or two bytes, `count` of them: `lengths[i]` bytes of `bytes` from `2 * i` on to `addresses[i]`,
   * with as few replies as possible. Faster than `writeByteBatch`, and knows less.
   *
   * @param answered which pieces ask for a reply in any case (not 0), a client's word that it has not kept silent about a refusal
   * @returns false when any piece was refused, or when this client can't be trusted to tell; those that were not
   *   refused are written
   */
  postBatch?(
    addresses: ArrayLike<number>,
    lengths: Uint8Array,
    bytes: Uint8Array,
    count: number,
    answered: Uint8Array,
  ): boolean;
}

/** Outcome of `MessageDma.writeByteBatch`. */
export interface ByteBatchResult {
  /** Writes that the client refused. */
  readonly failed: number;
  /** errno of the first of them; 0 when all were done. */
  readonly firstErrno: number;
}

/** Where each DMA write is noted when logging is on. */
export interface DirtySink {
  mark(iova: number, length: number): void;
}
