import { errno, RequestError } from '../errors.ts';
import { WINDOW_SIZE } from '../posix/index.ts';
import type { AddressRange } from './address-list.ts';
import type { FileWindow, FileWindows, SharedFile } from './file-windows.ts';
import { type DmaRegion, dmaProt } from './types.ts';

/** What a client mapped, as it asked for it. */
export interface Region extends DmaRegion, AddressRange {
  /** Of the file, and where in it; to recognise a repeated request. */
  readonly identity: string | undefined;
  readonly fdOffset: number;
  /** To be released with the region. */
  readonly windows: readonly FileWindow[];
  readonly spans: readonly Span[];
}

/** A part of a region whose bytes are in one piece; the only part of a region without a descriptor. */
export interface Span extends AddressRange {
  readonly prot: number;
  readonly mapped: boolean;
  /** `end`, or `iova` when not mapped: accesses up to here need no further question. */
  readonly directEnd: number;
  /** The byte at `iova` is the first. Not a Buffer: subarray and set are faster so. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

const noBytes = new Uint8Array(0);

function spanOver(iova: number, end: number, prot: number, bytes: Uint8Array | undefined): Span {
  const { buffer, byteOffset, byteLength } = bytes ?? noBytes;
  return {
    iova,
    end,
    prot,
    mapped: bytes !== undefined,
    directEnd: bytes === undefined ? iova : end,
    bytes: new Uint8Array(buffer, byteOffset, byteLength),
    view: new DataView(buffer, byteOffset, byteLength),
  };
}

/** Stand in where there is nothing, so that accesses need not ask. */
export const noSpan: Span = spanOver(0, 0, 0, undefined);
export const noRegion: Region = {
  iova: 0,
  size: 0,
  end: 0,
  prot: 0,
  mapped: false,
  identity: undefined,
  fdOffset: 0,
  windows: [],
  spans: [],
};

interface RegionRequest {
  readonly iova: number;
  readonly size: number;
  readonly prot: number;
  readonly fdOffset: number;
}

/**
 * Makes a region over the windows of the file behind it. The offset need not be a multiple of the page size.
 *
 * @throws RequestError EINVAL when the file is too short, ENOSPC when there are too many; PosixError of mmap
 */
export function makeRegion(
  request: RegionRequest,
  file: SharedFile | undefined,
  source: FileWindows,
): Region {
  const { iova, size, prot, fdOffset } = request;
  const end = iova + size;
  const windows: FileWindow[] = [];
  const spans: Span[] = [];
  const common = { iova, size, end, prot, fdOffset, identity: file?.identity, windows, spans };
  if (file === undefined) {
    spans.push(spanOver(iova, end, prot, undefined));
    return { ...common, mapped: false };
  }
  const fdEnd = fdOffset + size;
  if (fdEnd > file.size)
    throw new RequestError(errno.EINVAL, `can't map bytes ${fdOffset}+${size} of a file of ${file.size}`);
  const writable = (prot & dmaProt.write) !== 0;
  source.checkRoom(file, fdOffset, fdEnd, writable);
  try {
    for (let at = fdOffset; at < fdEnd; ) {
      const window = source.acquire(file, at, fdEnd, writable);
      windows.push(window);
      const start = at % WINDOW_SIZE;
      const length = Math.min(fdEnd - at, WINDOW_SIZE - start);
      const address = iova + at - fdOffset;
      spans.push(spanOver(address, address + length, prot, window.bytes.subarray(start, start + length)));
      at += length;
    }
  } catch (error) {
    for (const window of windows) source.release(window);
    throw error;
  }
  return { ...common, mapped: true };
}
