import { Timeline } from '../report/timeline.ts';

/** With less between them two clocks are taken for the same one: then what it tells is more exact than when that was heard of. */
const sameClockUs = 100_000;

/** The clock of a QEMU that may run on another machine, as what it tells shows it. */
export class ForeignClock {
  #offsetUs = Number.POSITIVE_INFINITY;

  /** When that was by this machine's clock which happened at `timeUs` by that one, and has been heard of only now. */
  local(timeUs: number): number {
    // What took the least to be heard of is nearest to the truth.
    this.#offsetUs = Math.min(this.#offsetUs, Timeline.now() - timeUs);
    return Math.abs(this.#offsetUs) < sameClockUs ? timeUs : timeUs + this.#offsetUs;
  }
}
