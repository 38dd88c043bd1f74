import type { BarIndex } from '../device/pci-description.ts';
import { errno, RequestError } from '../errors.ts';
import type { ConfigSpace } from '../pci/index.ts';
import { type RegionInfo, type RegionIoFd, regionFlags } from '../transport/served-device.ts';
import { pciRegion } from '../vfio-user/constants.ts';
import { type BarSet, isBarRegion } from './bars.ts';
import type { Doorbells } from './doorbells.ts';
import type { DeviceHealth } from './health.ts';

export interface RegionParts {
  readonly config: ConfigSpace;
  readonly bars: BarSet;
  readonly doorbells: Doorbells;
  readonly health: DeviceHealth;
}

/** A device's regions as VFIO numbers them: configuration space and BARs, with every range checked. */
export class DeviceRegions {
  readonly #config: ConfigSpace;
  readonly #bars: BarSet;
  readonly #doorbells: Doorbells;
  readonly #health: DeviceHealth;

  constructor({ config, bars, doorbells, health }: RegionParts) {
    this.#config = config;
    this.#bars = bars;
    this.#doorbells = doorbells;
    this.#health = health;
  }

  /** @throws RequestError (EINVAL) when there is no such region, as the others */
  info(index: number): RegionInfo {
    checkRegion(index);
    if (isBarRegion(index)) return this.#bars.info(index);
    if (index === pciRegion.config)
      return { size: this.#config.size, flags: regionFlags.read | regionFlags.write };
    return { size: 0, flags: 0 };
  }

  ioFds(index: number): readonly RegionIoFd[] {
    checkRegion(index);
    return this.#doorbells.offer(index);
  }

  /** @throws RequestError (EINVAL) for a range outside of the region, DeviceBrokenError; what the model throws on purpose */
  read(index: number, offset: number, count: number, target: Buffer, at: number): void {
    if (index === pciRegion.config) {
      this.#config.read(offset, count, target, at);
      return;
    }
    const bar = this.#bar(index, offset, count);
    // Never in the middle of anything: a model may not wait for DMA by message while it answers a read.
    try {
      this.#bars.read(bar, offset, count, target, at);
    } catch (error) {
      this.#health.failed(error);
    }
  }

  /** Throws what `write` would before it does anything. */
  checkWrite(index: number, offset: number, count: number): void {
    if (index === pciRegion.config) this.#config.checkRange(offset, count);
    else this.#bar(index, offset, count);
  }

  /** As `read`. */
  write(index: number, offset: number, count: number, source: Buffer, at: number): void {
    if (index === pciRegion.config) {
      this.#config.write(offset, count, source, at);
      return;
    }
    const bar = this.#bar(index, offset, count);
    this.#health.enter();
    try {
      this.#bars.write(bar, offset, count, source, at);
    } catch (error) {
      this.#health.failed(error);
    } finally {
      this.#health.leave();
    }
  }

  /** The BAR that `index` is, with the range checked, of a device that is whole. */
  #bar(index: number, offset: number, count: number): BarIndex {
    checkRegion(index);
    if (!isBarRegion(index)) throw new RequestError(errno.EINVAL, `region ${index} can't be accessed`);
    this.#bars.check(index, offset, count);
    this.#health.check();
    return index;
  }
}

function checkRegion(index: number): void {
  if (index < 0 || index >= pciRegion.count) {
    throw new RequestError(errno.EINVAL, `there is no region ${index}; the last is ${pciRegion.count - 1}`);
  }
}
