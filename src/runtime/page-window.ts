import { dmaProt, type GuestMemory } from '../dma/types.ts';
import { errno, RequestError } from '../errors.ts';
import { pageWindow, pageWindowSize } from '../vfio-user/page-window.ts';
import { SharedWindow, type WindowPlace } from './shared-window.ts';

const { pageBytes, addressBytes, maxSlots } = pageWindow;
const wordRange = 2 ** 32;
/** Pages beside each other are copied in pieces of this many. */
const longestRun = 64;

export type PeekDirtyPages = (from: number, limit: number) => Float64Array;

/** Where a look at the dirty pages stopped. */
export interface PageLook {
  readonly pages: number;
  /** Address to go on from. */
  readonly next: number;
}

/**
 * Pages of guest memory on their way from the server at the source to the one at the destination, through memory that the
 * orchestrator shares with both. A page that is carried need not be marked, and QEMU does not send it again.
 *
 * Which pages will be carried is known only in the blackout, but mostly the same ones as before: both sides touch
 * them, and their slots, while the guest runs (`look`, `touch`), for a page fault costs more than copying a page.
 */
export class PageWindow {
  readonly #memory: GuestMemory;
  readonly #window = new SharedWindow('page window', pageWindowSize(maxSlots));
  #slots = 0;
  /** Taken from the log, and not yet copied. */
  #kept = new Float64Array(0);

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Opens a window of `slots` pages in place of what was open; see `SharedWindow.open` for the place. */
  open(place: WindowPlace, slots: number): void {
    this.close();
    if (slots < 1 || slots > maxSlots) {
      throw new RequestError(errno.EINVAL, `a page window has 1 to ${maxSlots} slots, not ${slots}`);
    }
    if (place.size < pageWindowSize(slots)) {
      throw new RequestError(errno.EINVAL, `${slots} pages do not fit into ${place.size} bytes`);
    }
    this.#window.open(place);
    this.#slots = slots;
  }

  close(): void {
    this.#window.close();
    this.#slots = 0;
    this.#kept = new Float64Array(0);
  }

  /** As many as there are slots are kept for `carry`; returns the others, which have to be marked. */
  keep(pages: Float64Array, limit: number): Float64Array {
    const count = Math.min(limit, this.#slots, pages.length);
    this.#kept = pages.slice(0, count);
    return pages.subarray(count);
  }

  /**
   * Copies what was kept into the window, from slot 0 on; returns how many pages. Only with the guest's CPUs and the
   * device stopped.
   *
   * @throws DmaFault when the client has taken such a page's memory away
   */
  carry(): number {
    const pages = this.#kept;
    this.#kept = new Float64Array(0);
    if (pages.length > 0) this.#copyOut(pages, 0);
    return pages.length;
  }

  /**
   * Copies up to `limit` pages that are dirty now, from address `from` on, into the window from slot `slot` on, as `carry` will.
   * They stay dirty. Those that can't be read are left out.
   */
  look(peek: PeekDirtyPages, from: number, slot: number, limit: number): PageLook {
    this.#check(slot, limit);
    const pages = peek(from, limit);
    const last = pages.at(-1);
    if (last === undefined) return { pages: 0, next: from };
    const readable = pages.filter((page) => this.#memory.accessible(page, pageBytes, dmaProt.read));
    if (readable.length > 0) this.#copyOut(readable, slot);
    return { pages: readable.length, next: last + pageBytes };
  }

  /** Touches the guest's pages that the window names from slot `slot` on, and their slots, so that `place` finds them mapped. */
  touch(slot: number, count: number): void {
    this.#check(slot, count);
    const addresses = this.#addresses(slot, count);
    const bytes = this.#window.range(slot * pageBytes, count * pageBytes);
    for (let index = 0; index < count; index++) {
      const page = addressAt(addresses, index);
      // What the window says may be wrong: only `place` refuses.
      const writable = this.#memory.accessible(page, 1, dmaProt.read | dmaProt.write);
      const byte = writable ? this.#memory.view(page, 1) : undefined;
      // A write, as only that maps a page for writing; and one that takes nothing back of what the client writes at this moment.
      if (byte !== undefined) Atomics.or(byte, 0, 0);
      bytes.readUInt8(index * pageBytes);
    }
  }

  /**
   * Writes the first `count` pages of the window to where they belong.
   *
   * @throws RequestError EINVAL for an address that is no page's; DmaFault where the device may not write. Pages before it have
   *   been written then
   */
  place(count: number): void {
    if (count === 0) return;
    this.#check(0, count);
    const addresses = this.#addresses(0, count);
    const bytes = this.#window.range(0, count * pageBytes);
    for (let index = 0; index < count; ) {
      const page = addressAt(addresses, index);
      if (page % pageBytes !== 0) {
        throw new RequestError(errno.EINVAL, `0x${page.toString(16)} is no address of a page`);
      }
      let run = 1;
      while (
        run < longestRun &&
        index + run < count &&
        addressAt(addresses, index + run) === page + run * pageBytes
      )
        run++;
      this.#memory.write(page, bytes.subarray(index * pageBytes, (index + run) * pageBytes));
      index += run;
    }
  }

  #copyOut(pages: Float64Array, slot: number): void {
    const addresses = this.#addresses(slot, pages.length);
    const bytes = this.#window.range(slot * pageBytes, pages.length * pageBytes);
    for (let index = 0; index < pages.length; ) {
      const page = pages[index] ?? 0;
      let run = 1;
      while (run < longestRun && pages[index + run] === page + run * pageBytes) run++;
      this.#memory.read(page, bytes.subarray(index * pageBytes, (index + run) * pageBytes));
      for (const end = index + run; index < end; index++) {
        const address = pages[index] ?? 0;
        addresses.writeUInt32LE(address % wordRange, index * addressBytes);
        addresses.writeUInt32LE(Math.floor(address / wordRange), index * addressBytes + 4);
      }
    }
  }

  #addresses(slot: number, count: number): Buffer {
    return this.#window.range(this.#slots * pageBytes + slot * addressBytes, count * addressBytes);
  }

  #check(slot: number, count: number): void {
    if (slot + count > this.#slots) {
      throw new RequestError(
        errno.EINVAL,
        `slots ${slot}+${count} are not in a page window of ${this.#slots}`,
      );
    }
  }
}

function addressAt(addresses: Buffer, index: number): number {
  const low = addresses.readUInt32LE(index * addressBytes);
  return addresses.readUInt32LE(index * addressBytes + 4) * wordRange + low;
}
