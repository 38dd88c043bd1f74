import type { Device } from '../device/model.ts';
import type { InterruptController } from '../pci/index.ts';
import type { DeviceHealth } from './health.ts';

export interface ActivityParts {
  readonly health: DeviceHealth;
  readonly interrupts: InterruptController;
  /** There is none while its model makes it. */
  device(): Device | undefined;
}

/**
 * Whether a device may start something by itself, and who keeps it from that: whoever holds it (the destination of a migration until it has
 * been told to go), or its migration state. It is brought to rest by the first and wakes with the last.
 */
export class DeviceActivity {
  readonly #parts: ActivityParts;
  #held: boolean;
  /** From quiesce to resume. */
  #quiet = false;

  constructor(held: boolean, parts: ActivityParts) {
    this.#parts = parts;
    this.#held = held;
    if (held) parts.interrupts.hold();
  }

  get held(): boolean {
    return this.#held;
  }

  get active(): boolean {
    return !this.#held && !this.#quiet;
  }

  /** Holds the device, or lets it go: a held device answers everything and starts nothing. */
  hold(on: boolean): void {
    if (on === this.#held) return;
    this.#held = on;
    if (this.#quiet) return;
    if (on) this.#suspend();
    else this.#revive();
  }

  /** The migration state demands rest. */
  quiesce(): void {
    this.#quiet = true;
    if (!this.#held) this.#suspend();
  }

  /** The migration state allows the device to go on. */
  resume(): void {
    this.#quiet = false;
    if (!this.#held) this.#revive();
  }

  /** What the device is now is not known: it is quiet without being asked for anything. */
  silence(): void {
    this.#quiet = true;
  }

  #suspend(): void {
    const { health, interrupts, device } = this.#parts;
    health.run(() => device()?.quiesce?.());
    interrupts.hold();
  }

  #revive(): void {
    const { health, interrupts, device } = this.#parts;
    interrupts.release();
    health.run(() => device()?.resume?.());
  }
}
