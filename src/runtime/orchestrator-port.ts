import type { ServedDevice, ServedMigration } from '../transport/served-device.ts';
import type { DeviceRuntime } from './device-runtime.ts';

/**
 * A device as its migration socket shows it: the same device, with the migration that an orchestrator
 * drives, and without a connection of its own (attaching there changes nothing for the device's client).
 */
export function orchestratorPort(runtime: DeviceRuntime): ServedDevice {
  return new OrchestratorPort(runtime);
}

class OrchestratorPort implements ServedDevice {
  readonly #runtime: DeviceRuntime;

  constructor(runtime: DeviceRuntime) {
    this.#runtime = runtime;
  }

  get name(): string {
    return this.#runtime.name;
  }

  get info(): ServedDevice['info'] {
    return this.#runtime.info;
  }

  get migration(): ServedMigration | undefined {
    return this.#runtime.orchestrated;
  }

  attach(): void {}
  detach(): void {}
  regionInfo = (index: number) => this.#runtime.regionInfo(index);
  regionIoFds = (index: number) => this.#runtime.regionIoFds(index);
  irqInfo = (index: number) => this.#runtime.irqInfo(index);
  setIrqs: ServedDevice['setIrqs'] = (request) => this.#runtime.setIrqs(request);
  regionRead: ServedDevice['regionRead'] = (...access) => this.#runtime.regionRead(...access);
  checkRegionWrite: ServedDevice['checkRegionWrite'] = (...access) =>
    this.#runtime.checkRegionWrite(...access);
  regionWrite: ServedDevice['regionWrite'] = (...access) => this.#runtime.regionWrite(...access);
  dmaMap: ServedDevice['dmaMap'] = (region) => this.#runtime.dmaMap(region);
  dmaUnmap: ServedDevice['dmaUnmap'] = (iova, size) => this.#runtime.dmaUnmap(iova, size);
  dmaUnmapAll = (): void => this.#runtime.dmaUnmapAll();
  reset = (): void => this.#runtime.reset();
  close(): void {}
}
