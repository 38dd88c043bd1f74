import type { DirtySink } from './types.ts';

/** How much is taken for dirty; see dirty-scopes.ts for what each costs. */
export const dirtyScopes = ['precise', 'pinned', 'all'] as const;
export type DirtyScopeName = (typeof dirtyScopes)[number];

/** I/O virtual addresses `[iova, iova + length)`. */
export interface IovaRange {
  readonly iova: number;
  readonly length: number;
}

/** The dirty log of a device, whatever its scope. */
export interface DirtyTracker extends DirtySink {
  readonly scope: DirtyScopeName;
  readonly active: boolean;
  /** Bytes of a tracked page, 0 when logging is off. */
  readonly pageSize: number;
  /** Pages of 4 KiB that the next `drainPages` would visit (an estimate for the `pinned` and `all` scopes). */
  readonly count: number;
  /**
   * Starts logging. `pageSize` is a power of two; returns the one used (4 KiB to 2 MiB). No ranges: everything.
   * Throws EINVAL (started already, unaligned, overlapping) or E2BIG (too many ranges).
   */
  start(pageSize: number, ranges: readonly IovaRange[]): number;
  /** Ends logging and forgets. Not an error when logging is off. */
  stop(): void;
  /**
   * Sets a bit in `bitmap` for each page of `pageSize` bytes that is dirty in the range (bit 0 of byte 0 is the
   * first), and clears them in the log, in one step.
   */
  report(iova: number, length: number, pageSize: number, bitmap: Uint8Array): void;
  /**
   * Visits the address of each dirty 4 KiB page, ascending, and clears it, until `limit` pages have been
   * visited. Returns how many. `visit` must not mark.
   */
  drainPages(visit: (iova: number) => void, limit?: number): number;
  /** As `drainPages`, into an array. */
  takeDirtyPages(limit?: number): Float64Array;
  /** Up to `limit` addresses of dirty 4 KiB pages, ascending, from the page address `from` on. They stay dirty. */
  peekDirtyPages(from: number, limit: number): Float64Array;
  /**
   * The client mapped memory with a descriptor: call it for each such mapping, for the `all` scope must not
   * miss a short-lived one.
   */
  mapped(iova: number, size: number, prot: number): void;
}
