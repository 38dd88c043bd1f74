import type { DeviceHost } from '../../src/device/index.ts';

/** `device_frequency_khz`: the internal timer counts nanoseconds. */
export const deviceFrequencyKhz = 1_000_000;

const healthPeriodNs = 100_000_000;
const healthMask = 0xffffff;

/**
 * The free-running internal timer (0x1000 of the initialization segment, time stamps in CQEs) and the health counter
 * that the driver watches. It travels as an age: at the destination it goes on from where it was.
 */
export class Clock {
  readonly #host: DeviceHost;
  #base: number;

  constructor(host: DeviceHost) {
    this.#host = host;
    this.#base = host.now();
  }

  /** Cycles (nanoseconds) since power-on. */
  cycles(): number {
    return Math.floor(this.#host.now() - this.#base);
  }

  /** Goes on from `cycles`. */
  set(cycles: number): void {
    this.#base = this.#host.now() - cycles;
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
