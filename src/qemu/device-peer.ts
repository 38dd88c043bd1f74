/**
 * A device server as the orchestrator sees it through its migration socket. `connectPeer` makes one over the
 * vfio-user client; tests make their own.
 */

/** One DMA by message through QEMU; any guest-physical address, BARs and the ECAM window included. */
export type DmaOperation =
  | { readonly read: number; readonly length: number }
  | { readonly write: number; readonly bytes: Uint8Array };

export interface DmaResult {
  /** 0 or the errno that QEMU answered. */
  readonly errno: number;
  readonly bytes?: Uint8Array;
}

/** Deadlines, ms. */
export interface PeerTimeouts {
  /** Connecting and negotiating. */
  readonly connect: number;
  /** Each request. */
  readonly command: number;
}

export interface PeerBar {
  readonly index: number;
  readonly kind: string;
  readonly size: number;
  /** Guest-physical address; null while the guest has not assigned one. */
  readonly address: number | null;
}

/** What a device server tells of itself (`info`). */
export interface PeerInfo {
  /** Of the companion operations (docs/protocol-extensions.md). */
  readonly protocol: number;
  readonly model: string;
  readonly stateVersion: number;
  /** What else decides whether a state loads; absent: a server that does not tell. */
  readonly stateFormat?: {
    /** Older state versions that load as well. */
    readonly loadsVersions: readonly number[];
    readonly geometry: Readonly<Record<string, number | string | boolean>>;
    readonly frameworkVersion: number;
  };
  /** Configuration space as the server tracks it: 256 or 4096 bytes. */
  readonly config: Buffer;
  readonly bars: readonly PeerBar[];
  readonly msix:
    | {
        readonly vectors: number;
        readonly table: { readonly bar: number; readonly offset: number };
        readonly enabled: boolean;
      }
    | undefined;
  /** A QEMU is connected to the device socket. */
  readonly clientConnected: boolean;
  readonly held: boolean;
  readonly state: number;
  /** Network ports can be parked. */
  readonly hasNet: boolean;
}

/** Of a server that has not been asked yet. */
export const noInfo: PeerInfo = {
  protocol: 0,
  model: '',
  stateVersion: 0,
  config: Buffer.alloc(256),
  bars: [],
  msix: undefined,
  clientConnected: false,
  held: false,
  state: 0,
  hasNet: false,
};

export interface BarrierResult {
  /** Of the DMA_READ that it is; 0 or what QEMU answered. */
  readonly errno: number;
  /** The MSI-X table as QEMU holds it; absent where there is none, or the guest keeps the device from reaching it. */
  readonly msixTable?: Buffer;
}

/** A device at rest. */
export interface RestResult extends BarrierResult {
  /** What the barrier took. */
  readonly microseconds: number;
  /** As in `PeerInfo`. */
  readonly config: Buffer;
  /** Guest-physical address of each BAR, by number; null: none, or not assigned. */
  readonly addresses: readonly (number | null)[];
}

export interface MarkResult {
  readonly pages: number;
  readonly failed: number;
  readonly firstErrno: number;
  readonly microseconds: number;
  /** The guest has Bus Master off: nothing has been marked and the log is as it was. */
  readonly deferred: boolean;
  /** Pages that have not been marked, as they will be carried. */
  readonly kept: number;
}

/** Memory of this process that a server is to map. */
export interface SharedPlace {
  readonly pid: number;
  readonly fd: number;
  readonly size: number;
  readonly token: Uint8Array;
}

/** State through memory that the server maps; see docs/protocol-extensions.md, "State windows". */
export interface SharedState {
  open(place: SharedPlace): Promise<void>;
  /** As `DevicePeer.read`, into the memory at `offset`; the bytes that came. */
  read(offset: number, length: number): Promise<number>;
  write(offset: number, length: number): Promise<void>;
}

/** Pages of guest memory through memory that the server maps; see docs/protocol-extensions.md, "Page windows". */
export interface SharedPages {
  open(place: SharedPlace & { readonly slots: number }): Promise<void>;
  /** Copies dirty pages, from an address on, into the window from `slot` on; they stay dirty. `next`: address to go on from. */
  look(
    from: number,
    slot: number,
    limit: number,
  ): Promise<{ readonly pages: number; readonly next: number; readonly microseconds: number }>;
  /** Has the pages that these slots name mapped in advance. */
  touch(slot: number, pages: number): Promise<void>;
  /** Copies what `markDirty` has kept into the window; resolves to the number of pages. */
  carry(): Promise<number>;
  /** Writes the first `pages` of the window to guest memory. */
  place(pages: number): Promise<void>;
}

/**
 * All calls reject with a `CompanionError` on a refusal, a deadline or a lost connection. Calls on one peer
 * are carried out in the order in which they are made, so that a caller may send several and wait once.
 */
export interface DevicePeer {
  /** For messages: the socket's path. */
  readonly name: string;
  /** Most bytes that one `read` or `write` may carry. */
  readonly maxTransfer: number;
  /** Settles when the connection ends; with the reason, or undefined after our own `close()`. */
  readonly ended: Promise<Error | undefined>;
  migrationFlags(): Promise<number>;
  state(): Promise<number>;
  setState(state: number): Promise<void>;
  precopyInfo(): Promise<{ initialBytes: number; dirtyBytes: number }>;
  /** Estimate of the bytes still to come in STOP_COPY. */
  dataSize(): Promise<number>;
  /** Next bytes of state; empty: nothing (for now, or at the end). */
  read(maxBytes: number): Promise<Buffer>;
  write(bytes: Buffer): Promise<void>;
  /** Absent: state goes by `read` and `write` only. */
  readonly shared?: SharedState;
  /** Absent: dirty pages can only be marked. */
  readonly pages?: SharedPages;
  startLogging(): Promise<void>;
  stopLogging(): Promise<void>;
  info(): Promise<PeerInfo>;
  hold(on: boolean): Promise<void>;
  /** After it everything that QEMU had sent before has been executed. */
  barrier(): Promise<BarrierResult>;
  /**
   * Parks the network ports (if told to), drains as `barrier`, holds the device and moves it to `state`, its P2P state,
   * if one is given; and tells what its registers are then.
   */
  rest(how: { readonly park: boolean; readonly state?: number }): Promise<RestResult>;
  /** To STOP_COPY; resolves to what `dataSize` tells there. */
  halt(): Promise<number>;
  dma(operations: readonly DmaOperation[]): Promise<readonly DmaResult[]>;
  /** Keeps the server from work in the background that can wait, until it is told otherwise. */
  quiet(on: boolean): Promise<void>;
  /** @param keep so many pages are not marked but kept for `pages.carry` */
  markDirty(keep?: number): Promise<MarkResult>;
  /** Rehearses marking so many pages, which changes nothing; 0 pages in the result: it could not. */
  rehearseMarking?(pages: number): Promise<MarkResult>;
  dirtyEstimate(): Promise<number>;
  fireVectors(): Promise<void>;
  park(on: boolean): Promise<void>;
  close(): Promise<void>;
}
