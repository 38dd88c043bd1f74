import type { BarHandler } from '../device/model.ts';
import type { BarDescription, BarIndex, PciDescription } from '../device/pci-description.ts';
import { errno, RequestError } from '../errors.ts';
import { closeFd, MappedMemory, memfdCreate, mmapProt } from '../posix/index.ts';
import { type RegionInfo, regionFlags } from '../transport/served-device.ts';

/** A part of a BAR that the framework answers itself: the MSI-X table and its pending bits. */
export interface BarOverlay {
  readonly offset: number;
  readonly size: number;
  readonly handler: BarHandler;
}

/** One BAR of a living device: its model's handler, the framework's overlays, the memory that clients map. */
class Bar {
  readonly description: BarDescription;
  readonly overlays: readonly BarOverlay[];
  readonly memory: { readonly fd: number; readonly mapping: MappedMemory } | undefined;

  constructor(index: BarIndex, description: BarDescription, overlays: readonly BarOverlay[]) {
    this.description = description;
    this.overlays = overlays;
    if (description.mappable && description.mappable.length > 0) {
      const fd = memfdCreate(`bar${index}`, description.size);
      this.memory = {
        fd,
        mapping: MappedMemory.map(fd, 0, description.size, mmapProt.READ | mmapProt.WRITE),
      };
    }
  }

  get info(): RegionInfo {
    const { size, mappable } = this.description;
    const flags = regionFlags.read | regionFlags.write;
    if (!this.memory || !mappable) return { size, flags };
    return {
      size,
      flags: flags | regionFlags.mmap | regionFlags.caps,
      mmap: { fd: this.memory.fd, fdOffset: 0, areas: mappable },
    };
  }

  close(): void {
    this.memory?.mapping.unmap();
    if (this.memory) closeFd(this.memory.fd);
  }
}

/** All BARs of a device: where an access goes, and what a client may map. */
export class BarSet {
  readonly #bars: (Bar | undefined)[] = [];
  #handlers: Partial<Record<BarIndex, BarHandler>> = {};

  constructor(description: PciDescription, overlays: ReadonlyMap<BarIndex, readonly BarOverlay[]>) {
    for (const [key, bar] of Object.entries(description.bars)) {
      const index = Number(key) as BarIndex;
      this.#bars[index] = new Bar(index, bar, overlays.get(index) ?? []);
    }
  }

  /** The model's handlers, once it has been made (making it may already need `memory`). */
  connect(handlers: Partial<Record<BarIndex, BarHandler>>): void {
    this.#handlers = handlers;
  }

  info(index: number): RegionInfo {
    return this.#bars[index]?.info ?? { size: 0, flags: 0 };
  }

  /** The memory behind a BAR with mappable parts. */
  memory(index: BarIndex): Uint8Array {
    const window = this.#bars[index]?.memory?.mapping.windows[0];
    if (!window)
      throw new RequestError(errno.EINVAL, `BAR ${index} has no mappable part, so no memory of its own`);
    return window;
  }

  /** Throws EINVAL unless the whole range is inside the BAR. */
  check(index: number, offset: number, count: number): void {
    const size = this.#bars[index]?.description.size ?? 0;
    if (count < 0 || offset < 0 || offset > size || count > size - offset) {
      throw new RequestError(
        errno.EINVAL,
        `region ${index} has ${size} bytes; 0x${offset.toString(16)}+${count} is outside`,
      );
    }
  }

  read(index: number, offset: number, count: number, target: Buffer, at: number): void {
    this.check(index, offset, count);
    const bar = this.#bars[index];
    const handler = bar && this.#handlerFor(bar, index as BarIndex, offset, count);
    if (handler) handler.read(offset, count, target, at);
    else target.fill(0, at, at + count);
    if (bar && !handler) this.#readParts(bar, index as BarIndex, offset, count, target, at);
  }

  write(index: number, offset: number, count: number, source: Buffer, at: number): void {
    this.check(index, offset, count);
    const bar = this.#bars[index];
    if (!bar) return;
    const handler = this.#handlerFor(bar, index as BarIndex, offset, count);
    if (handler) handler.write(offset, count, source, at);
    else this.#writeParts(bar, index as BarIndex, offset, count, source, at);
  }

  close(): void {
    for (const bar of this.#bars) bar?.close();
  }

  /** The one handler that serves the whole range; undefined when it spans an overlay's border. */
  #handlerFor(bar: Bar, index: BarIndex, offset: number, count: number): BarHandler | undefined {
    for (const overlay of bar.overlays) {
      const end = overlay.offset + overlay.size;
      if (offset >= end || offset + count <= overlay.offset) continue;
      return offset >= overlay.offset && offset + count <= end ? overlay.handler : undefined;
    }
    return this.#handlers[index];
  }

  /** A copy that spans borders, byte by byte: nobody is in a hurry there. */
  #readParts(bar: Bar, index: BarIndex, offset: number, count: number, target: Buffer, at: number): void {
    for (let byte = 0; byte < count; byte++) {
      this.#handlerFor(bar, index, offset + byte, 1)?.read(offset + byte, 1, target, at + byte);
    }
  }

  #writeParts(bar: Bar, index: BarIndex, offset: number, count: number, source: Buffer, at: number): void {
    for (let byte = 0; byte < count; byte++) {
      this.#handlerFor(bar, index, offset + byte, 1)?.write(offset + byte, 1, source, at + byte);
    }
  }
}
