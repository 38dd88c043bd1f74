/** What a switchover will cost, measured while the guest runs, by the calls that its blackout is made of. */
import { setTimeout as delay } from 'node:timers/promises';
import type { ConvergenceOptions } from '../convergence.ts';
import type { Pauses } from './pauses.ts';
import { rehearse } from './rehearse.ts';
import type { Run } from './run.ts';

/** What is known of a switchover's costs so far. */
export type SwitchoverCosts = {
  -readonly [K in 'markMicrosecondsPerPage' | 'fixedMs']: ConvergenceOptions[K];
};

/** Assumed until it has been measured: what marking a page costs, and all that does not depend on amounts of data. */
export const assumedCost: Readonly<SwitchoverCosts> = { markMicrosecondsPerPage: 3, fixedMs: 4 };

/** How often the calls of the switchover are made in advance. */
const rehearsals = 16;
/** The first ones run cold code and tell nothing of the costs. */
const coldRehearsals = 4;
/** Between two of them later on, while QEMU is held back because the blackout would be too long. */
const againMs = 100;
/** Pages of one rehearsal of marking. */
const rehearsedPages = 1024;
/** Round trips one after the other in a blackout, each as long as a rehearsal: stop, marking, continue, replay, resume. */
const roundTrips = 5;

/**
 * Runs through what the blackout will do, harmlessly, so that neither our code nor the servers' is executed for
 * the first time in it, and measures. As long as the blackout would be `tooLong` that is measured again: a busy moment would hold
 * the migration back for good. Refusals (Bus Master off) do not matter here.
 */
export async function warmUp(
  run: Run,
  costs: SwitchoverCosts,
  pauses: Pauses,
  tooLong: () => boolean,
): Promise<void> {
  const trips = new Latest(rehearsals - coldRehearsals);
  const pages = new Latest((rehearsals - coldRehearsals) * run.devices.length);
  const measure = async (): Promise<void> => {
    const { tripMs, pageUs } = await tryOut(run);
    trips.add(tripMs);
    for (const each of pageUs) pages.add(each);
    costs.fixedMs = roundTrips * trips.median(tripMs);
    costs.markMicrosecondsPerPage = pages.median(costs.markMicrosecondsPerPage);
  };
  for (let count = 0; count < rehearsals && !run.progressed.stopped; count += 1) {
    await (count < coldRehearsals ? tryOut(run) : measure());
    await delay(1);
  }
  // After the servers': what they are asked is measured, and this process would be busy.
  await rehearse(run).catch((error: unknown) => run.log.debug(`the rehearsal failed: ${String(error)}`));
  while (!run.progressed.stopped) {
    if (tooLong()) await measure();
    await pauses.sleep(againMs);
  }
}

/** One rehearsal, and what it took: all of it, and marking a page of each device. */
async function tryOut(run: Run): Promise<{ tripMs: number; pageUs: number[] }> {
  const probe = [{ read: 0, length: 4 }];
  const start = performance.now();
  await Promise.all(
    run.devices.flatMap(({ source, destination }) => [
      source.info(),
      source.barrier(),
      source.dma(probe),
      destination.info(),
      destination.dma(probe).catch(() => undefined),
    ]),
  );
  const tripMs = performance.now() - start;
  if (run.progressed.stopped) return { tripMs, pageUs: [] };
  const marks = await Promise.all(
    run.devices.map(({ source }) => source.rehearseMarking?.(rehearsedPages).catch(() => undefined)),
  );
  const pageUs: number[] = [];
  for (const mark of marks)
    if (mark !== undefined && mark.pages > 0) pageUs.push(mark.microseconds / mark.pages);
  return { tripMs, pageUs };
}

/** The last values of something that was measured. */
class Latest {
  readonly #values: number[] = [];
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  add(value: number): void {
    this.#values.push(value);
    if (this.#values.length > this.#most) this.#values.shift();
  }

  /** The middle one, or `otherwise` when there is none. */
  median(otherwise: number): number {
    return [...this.#values].sort((a, b) => a - b)[this.#values.length >> 1] ?? otherwise;
  }
}
