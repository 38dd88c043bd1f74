import type { DeviceHost } from '../../src/device/index.ts';

/** `device_frequency_khz`: the internal timer counts nanoseconds. */
export const deviceFrequencyKhz = 1_000_000;

const healthPeriodNs = 100_000_000;
const healthMask = 0xffffff;

const wordValues = 2 ** 32;

/** 64 bits of cycles as two words: one number is exact for 104 days only, and a card lives longer. */
export interface Cycles {
  readonly high: number;
  readonly low: number;
}

/**
 * The free-running internal timer (0x1000 of the initialization segment, time stamps in CQEs) and the health counter
 * that the driver watches. It travels as an age: at the destination it goes on from where it was. It stands still
 * while the device does, so that the guest sees no jump and a state saved twice is the same twice.
 */
export class Clock {
  readonly #host: DeviceHost;
  /** Where it stands or stood when it began to run. */
  #start: Cycles = { high: 0, low: 0 };
  /** Host time of `#start`; undefined while it stands still. */
  #base: number | undefined;
  readonly #now = { high: 0, low: 0 };

  constructor(host: DeviceHost) {
    this.#host = host;
    this.#base = host.now();
  }

  /** Cycles (nanoseconds) since power-on, less the pauses. The record is the next call's as well: CQEs cost no allocation. */
  cycles(): Cycles {
    const elapsed = this.#base === undefined ? 0 : Math.floor(this.#host.now() - this.#base);
    const low = this.#start.low + (elapsed % wordValues);
    this.#now.low = low >>> 0;
    const high = this.#start.high + Math.floor(elapsed / wordValues) + (low < wordValues ? 0 : 1);
    this.#now.high = high >>> 0;
    return this.#now;
  }

  /** Stands still until `thaw`. */
  freeze(): void {
    this.freezeAt(this.cycles());
  }

  /** Stands still at `cycles` until `thaw`: a state was loaded. */
  freezeAt({ high, low }: Cycles): void {
    this.#start = { high, low };
    this.#base = undefined;
  }

  /** Runs, from where it stood. */
  thaw(): void {
    this.#base ??= this.#host.now();
  }

  high(): number {
    return this.cycles().high;
  }

  low(): number {
    return this.cycles().low;
  }

  /** Changes every 100 ms as long as the device lives. */
  healthCounter(): number {
    const { high, low } = this.cycles();
    return Math.floor((high * wordValues + low) / healthPeriodNs) & healthMask;
  }
}
