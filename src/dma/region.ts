import { MappedMemory, mmapProt, PAGE_SIZE } from '../posix/index.ts';
import type { AddressRange } from './address-list.ts';
import { type DmaRegion, dmaProt } from './types.ts';

/** What a client mapped, as it asked for it. */
export interface Region extends DmaRegion, AddressRange {
  readonly memory: MappedMemory | undefined;
  /** Tells one file and offset from another, to recognise a repeated request. */
  readonly identity: string;
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
  memory: undefined,
  identity: '',
  spans: [],
};

interface RegionRequest {
  readonly iova: number;
  readonly size: number;
  readonly prot: number;
  readonly fdOffset: number;
}

/**
 * Makes a region, and maps what its descriptor holds. Readable whenever it is writable: processors have no
 * other kind of page. The file offset need not be a multiple of the page size, although mappings are.
 */
export function makeRegion(request: RegionRequest, fd: number | undefined, identity: string): Region {
  const { iova, size, prot, fdOffset } = request;
  const end = iova + size;
  const common = { iova, size, end, prot, identity };
  if (fd === undefined)
    return { ...common, mapped: false, memory: undefined, spans: [spanOver(iova, end, prot, undefined)] };
  const surplus = fdOffset % PAGE_SIZE;
  const access = (prot & dmaProt.write) === 0 ? mmapProt.READ : mmapProt.READ | mmapProt.WRITE;
  const memory = MappedMemory.map(fd, fdOffset - surplus, size + surplus, access);
  const spans: Span[] = [];
  let at = iova;
  for (const window of memory.windows) {
    const bytes = at === iova ? window.subarray(surplus) : window;
    spans.push(spanOver(at, at + bytes.length, prot, bytes));
    at += bytes.length;
  }
  return { ...common, mapped: true, memory, spans };
}
