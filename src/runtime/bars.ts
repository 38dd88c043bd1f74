import type { BarHandler } from '../device/model.ts';
import type { BarDescription, BarIndex, PciDescription } from '../device/pci-description.ts';
import { errno, RequestError } from '../errors.ts';
import { type BarWindow, overlayBar } from '../pci/index.ts';
import { closeFd, MappedMemory, memfdCreate, mmapProt, sealSize } from '../posix/index.ts';
import { type RegionInfo, regionFlags } from '../transport/served-device.ts';
import { pciRegion } from '../vfio-user/constants.ts';

export function isBarRegion(index: number): index is BarIndex {
  return index >= pciRegion.bar0 && index <= pciRegion.bar5;
}

const barIndices: readonly BarIndex[] = [0, 1, 2, 3, 4, 5];

/** One BAR of a living device, and the memory behind it that clients map. */
class Bar {
  readonly description: BarDescription;
  readonly memory: { readonly fd: number; readonly mapping: MappedMemory } | undefined;

  constructor(index: BarIndex, description: BarDescription) {
    this.description = description;
    if (description.mappable && description.mappable.length > 0) {
      const fd = memfdCreate(`bar${index}`, description.size);
      // A client that could shrink it would take the server's mapping away (SIGBUS).
      sealSize(fd);
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
  readonly #handlers: BarHandler[] = [];

  constructor(description: PciDescription) {
    for (const [key, bar] of Object.entries(description.bars)) {
      const index = Number(key) as BarIndex;
      this.#bars[index] = new Bar(index, bar);
    }
  }

  /**
   * The model's handlers, once it has been made (making it may already need `memory`), under the windows
   * that the framework answers itself.
   */
  connect(handlers: Partial<Record<BarIndex, BarHandler>>, windows: readonly BarWindow[]): void {
    for (const index of barIndices) this.#handlers[index] = overlayBar(index, handlers[index], windows);
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

  read(index: BarIndex, offset: number, count: number, target: Buffer, at: number): void {
    this.check(index, offset, count);
    this.#handlers[index]?.read(offset, count, target, at);
  }

  write(index: BarIndex, offset: number, count: number, source: Buffer, at: number): void {
    this.check(index, offset, count);
    this.#handlers[index]?.write(offset, count, source, at);
  }

  close(): void {
    for (const bar of this.#bars) bar?.close();
  }
}
