import type { DeviceHost, Interrupts } from '../device/model.ts';
import type { BarIndex } from '../device/pci-description.ts';
import type { GuestMemory, MessageDma } from '../dma/types.ts';
import { errno, RequestError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Reactor, Timer, Watch } from '../loop/types.ts';
import type { BarSet } from './bars.ts';
import type { DeviceHealth } from './health.ts';

/** What a runtime lends to its device's host. */
export interface HostParts {
  readonly log: Logger;
  readonly reactor: Reactor;
  readonly dma: GuestMemory;
  readonly interrupts: Interrupts;
  readonly pci: DeviceHost['pci'];
  readonly bars: BarSet;
  readonly health: DeviceHealth;
  /** The message path of the client that is connected now, if one is. */
  client(): MessageDma | undefined;
  mayInitiate(): boolean;
}

/** `DeviceHost` over the runtime's parts: every callback of the model runs under its health guard. */
export class RuntimeHost implements DeviceHost {
  readonly log: Logger;
  readonly dma: GuestMemory;
  readonly interrupts: Interrupts;
  readonly pci: DeviceHost['pci'];
  readonly messages: DeviceHost['messages'];
  readonly #parts: HostParts;

  constructor(parts: HostParts) {
    this.#parts = parts;
    this.log = parts.log;
    this.dma = parts.dma;
    this.interrupts = parts.interrupts;
    this.pci = parts.pci;
    const client = (): MessageDma => {
      const link = parts.client();
      if (!link)
        throw new RequestError(errno.ENOTCONN, 'no client is connected: there is nobody to ask for DMA');
      return link;
    };
    this.messages = {
      read: (iova, target) => client().read(iova, target),
      write: (iova, source) => client().write(iova, source),
    };
  }

  get mayInitiate(): boolean {
    return this.#parts.mayInitiate();
  }

  barMemory(bar: BarIndex): Uint8Array {
    return this.#parts.bars.memory(bar);
  }

  now(): number {
    return this.#parts.reactor.now();
  }

  timer(callback: () => void): Timer {
    return this.#parts.reactor.timer(() => this.#parts.health.run(callback));
  }

  watch(fd: number, interest: number, callback: (readiness: number) => void): Watch {
    return this.#parts.reactor.watch(fd, interest, (readiness) =>
      this.#parts.health.run(() => callback(readiness)),
    );
  }

  defer(task: () => void): void {
    this.#parts.reactor.defer(() => this.#parts.health.run(task));
  }
}
