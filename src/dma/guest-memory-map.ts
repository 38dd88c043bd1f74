import { errno, RequestError } from '../errors.ts';
import { closeFd, PAGE_SIZE } from '../posix/index.ts';
import { AddressList } from './address-list.ts';
import { copyFrom, copyTo } from './copy.ts';
import { DmaFault } from './fault.ts';
import { FileWindows, identify } from './file-windows.ts';
import { makeRegion, noRegion, noSpan, type Region, type Span } from './region.ts';
import {
  type DirtySink,
  type DmaMapRequest,
  type DmaRegion,
  dmaProt,
  type GuestMemory,
  type MessageDma,
} from './types.ts';

/** Most mappings of one client; what QEMU takes for granted (`max_dma_maps`, vfio-user.rst VERSION). */
export const MAX_DMA_REGIONS = 65535;

/** Addresses are JavaScript numbers, exact up to here. */
const ADDRESS_LIMIT = 2 ** 53;

type Access = 'read' | 'write';
const protOf = { read: dmaProt.read, write: dmaProt.write } as const;

/**
 * The client's memory, as mapped by it, and how a device gets at it.
 *
 * Bytes written to mapped memory are marked dirty after they have moved and before the call returns. Report
 * and write both happen on this thread, so none can come in between. Writes by message are not marked: the
 * client makes those itself.
 *
 * Typed accesses are single loads and stores when aligned, as a vCPU that looks on expects.
 */
export class GuestMemoryMap implements GuestMemory {
  readonly #regions = new AddressList<Region>(noRegion);
  /** The regions' pieces, where accesses look; see `Span`. */
  readonly #spans = new AddressList<Span>(noSpan);
  readonly #maxRegions: number;
  readonly #windows: FileWindows;
  #messages: MessageDma | undefined;
  #deviceSink: DirtySink | undefined;
  #clientSink: DirtySink | undefined;
  /** Whichever of the two there is, or both. */
  #dirty: DirtySink | undefined;

  constructor(options: { maxRegions?: number; maxWindows?: number } = {}) {
    this.#maxRegions = options.maxRegions ?? MAX_DMA_REGIONS;
    this.#windows = new FileWindows(options.maxWindows);
  }

  /** The way to memory without a descriptor; undefined: no client. */
  setMessageDma(messages: MessageDma | undefined): void {
    this.#messages = messages;
  }

  /** Where writes are noted; undefined: nowhere. */
  setDirtySink(sink: DirtySink | undefined): void {
    this.#deviceSink = sink;
    this.#dirty = joined(this.#deviceSink, this.#clientSink);
  }

  /** A second place where writes are noted: the log that a transport keeps for its client. */
  setClientDirtySink(sink: DirtySink | undefined): void {
    this.#clientSink = sink;
    this.#dirty = joined(this.#deviceSink, this.#clientSink);
  }

