/** The six base address registers of a type 0 header. A 64-bit BAR takes two: its index and the next. */
export type BarIndex = 0 | 1 | 2 | 3 | 4 | 5;

/**
 * A register that only starts something. A client may give its writes to KVM as an ioeventfd, which spares a guest's CPU
 * the wait for an answer. The device's `write` is called all the same, but rings may be merged, may come after an
 * access that followed them, and carry no value beyond `datamatch`: without it the bytes are zero. A client need not
 * make use of it; QEMU (looked at up to 11.1) never asks.
 */
export interface DoorbellDescription {
  /** Bytes from the start of the BAR; a multiple of `size`. */
  readonly offset: number;
  /** Bytes. */
  readonly size: 1 | 2 | 4;
  /** Only writes of this value ring; others arrive as ordinary writes. */
  readonly datamatch?: number;
}

export interface BarDescription {
  /** Bytes; a power of two, from 16 to 2^31 (`memory64`: 2^52; `io`: 4 to 2^16). */
  readonly size: number;
  readonly kind: 'memory32' | 'memory64' | 'io';
  readonly prefetchable?: boolean;
  /**
   * Page-aligned parts, in the first GiB of the BAR, that the client may map into the guest: accesses there reach
   * `host.barMemory(bar)` directly and the model is not told.
   */
  readonly mappable?: readonly { readonly offset: number; readonly size: number }[];
  /** Memory BARs only; outside of mappable parts, of the MSI-X table and of its pending bits. */
  readonly doorbells?: readonly DoorbellDescription[];
}

export interface MsixDescription {
  /** 1 to 2048. */
  readonly vectors: number;
  /** 16 bytes for each vector, in a memory BAR outside of its mappable parts; `offset` is a multiple of 8. */
  readonly table: { readonly bar: BarIndex; readonly offset: number };
  /** The pending bits: 8 bytes for 64 vectors. As `table`, which it does not overlap. */
  readonly pba: { readonly bar: BarIndex; readonly offset: number };
}

export interface MsiDescription {
  /** 1, 2, 4, 8, 16 or 32. */
  readonly vectors: number;
  readonly address64?: boolean;
  readonly perVectorMasking?: boolean;
}

export interface PcieDescription {
  /** Function level reset offered (DEVCAP bit 28). */
  readonly functionLevelReset?: boolean;
}

/** What a model is on the bus (PCI Local Bus 3.0 section 6, PCI Express Base section 7). */
export interface PciDescription {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly subsystemVendorId?: number;
  readonly subsystemId?: number;
  readonly revisionId?: number;
  /** 24 bits: base class, sub-class, programming interface. */
  readonly classCode: number;
  /** INTA# = 1 … INTD# = 4; left out: the function has no INTx. */
  readonly interruptPin?: 1 | 2 | 3 | 4;
  readonly bars: Partial<Record<BarIndex, BarDescription>>;
  readonly capabilities?: {
    readonly powerManagement?: boolean;
    readonly pcie?: PcieDescription;
    readonly msi?: MsiDescription;
    readonly msix?: MsixDescription;
    /** Bodies of vendor-specific capabilities (after id, next and length), of at most 189 bytes. */
    readonly vendor?: readonly Uint8Array[];
    /** Extended capabilities: bodies after the 4-byte header. Makes configuration space 4096 bytes. */
    readonly extended?: readonly {
      readonly id: number;
      readonly version: number;
      readonly body: Uint8Array;
    }[];
  };
}
