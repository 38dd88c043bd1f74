import type { BlackoutPart, TimelineSpan } from './types.ts';

/**
 * So far apart, the machine's clock has been set since this process started (or it has slept): QEMU tells the new time. Two looks one after
 * the other may be some milliseconds apart on a busy machine.
 */
const clockSetMs = 100;

/** Collects the spans of one blackout, in microseconds since the epoch. */
export class Timeline {
  readonly #spans: {
    part: BlackoutPart;
    device: string | undefined;
    start: number;
    end: number;
    note: string | undefined;
  }[] = [];
  #zero: number | undefined;

  /** Microseconds since the epoch, comparable with QEMU's event times; monotonic as long as nobody sets the machine's clock. */
  static now(): number {
    const wallMs = Date.now();
    const ownMs = performance.timeOrigin + performance.now();
    return (Math.abs(wallMs - ownMs) < clockSetMs ? ownMs : wallMs) * 1000;
  }

  /** The vCPUs stopped at `timeUs`: what the spans count from. Undefined: they run, or nobody can tell. */
  zero(timeUs: number | undefined): void {
    this.#zero = timeUs;
  }

  get zeroUs(): number | undefined {
    return this.#zero;
  }

  add(part: BlackoutPart, start: number, end: number, more: { device?: string; note?: string } = {}): void {
    this.#spans.push({ part, start, end, device: more.device, note: more.note });
  }

  /** Runs `work` and notes how long it took. */
  async span<T>(part: BlackoutPart, work: () => Promise<T>): Promise<T> {
    const start = Timeline.now();
    try {
      return await work();
    } finally {
      this.add(part, start, Timeline.now());
    }
  }

  spans(): TimelineSpan[] {
    const zero = this.#zero ?? this.#spans[0]?.start ?? 0;
    return this.#spans
      .map((span) => ({
        part: span.part,
        ...(span.device === undefined ? {} : { device: span.device }),
        startUs: Math.round(span.start - zero),
        endUs: Math.round(span.end - zero),
        ...(span.note === undefined ? {} : { note: span.note }),
      }))
      .sort((a, b) => a.startUs - b.startUs);
  }
}
