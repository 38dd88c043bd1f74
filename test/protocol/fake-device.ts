import { errno, RequestError } from '../../src/errors.ts';
import { closeFd } from '../../src/posix/index.ts';
import type {
  ClientLink,
  DmaRange,
  IrqInfo,
  IrqSet,
  RegionInfo,
  RegionIoFd,
  ServedDevice,
  ServedMigration,
} from '../../src/transport/served-device.ts';
import { pciIrq, pciRegion } from '../../src/vfio-user/constants.ts';

/** Migration that keeps what it is given and gives what it is told to. */
export class FakeMigration implements ServedMigration {
  readonly flags = 7;
  state = 2;
  /** What `read` gives, piece by piece. */
  saved = Buffer.alloc(0);
  /** What `write` got. */
  loaded = Buffer.alloc(0);
  logging: { pageSize: number; ranges: readonly DmaRange[] } | undefined;

  setState(state: number): void {
    if (state === 0 || state > 7)
      throw new RequestError(errno.EINVAL, `no state ${state}`, { hint: 'ask for another' });
    this.state = state;
  }

  dataSize(): number {
    return 12345;
  }

  precopyInfo(): { initialBytes: number; dirtyBytes: number; flags: number } {
    if (this.state !== 6) throw new RequestError(errno.EINVAL, 'not in PRE_COPY');
    return { initialBytes: 111, dirtyBytes: 222, flags: 0 };
  }

  read(target: Uint8Array): number {
    const length = Math.min(target.length, this.saved.length);
    target.set(this.saved.subarray(0, length));
    this.saved = this.saved.subarray(length);
    return length;
  }

  write(source: Uint8Array): void {
    this.loaded = Buffer.concat([this.loaded, source]);
  }

  startDmaLogging(pageSize: number, ranges: readonly DmaRange[]): number {
    this.logging = { pageSize, ranges };
    return Math.max(pageSize, 4096);
  }

  stopDmaLogging(): void {
    this.logging = undefined;
  }

  reportDmaLogging(_iova: number, _length: number, _pageSize: number, bitmap: Uint8Array): void {
    if (this.logging === undefined) throw new RequestError(errno.EINVAL, 'logging is off');
    bitmap[0] = 0b101;
  }
}

/**
 * A device without a model: regions are plain memory, and what arrives is noted. The hooks let a test do DMA
 * from inside an access.
 */
export class FakeDevice implements ServedDevice {
  readonly name = 'fake';
  readonly info = { regions: pciRegion.count, irqs: pciIrq.count, flags: 3 };
  readonly memory: Readonly<Record<number, Buffer>> = {
    0: Buffer.alloc(4096),
    1: Buffer.alloc(64 * 1024),
    [pciRegion.config]: Buffer.alloc(256),
  };
  readonly irqCounts = [1, 4, 8, 1, 1];
  readonly migration: FakeMigration | undefined;
  readonly calls: string[] = [];
  readonly irqSets: IrqSet[] = [];
  readonly maps = new Map<
    number,
    { iova: number; size: number; prot: number; fd?: number; fdOffset: number }
  >();
  link: ClientLink | undefined;
  mmap: RegionInfo['mmap'];
  ioFds: RegionIoFd[] = [];
  onWrite: ((region: number, offset: number, data: Buffer) => void) | undefined;
  onRead: ((region: number, offset: number) => void) | undefined;
  onReset: (() => void) | undefined;

  constructor(migration?: FakeMigration) {
    this.migration = migration;
  }

  attach(link: ClientLink): void {
    this.calls.push('attach');
    this.link = link;
  }

  detach(): void {
    this.calls.push('detach');
    this.link = undefined;
    this.dmaUnmapAll();
    this.dropEventfds();
  }

  dropEventfds(): void {
    for (const { data } of this.irqSets.splice(0)) {
      if (data.type === 'eventfd') for (const fd of data.fds) if (fd !== undefined) closeFd(fd);
    }
  }

  regionInfo(index: number): RegionInfo {
    const size = this.memory[index]?.length ?? 0;
    const base = { size, flags: size > 0 ? 3 : 0 };
    return index === 1 && this.mmap !== undefined ? { ...base, mmap: this.mmap } : base;
  }

  regionIoFds(index: number): readonly RegionIoFd[] {
    return index === 0 ? this.ioFds : [];
  }

  irqInfo(index: number): IrqInfo {
    return { count: this.irqCounts[index] ?? 0, flags: 1 };
  }

  setIrqs(request: IrqSet): void {
    this.irqSets.push(request);
  }

  regionRead(index: number, offset: number, count: number, target: Buffer, at: number): void {
    this.onRead?.(index, offset);
    const memory = this.#region(index, offset, count);
    memory.copy(target, at, offset, offset + count);
  }

  checkRegionWrite(index: number, offset: number, count: number): void {
    this.#region(index, offset, count);
  }

  regionWrite(index: number, offset: number, count: number, source: Buffer, at: number): void {
    const data = Buffer.from(source.subarray(at, at + count));
    this.calls.push(`write ${index}:${offset.toString(16)}`);
    this.onWrite?.(index, offset, data);
    data.copy(this.#region(index, offset, count), offset);
  }

  dmaMap(region: { iova: number; size: number; prot: number; fd?: number; fdOffset: number }): void {
    for (const { iova, size } of this.maps.values()) {
      if (region.iova < iova + size && iova < region.iova + region.size) {
        throw new RequestError(errno.EEXIST, 'overlaps another mapping');
      }
    }
    this.maps.set(region.iova, region);
  }

  dmaUnmap(iova: number, size: number): void {
    const found = this.maps.get(iova);
    if (found?.size !== size) throw new RequestError(errno.ENOENT, 'no such mapping');
    this.maps.delete(iova);
    if (found.fd !== undefined) closeFd(found.fd);
  }

  dmaUnmapAll(): void {
    for (const { fd } of this.maps.values()) if (fd !== undefined) closeFd(fd);
    this.maps.clear();
  }

  reset(): void {
    this.calls.push('reset');
    this.onReset?.();
  }

  close(): void {}

  #region(index: number, offset: number, count: number): Buffer {
    const memory = this.memory[index];
    if (memory === undefined || offset + count > memory.length) {
      throw new RequestError(errno.EINVAL, `no bytes ${offset} to ${offset + count} in region ${index}`);
    }
    return memory;
  }
}
