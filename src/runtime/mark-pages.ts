import { DirtyLog } from '../dma/dirty-log.ts';
import { type DmaRegion, dmaProt, type GuestMemory, type MessageDma } from '../dma/types.ts';
import { CompanionError } from '../errors.ts';

/** Bytes of a page of the dirty log. */
const pageSize = 4096;
/** Slots of a piece in the byte array of `MessageDma.postBatch`. */
const pieceSlots = 2;

export interface MarkOutcome {
  readonly pages: number;
  readonly failed: number;
  /** 0: none failed. */
  readonly firstErrno: number;
}

/**
 * Shows pages to the client: bytes of them are read through the mapping and written back by message, which changes
 * nothing but the client's own dirty log. Only with the guest's CPUs stopped, as nobody else may write meanwhile.
 *
 * Two pages beside each other in one mapping need one message: the last byte of the one and the first of the
 * other. Most messages ask for no reply. Should anything be refused, every page is written by itself, to tell
 * exactly how many can't be.
 *
 * @param pages addresses, ascending; overwritten
 */
export function markPages(memory: GuestMemory, client: MessageDma, pages: Float64Array): MarkOutcome {
  const count = pages.length;
  if (markInPairs(memory, client, pages, true)) return { pages: count, failed: 0, firstErrno: 0 };
  return { pages: count, ...markSingly(memory, client, pages) };
}

/**
 * Goes through the motions for `count` pages with writes of no bytes, which touch nothing: the code is warm when it is
 * needed, and what a page costs is known. May be done while the guest runs.
 */
export function rehearseMarking(memory: GuestMemory, client: MessageDma, count: number): MarkOutcome {
  const region = memory.regions().find(({ size, mapped }) => mapped && size >= count * pageSize * 2);
  if (region === undefined) return { pages: 0, failed: 0, firstErrno: 0 };
  const log = new DirtyLog({ scope: 'precise' });
  log.start(pageSize, []);
  // Two beside each other, then one by itself: whatever compiles this must have seen both.
  for (let index = 0; index < count; index++) {
    const place = Math.floor(index / 3) * 5 + (index % 3 === 2 ? 3 : index % 3);
    log.mark(region.iova + place * pageSize, 1);
  }
  const done = markInPairs(memory, client, log.takeDirtyPages(), false);
  return { pages: done ? count : 0, failed: 0, firstErrno: 0 };
}

/**
 * @param inEarnest false: writes of no bytes, with the same instructions otherwise
 * @returns false unless every page has been marked for sure
 */
function markInPairs(
  memory: GuestMemory,
  client: MessageDma,
  pages: Float64Array,
  inEarnest: boolean,
): boolean {
  if (client.postBatch === undefined) return false;
  const count = pages.length;
  const addresses = new Float64Array(count);
  const lengths = new Uint8Array(count);
  const bytes = new Uint8Array(count * pieceSlots);
  const cursor = new RegionCursor(memory.regions());
  /** The first page of each mapping: a mapping accepts either all of its pages or none. A client that kept silent would show. */
  const answered = new Uint8Array(count);
  const lengthMask = inEarnest ? ~0 : 0;
  let pieces = 0;
  for (let at = 0; at < count; ) {
    const page = pages[at] ?? 0;
    if (!cursor.seek(page)) return false;
    if (cursor.entered) answered[pieces] = 1;
    const next = page + pageSize;
    const paired = pages[at + 1] === next && next < cursor.end;
    if (paired) {
      const both = memory.readUint16BE(next - 1);
      addresses[pieces] = next - 1;
      bytes[pieces * pieceSlots] = both >>> 8;
      bytes[pieces * pieceSlots + 1] = both & 0xff;
    } else {
      addresses[pieces] = page;
      bytes[pieces * pieceSlots] = memory.readUint32LE(page) & 0xff;
    }
    lengths[pieces++] = (paired ? 2 : 1) & lengthMask;
    at += paired ? 2 : 1;
  }
  return client.postBatch(addresses, lengths, bytes, pieces, answered);
}

/** One message and one reply for each page. */
function markSingly(
  memory: GuestMemory,
  client: MessageDma,
  pages: Float64Array,
): { failed: number; firstErrno: number } {
  const bytes = new Uint8Array(pages.length);
  let kept = 0;
  let failed = 0;
  let firstErrno = 0;
  const fail = (error: unknown): void => {
    if (!(error instanceof CompanionError)) throw error;
    failed++;
    firstErrno ||= error.errno;
  };
  for (const page of pages) {
    try {
      bytes[kept] = memory.readUint32LE(page) & 0xff;
      pages[kept++] = page;
    } catch (error) {
      fail(error);
    }
  }
  if (client.writeByteBatch) {
    const outcome = client.writeByteBatch(pages, kept, bytes);
    failed += outcome.failed;
    firstErrno ||= outcome.firstErrno;
  } else {
    for (let at = 0; at < kept; at++) {
      try {
        client.write(pages[at] ?? 0, bytes.subarray(at, at + 1));
      } catch (error) {
        fail(error);
      }
    }
  }
  return { failed, firstErrno };
}

/** Walks mappings beside ascending addresses. */
class RegionCursor {
  /** Where the current mapping ends. */
  end = 0;
  /** The last `seek` came into another mapping. */
  entered = false;
  readonly #regions: readonly DmaRegion[];
  #index = -1;

  constructor(regions: readonly DmaRegion[]) {
    this.#regions = regions;
  }

  /** Whether there is a mapping at `iova` whose bytes can be read here. */
  seek(iova: number): boolean {
    this.entered = iova >= this.end;
    while (iova >= this.end) {
      const region = this.#regions[++this.#index];
      if (region === undefined) return false;
      this.end = region.iova + region.size;
    }
    const region = this.#regions[this.#index];
    return region !== undefined && region.iova <= iova && region.mapped && (region.prot & dmaProt.read) !== 0;
  }
}
