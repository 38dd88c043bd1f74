import type { DeviceHost } from '../../src/device/index.ts';

/** `device_frequency_khz`: the internal timer counts nanoseconds. */
export const deviceFrequencyKhz = 1_000_000;

const healthPeriodNs = 100_000_000;
const healthMask = 0xffffff;

/**
 * The free-running internal timer (0x1000 of the initialization segment, time stamps in CQEs) and the health counter
 * that the driver watches. It travels as an age: at the destination it goes on from where it was. It stands still
 * while the device does, so that the guest sees no jump and a state saved twice is the same twice.
 */
export class Clock {
  readonly #host: DeviceHost;
  /** Host time of cycle 0, as long as the clock runs. */
  #base: number;
  /** Where it stands still; undefined while it runs. */
  #frozen: number | undefined;

  constructor(host: DeviceHost) {
    this.#host = host;
    this.#base = host.now();
  }

  /** Cycles (nanoseconds) since power-on, less the pauses. */
  cycles(): number {
    return this.#frozen ?? Math.floor(this.#host.now() - this.#base);
  }

  /** Stands still until `thaw`. */
  freeze(): void {
    this.#frozen = this.cycles();
  }

  /** Stands still at `cycles` until `thaw`: a state was loaded. */
  freezeAt(cycles: number): void {
    this.#frozen = cycles;
  }

  /** Runs, from where it stood. */
  thaw(): void {
    if (this.#frozen === undefined) return;
    this.#base = this.#host.now() - this.#frozen;
    this.#frozen = undefined;
  }

  high(): number {
    return Math.floor(this.cycles() / 2 ** 32) >>> 0;
  }

  low(): number {
    return this.cycles() >>> 0;
  }

  /** Changes every 100 ms as long as the device lives. */
  healthCounter(): number {
    return Math.floor(this.cycles() / healthPeriodNs) & healthMask;
  }
}
