/** Who has stopped the guest at the source, as far as it may have been somebody else than this migration. */

import { textAt } from '../answers.ts';
import type { QmpEvent } from '../qmp.ts';
import type { Run } from './run.ts';

/**
 * QEMU stops the vCPUs for the switchover and tells of both at once. If it tells of the stop alone for so long, somebody else may have
 * stopped them. Not asked sooner: in a blackout each command takes its time.
 */
const patienceMs = 2;
/** Of a guest that nobody else has stopped. */
const ownStatuses: readonly string[] = ['running', 'finish-migrate'];

/** Follows how somebody pauses the guest, or has it go on, until it is stopped for the switchover. */
export class StopWatch {
  readonly #run: Run;
  #timer: NodeJS.Timeout | undefined;

  constructor(run: Run) {
    this.#run = run;
  }

  /** Takes note of an event of the source. */
  note({ name, localUs }: QmpEvent): void {
    const run = this.#run;
    if (run.progressed.stopped || run.signal.aborted) return;
    if (name === 'RESUME') run.setRunning(true);
    if (name !== 'STOP') return;
    run.timeline.zero(localUs);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#look(localUs), patienceMs);
  }

  /** Nothing is looked at any more. */
  end(): void {
    clearTimeout(this.#timer);
  }

  async #look(stopUs: number): Promise<void> {
    const run = this.#run;
    if (run.progressed.stopped || run.signal.aborted) return;
    try {
      const status = textAt(await run.source.execute('query-status'), 'status');
      // It may have gone on meanwhile. What was said before the switchover holds also when that has come since.
      if (run.timeline.zeroUs === stopUs && !ownStatuses.includes(status)) run.setRunning(false);
    } catch (error) {
      run.fail(error instanceof Error ? error : new Error(String(error)));
    }
  }
}