  /**
   * Adds a mapping and takes the descriptor (it is closed: the mapping needs it no more). Asking again for
   * a mapping that exists, with the same file, offset and permissions, changes nothing and is no error.
   *
   * @throws RequestError EINVAL (alignment, range, permissions, file too short), EEXIST (overlap), ENOSPC (too
   *   many); PosixError of mmap. The descriptor stays the caller's then.
   */
  map(request: DmaMapRequest): void {
    checkRequest(request);
    const { iova, size, fd } = request;
    const file = fd === undefined ? undefined : identify(fd);
    const other = this.#regions.overlapping(iova, iova + size);
    if (other !== undefined) {
      const same =
        other.iova === iova &&
        other.size === size &&
        other.prot === request.prot &&
        other.identity === file?.identity &&
        (file === undefined || other.fdOffset === request.fdOffset);
      if (!same)
        throw new RequestError(
          errno.EEXIST,
          `${describe(iova, size)} overlaps ${describe(other.iova, other.size)}`,
        );
    } else {
      if (this.#regions.count >= this.#maxRegions)
        throw new RequestError(errno.ENOSPC, `more than ${this.#maxRegions} DMA mappings`);
      const region = makeRegion(request, file, this.#windows);
      this.#regions.add(region);
      for (const span of region.spans) this.#spans.add(span);
    }
    if (fd !== undefined) closeFd(fd);
  }

  /**
   * Removes the mappings in `[iova, iova + size)`, of which there has to be one, and none may be cut
   * (docs/decisions/0007-dma-map-conflicts.md). The range may end anywhere.
   *
   * @throws RequestError ENOENT, with nothing removed
   */
  unmap(iova: number, size: number): void {
    const end = Math.min(iova + size, ADDRESS_LIMIT);
    const [first, last] = [this.#regions.find(iova), this.#regions.find(end - 1)];
    const cut = (first !== noRegion && first.iova < iova) || last.end > end;
    if (cut || !(end > iova) || this.#regions.overlapping(iova, end) === undefined)
      throw new RequestError(errno.ENOENT, `no DMA mappings are exactly ${describe(iova, size)}`);
    this.#remove(iova, end);
  }

  unmapAll(): void {
    this.#remove(0, ADDRESS_LIMIT);
  }

  /** Gives unmapped memory back to the system. To be called outside device code, which may hold views. */
  collect(): void {
    this.#windows.collect();
  }

  regions(): readonly DmaRegion[] {
    return this.#regions.all();
  }

  accessible(iova: number, length: number, prot: number): boolean {
    return this.#obstacle(iova, length, prot) === 0;
  }

  read(iova: number, target: Uint8Array): void {
    const span = this.#spans.find(iova);
    if (iova + target.length <= span.directEnd && (span.prot & dmaProt.read) !== 0)
      copyFrom(span.bytes, iova - span.iova, target);
    else this.#transfer('read', iova, target);
  }

  write(iova: number, source: Uint8Array): void {
    const span = this.#spans.find(iova);
    if (iova + source.length <= span.directEnd && (span.prot & dmaProt.write) !== 0) {
      copyTo(span.bytes, iova - span.iova, source);
      if (source.length > 0) this.#dirty?.mark(iova, source.length);
    } else this.#transfer('write', iova, source);
  }

  view(iova: number, length: number): Uint8Array | undefined {
    return this.#view('read', iova, length);
  }

  writableView(iova: number, length: number): Uint8Array | undefined {
    const view = this.#view('write', iova, length);
    if (view !== undefined && length > 0) this.#dirty?.mark(iova, length);
    return view;
  }

  readUint16BE(iova: number): number {
    const span = this.#spans.find(iova);
    if (iova + 2 <= span.directEnd && (span.prot & dmaProt.read) !== 0)
      return span.view.getUint16(iova - span.iova);
    return this.#readSlowly(iova, 2).getUint16(0);
  }

  readUint32BE(iova: number): number {
    return this.#readUint32(iova, false);
  }

  readUint32LE(iova: number): number {
    return this.#readUint32(iova, true);
  }

  writeUint32BE(iova: number, value: number): void {
    this.#writeUint32(iova, value, false);
  }

  writeUint32LE(iova: number, value: number): void {
    this.#writeUint32(iova, value, true);
  }

  writeUint8(iova: number, value: number): void {
    const span = this.#spans.find(iova);
    if (iova + 1 <= span.directEnd && (span.prot & dmaProt.write) !== 0) {
      span.view.setUint8(iova - span.iova, value);
      this.#dirty?.mark(iova, 1);
    } else this.#transfer('write', iova, Uint8Array.of(value));
  }

  #readUint32(iova: number, littleEndian: boolean): number {
    const span = this.#spans.find(iova);
    if (iova + 4 <= span.directEnd && (span.prot & dmaProt.read) !== 0)
      return span.view.getUint32(iova - span.iova, littleEndian);
    return this.#readSlowly(iova, 4).getUint32(0, littleEndian);
  }

  #writeUint32(iova: number, value: number, littleEndian: boolean): void {
    const span = this.#spans.find(iova);
    if (iova + 4 <= span.directEnd && (span.prot & dmaProt.write) !== 0) {
      span.view.setUint32(iova - span.iova, value, littleEndian);
      this.#dirty?.mark(iova, 4);
      return;
    }
    const bytes = new DataView(new ArrayBuffer(4));
    bytes.setUint32(0, value, littleEndian);
    this.#transfer('write', iova, new Uint8Array(bytes.buffer));
  }

  /** Bytes of their own: while a message is waited for, other accesses may come in between. */
  #readSlowly(iova: number, length: number): DataView {
    const bytes = new Uint8Array(length);
    this.#transfer('read', iova, bytes);
    return new DataView(bytes.buffer);
  }

  #view(access: Access, iova: number, length: number): Uint8Array | undefined {
    const span = this.#spans.find(iova);
    if (iova + length <= span.directEnd && (span.prot & protOf[access]) !== 0)
      return span.bytes.subarray(iova - span.iova, iova - span.iova + length);
    this.#check(access, iova, length, 0);
    return undefined;
  }

