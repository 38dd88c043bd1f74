/** What a page window looks like to the two servers that share it; docs/protocol-extensions.md, "Page windows". */
export const pageWindow = {
  pageBytes: 4096,
  /** A page's address: 64 bits, little-endian. */
  addressBytes: 8,
  /** Most pages that one window holds: 128 MiB of guest memory. */
  maxSlots: 32768,
} as const;

/** Bytes of a window of `slots` pages: the pages from the start on, their addresses behind. */
export function pageWindowSize(slots: number): number {
  return slots * (pageWindow.pageBytes + pageWindow.addressBytes);
}
