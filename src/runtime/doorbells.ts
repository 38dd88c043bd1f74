import type { BarIndex, DoorbellDescription, PciDescription } from '../device/pci-description.ts';
import { type Reactor, ready, type Watch } from '../loop/types.ts';
import { closeFd, eventfdCreate, eventfdDrain } from '../posix/index.ts';
import type { RegionIoFd } from '../transport/served-device.ts';
import { ioeventfdFlags, ioFdType } from '../vfio-user/constants.ts';

/** Carries a ring to the device as the write that it stands for. */
export type Ring = (bar: BarIndex, offset: number, value: Buffer) => void;

interface Doorbell {
  readonly fd: number;
  readonly watch: Watch;
  readonly ring: () => void;
}

/**
 * The doorbells of a device: eventfds that a client signals instead of sending the write (ioeventfds). They are made
 * when a client asks and end with it, so that one that has left can ring no more.
 */
export class Doorbells {
  readonly #description: PciDescription;
  readonly #reactor: Reactor;
  readonly #ring: Ring;
  readonly #offered = new Map<number, readonly RegionIoFd[]>();
  readonly #doorbells: Doorbell[] = [];

  constructor(description: PciDescription, reactor: Reactor, ring: Ring) {
    this.#description = description;
    this.#reactor = reactor;
    this.#ring = ring;
  }

  /** What a client is offered for region `index`. The descriptors stay here. */
  offer(index: number): readonly RegionIoFd[] {
    const offered = this.#offered.get(index);
    if (offered !== undefined) return offered;
    const bar = index as BarIndex;
    const made = (this.#description.bars[bar]?.doorbells ?? []).map((doorbell) => this.#make(bar, doorbell));
    this.#offered.set(index, made);
    return made;
  }

  /** Delivers what has been signalled: before the state is saved, nothing may be under way. */
  drain(): void {
    for (const { ring } of this.#doorbells) ring();
  }

  /** Takes back what has been signalled: it was meant for the device before a reset. */
  forget(): void {
    for (const { fd } of this.#doorbells) eventfdDrain(fd);
  }

  /** Closes all of them; the next client is offered new ones. */
  close(): void {
    for (const { fd, watch } of this.#doorbells.splice(0)) {
      watch.close();
      closeFd(fd);
    }
    this.#offered.clear();
  }

  #make(bar: BarIndex, { offset, size, datamatch }: DoorbellDescription): RegionIoFd {
    const fd = eventfdCreate();
    const value = Buffer.alloc(size);
    if (datamatch !== undefined) value.writeUIntLE(datamatch, 0, size);
    const ring = (): void => {
      if (eventfdDrain(fd)) this.#ring(bar, offset, value);
    };
    this.#doorbells.push({ fd, watch: this.#reactor.watch(fd, ready.read, ring), ring });
    return {
      offset,
      size,
      fd,
      type: ioFdType.ioeventfd,
      flags: datamatch === undefined ? 0 : ioeventfdFlags.datamatch,
      datamatch: BigInt(datamatch ?? 0),
    };
  }
}