  /** Any access: checked as a whole first, then done span by span. */
  #transfer(access: Access, iova: number, bytes: Uint8Array): void {
    const { length } = bytes;
    if (length === 0) return;
    this.#check(access, iova, length, this.#messageObstacle());
    for (let done = 0; done < length; ) {
      const at = iova + done;
      const span = this.#spans.find(at);
      // While a message was waited for, the client may have unmapped the rest.
      if (span === noSpan) throw new DmaFault(access, at, length - done, errno.EFAULT);
      if ((span.prot & protOf[access]) === 0) throw new DmaFault(access, at, length - done, errno.EACCES);
      const count = Math.min(length - done, span.end - at);
      this.#transferWithin(access, span, at, count === length ? bytes : bytes.subarray(done, done + count));
      done += count;
    }
  }

  #transferWithin(access: Access, span: Span, iova: number, bytes: Uint8Array): void {
    if (!span.mapped) {
      if (this.#messages === undefined) throw new DmaFault(access, iova, bytes.length, errno.ENOTCONN);
      this.#messages[access](iova, bytes);
    } else if (access === 'read') {
      copyFrom(span.bytes, iova - span.iova, bytes);
    } else {
      copyTo(span.bytes, iova - span.iova, bytes);
      this.#dirty?.mark(iova, bytes.length);
    }
  }

  #check(access: Access, iova: number, length: number, ofMessages: number): void {
    const obstacle = this.#obstacle(iova, length, protOf[access], ofMessages);
    if (obstacle !== 0) throw new DmaFault(access, iova, length, obstacle);
  }

  #messageObstacle(): number {
    if (this.#messages === undefined) return errno.ENOTCONN;
    return this.#messages.mayWait ? 0 : errno.EAGAIN;
  }

  /**
   * Why a range can't be accessed, as an errno; 0 when it can.
   *
   * @param ofMessages what stands in the way of regions without a descriptor
   */
  #obstacle(iova: number, length: number, prot: number, ofMessages = 0): number {
    if (length === 0) return 0;
    const end = iova + length;
    if (!(iova >= 0 && length > 0 && end <= ADDRESS_LIMIT)) return errno.EFAULT;
    let waiting = 0;
    for (let at = iova; at < end; ) {
      const span = this.#spans.find(at);
      if (span === noSpan) return errno.EFAULT;
      if ((span.prot & prot) !== prot) return errno.EACCES;
      if (!span.mapped) waiting = ofMessages;
      at = span.end;
    }
    return waiting;
  }

  /** Removes the regions of `[iova, end)`, whose borders are region borders. */
  #remove(iova: number, end: number): void {
    this.#spans.remove(iova, end);
    for (const { windows } of this.#regions.remove(iova, end))
      for (const window of windows) this.#windows.release(window);
  }
}

function checkRequest({ iova, size, prot, fdOffset }: DmaMapRequest): void {
  const range = describe(iova, size);
  if (
    !(Number.isSafeInteger(iova) && iova >= 0 && Number.isSafeInteger(size) && iova + size <= ADDRESS_LIMIT)
  )
    throw new RequestError(errno.EINVAL, `${range}: beyond 2^53`);
  if (size <= 0) throw new RequestError(errno.EINVAL, `${range}: empty`);
  if (iova % PAGE_SIZE !== 0 || size % PAGE_SIZE !== 0)
    throw new RequestError(errno.EINVAL, `${range}: not a multiple of ${PAGE_SIZE}`);
  if ((prot & ~(dmaProt.read | dmaProt.write)) !== 0)
    throw new RequestError(errno.EINVAL, `${range}: unknown permissions 0x${prot.toString(16)}`);
  if (!(Number.isSafeInteger(fdOffset) && fdOffset >= 0))
    throw new RequestError(errno.EINVAL, `${range}: file offset ${fdOffset}`);
}

function joined(first: DirtySink | undefined, second: DirtySink | undefined): DirtySink | undefined {
  if (first === undefined || second === undefined) return first ?? second;
  return {
    mark: (iova, length) => {
      first.mark(iova, length);
      second.mark(iova, length);
    },
  };
}

function describe(iova: number, size: number): string {
  return `DMA range 0x${iova.toString(16)}+0x${size.toString(16)}`;
}
