/** Step 8: `cont` at the destination, the commit point; and what follows it. */
import { CompanionError, reasonOf } from '../../errors.ts';
import { Timeline } from '../../report/timeline.ts';
import { DeadlineError, QmpError } from '../errors.ts';
import type { QmpEvent } from '../qmp.ts';
import type { DeviceRun, Run } from './run.ts';

const resumeTimeoutMs = 5000;

export async function commit(run: Run): Promise<void> {
  if (run.signal.aborted) throw run.signal.reason;
  const { progressed } = run;
  const begun = Timeline.now();
  // The destination may still be loading, see `startsByItself`.
  const early = !progressed.completed;
  const before = run.destination.lastEvent;
  if (run.wasRunning) {
    progressed.contSent = true;
    await start(run, before);
    if (early) await untilStarted(run, before);
  }
  progressed.committed = true;
  // Only now may the devices act: until here nothing of this migration has been seen by the world.
  const released = await Promise.allSettled(run.devices.map(release));
  const end = Timeline.now();
  if (run.wasRunning) await noteResume(run, before);
  run.timeline.add('resume', early ? (run.resumeUs ?? begun) : begun, end);
  // After RESUME comes QEMU's word that all is over.
  await run.arrived.catch((error: unknown) => run.warn(String(error)));
  const failed = run.devices.filter((_device, index) => released[index]?.status === 'rejected');
  const reason = released.find((each) => each.status === 'rejected')?.reason;
  if (failed.length > 0)
    throw new CompanionError(
      'VC_RELEASE',
      `device ${failed.map(({ id }) => id).join(', ')} could not be released at the destination (${reasonOf(reason)})`,
    );
}

/**
 * Tells the destination to start. One that is slow to answer may do so yet: where it can't be ended at once, what it answers to `stop` tells
 * what has come of it.
 * @param before number of the last event before
 */
async function start(run: Run, before: number): Promise<void> {
  const { destination, options, progressed } = run;
  try {
    await destination.execute('cont');
  } catch (error) {
    progressed.contVoid = error instanceof QmpError;
    if (!(error instanceof DeadlineError) || options.destination.kill !== undefined) throw error;
    const late = await takeBack(run, before).catch(() => undefined);
    if (late === undefined) throw error;
  }
}

/**
 * The destination has been told to start when it has loaded the guest: waits until it has. A guest that somebody had paused just before it
 * was stopped arrives paused all the same, and RESUME would have come before the word that it has arrived.
 * @param before number of the last event before it was told
 */
async function untilStarted(run: Run, before: number): Promise<void> {
  const { destination, source, timeouts } = run;
  const resumed = destination.waitFor('RESUME', () => true, { timeoutMs: timeouts.final, after: before });
  const arrived = run.arrived.then(() => destination.seen('RESUME', before) ?? null);
  const started = Promise.race([resumed, arrived]);
  let event: QmpEvent | null | undefined;
  try {
    event = await run.until(started);
  } catch (error) {
    // With the source gone the guest has nowhere to go back to: only the destination can still have it.
    event = source.open ? await takeBack(run, before) : await started.catch(() => undefined);
    if (event === undefined) throw error;
  }
  if (event === null) run.wasRunning = false;
}

/**
 * Takes a `cont` back that the destination has not acted on: in state "inmigrate" `stop` means not to start when loaded.
 * @returns the event when it was too late: the guest runs at the destination
 * @throws when the destination does not answer
 */
async function takeBack(run: Run, before: number): Promise<QmpEvent | undefined> {
  const { destination, progressed } = run;
  const resumed = destination.seen('RESUME', before);
  if (resumed !== undefined) return resumed;
  await destination.execute('stop');
  // Events and replies come in the order in which things happened.
  const late = destination.seen('RESUME', before);
  if (late === undefined) progressed.contVoid = true;
  else await destination.execute('cont');
  return late;
}

/** Lets a held device act whose guest goes on at its destination. */
export async function release({
  destination,
  pristine,
}: Pick<DeviceRun, 'destination' | 'pristine'>): Promise<void> {
  await Promise.all([
    destination.hold(false),
    // A vector that was masked has its pending bit in the QEMU that was left: every vector is fired once.
    destination.fireVectors(),
    pristine.hasNet ? destination.park(false) : undefined,
  ]);
}

async function noteResume(run: Run, after: number): Promise<void> {
  try {
    const resumed = await run.destination.waitFor('RESUME', () => true, {
      timeoutMs: resumeTimeoutMs,
      after,
    });
    run.resumeUs = resumed.localUs;
  } catch (error) {
    run.warn(`no RESUME event of the destination (${reasonOf(error)})`);
  }
}
