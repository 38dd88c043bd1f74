import type { DirtySink, DmaMapRequest, MessageDma } from '../dma/types.ts';

/** `VFIO_REGION_INFO_FLAG_*` (vfio.h). */
export const regionFlags = { read: 1, write: 2, mmap: 4, caps: 8 } as const;
/** `VFIO_IRQ_INFO_*` (vfio.h). */
export const irqFlags = { eventfd: 1, maskable: 2, automasked: 4, noresize: 8 } as const;

export interface MmapArea {
  readonly offset: number;
  readonly size: number;
}

export interface RegionInfo {
  /** Bytes; 0 when the region does not exist. */
  readonly size: number;
  /** `regionFlags` bits. */
  readonly flags: number;
  /** Parts that a client may map (page aligned), with the descriptor that holds them, at `fdOffset`. */
  readonly mmap?: { readonly fd: number; readonly fdOffset: number; readonly areas: readonly MmapArea[] };
}

export interface IrqInfo {
  readonly count: number;
  /** `irqFlags` bits. */
  readonly flags: number;
}

/** What `DEVICE_SET_IRQS` asks for one range of one interrupt index (vfio.h `struct vfio_irq_set`). */
export interface IrqSet {
  readonly index: number;
  readonly start: number;
  readonly count: number;
  readonly action: 'mask' | 'unmask' | 'trigger';
  /**
   * none: act on the whole range (count 0 with trigger: disable the index). bool: act where true.
   * eventfd: `fds[i]` for `start + i`; undefined there means "no descriptor for this one".
   * Descriptors become the device's, unless it refuses the request.
   */
  readonly data:
    | { readonly type: 'none' }
    | { readonly type: 'bool'; readonly values: readonly boolean[] }
    | { readonly type: 'eventfd'; readonly fds: readonly (number | undefined)[] };
}

/** An ioeventfd offered for a sub-range of a region (`VFIO_USER_DEVICE_GET_REGION_IO_FDS`). */
export interface RegionIoFd {
  readonly offset: number;
  readonly size: number;
  readonly fd: number;
  /** `ioFdType`. */
  readonly type: number;
  /** `ioeventfdFlags` bits. */
  readonly flags: number;
  readonly datamatch: bigint;
}

/** One contiguous IOVA range of `VFIO_DEVICE_FEATURE_DMA_LOGGING_START`. */
export interface DmaRange {
  readonly iova: number;
  readonly length: number;
}

/** The migration half of a served device; `src/migration` implements it. Errors are thrown (`errno` inside). */
export interface ServedMigration {
  /** `VFIO_MIGRATION_*` flags. */
  readonly flags: number;
  readonly state: number;
  /** Walks to `state` (vfio.h `vfio_device_mig_state`), synchronously. */
  setState(state: number): void;
  /** Estimate of the STOP_COPY length in bytes. */
  dataSize(): number;
  /** As `VFIO_MIG_GET_PRECOPY_INFO`; throws EINVAL outside the PRE_COPY states. */
  precopyInfo(): { initialBytes: number; dirtyBytes: number; flags: number };
  /** Fills `target` with state; returns the bytes read, short only at the (temporary) end. */
  read(target: Uint8Array): number;
  write(source: Uint8Array): void;
  /** Returns the page size chosen. An empty `ranges` means everything. */
  startDmaLogging(pageSize: number, ranges: readonly DmaRange[]): number;
  stopDmaLogging(): void;
  /** Sets a bit for each dirty page of the range (little-endian bitmap, bit 0 = first page), and clears it. */
  reportDmaLogging(iova: number, length: number, pageSize: number, bitmap: Uint8Array): void;
}

/** What a transport hands to the device when a client has connected and negotiated. */
export interface ClientLink {
  readonly dma: MessageDma;
  /**
   * Carries out now what the client has sent while it was waited for: outside of its own requests that comes only when the
   * loop has its turn again. Does nothing while such a wait goes on.
   */
  settle(): void;
  /**
   * For a reset that finds the device in the middle of DMA by message: ends that, refuses more of it until the device has
   * unwound, and then calls `reset`, in order with the requests that were kept meanwhile. Not called if the client leaves first.
   *
   * @returns false, with nothing done, when there is no such wait
   */
  unwind(reset: () => void): boolean;
  /** Told of every write to mapped memory, beside the device's own dirty log; for a transport that keeps a log itself. */
  readonly dirty?: DirtySink;
}

/**
 * A device as a transport sees it: the requests of vfio-user, decoded and range-checked against the
 * protocol (lengths, descriptors, counts), not against the device. The runtime implements it over a
 * model; the native server and the libvfio-user binding serve it. All calls are synchronous. A request
 * that can't be done throws a `CompanionError`, whose errno answers it.
 */
export interface ServedDevice {
  readonly name: string;
  /** Number of regions and interrupt indices, `VFIO_DEVICE_FLAGS_*`. */
  readonly info: { readonly regions: number; readonly irqs: number; readonly flags: number };
  /** A client is there. Called once per connection, before any other request of it. */
  attach(link: ClientLink): void;
  /** The client is gone: mappings and eventfds dropped, device state kept. */
  detach(): void;
  regionInfo(index: number): RegionInfo;
  regionIoFds(index: number): readonly RegionIoFd[];
  irqInfo(index: number): IrqInfo;
  setIrqs(request: IrqSet): void;
  /** Reads `count` bytes into `target` at `at`. Must not wait for DMA by message. */
  regionRead(index: number, offset: number, count: number, target: Buffer, at: number): void;
  /**
   * Checks a write (index, range) and throws, without doing it: the transport answers the client first
   * and then calls `regionWrite`, which may wait for DMA by message.
   */
  checkRegionWrite(index: number, offset: number, count: number): void;
  regionWrite(index: number, offset: number, count: number, source: Buffer, at: number): void;
  /** Takes the descriptor (if any). Throws EEXIST/EINVAL and leaves the descriptor to the caller then. */
  dmaMap(region: DmaMapRequest): void;
  /** All mappings in the range, none of which may be cut; throws ENOENT. The range may end above 2^53, where nothing is. */
  dmaUnmap(iova: number, size: number): void;
  dmaUnmapAll(): void;
  reset(): void;
  /** Undefined when the model can't migrate. */
  readonly migration: ServedMigration | undefined;
  close(): void;
}
