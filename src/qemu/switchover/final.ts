/** Step 5: the rest of RAM by QEMU, and the end of what was begun with the devices' state. */
import { migrationState } from '../../migration/state.ts';
import { Timeline } from '../../report/timeline.ts';
import { within } from '../deadline.ts';
import { DeadlineError, refusal } from '../errors.ts';
import { placePages } from './carry.ts';
import { pumpRate, pumpRest } from './pump.ts';
import { isTold, startTold } from './replay.ts';
import type { DeviceRun, Run } from './run.ts';

/** Replay and resume, ms: what comes after the data. */
const tailMs = 4;

/** The command that ends "pre-switchover". */
const continueCommand = ['migrate-continue', { state: 'pre-switchover' }] as const;

/** The switchover is near: its commands are sent but for the last byte. */
export function anticipate(run: Run): void {
  run.source.anticipate(...continueCommand);
  if (run.wasRunning) run.destination.anticipate('cont');
}

export async function finish(run: Run): Promise<void> {
  checkDowntime(run);
  const states = run.moved.then(async () => {
    for (const { carried } of run.devices) await carried;
    // With its pages marked or carried, and its state taken, a source's server is needed for nothing but a comparison.
    if (run.options.verify?.state !== true) for (const device of run.devices) device.sourceDone = true;
  });
  states.catch(() => undefined);
  run.arrived = arrival(run);
  run.arrived.catch(() => undefined);
  run.continuedUs = Timeline.now();
  run.progressed.continued = true;
  await run.until(continueMigration(run));
  run.timeline.add('continue', run.continuedUs, Timeline.now());
  await run.enter('final');
  await within(run.timeouts.final, 'the rest of the device state', run.until(states));
  if (startsByItself(run)) return;
  await run.until(run.arrived);
  await placePages(run);
}

/**
 * Has the source QEMU begin its last pass of RAM. Its word that it has may come before its answer: what sends that pass keeps QEMU's main
 * loop from its monitor, so that the answer may come when all has been sent only.
 */
async function continueMigration(run: Run): Promise<void> {
  const { source, timeouts, progressed } = run;
  const begun = source.waitFor('MIGRATION', ({ data }) => data.status === 'device', {
    timeoutMs: timeouts.final,
    signal: run.signal,
    after: source.lastEvent,
  });
  begun.catch(() => undefined);
  const answered = source.execute(...continueCommand, { timeoutMs: timeouts.final });
  answered.catch((error) => {
    if (!progressed.completed) run.fail(error);
  });
  await Promise.race([answered, begun]);
}

/**
 * Nothing is left to be done between the destination's load and its `cont`: it may be told to start before it has loaded, and
 * is not waited for. (In state "inmigrate" `cont` means: start when loaded.)
 */
function startsByItself(run: Run): boolean {
  const compared = Object.values(run.options.verify ?? {}).includes(true);
  const told = run.devices.every(({ replayPath, mark }) => replayPath === 'early' && !mark?.kept);
  return run.wasRunning && !compared && told;
}

async function arrival(run: Run): Promise<void> {
  const { destination, timeouts } = run;
  const loaded = destination.waitFor('MIGRATION', ({ data }) => data.status === 'completed', {
    timeoutMs: timeouts.final,
    after: destination.lastEvent,
  });
  await loaded.catch((error: unknown) => {
    if (!(error instanceof DeadlineError)) throw error;
    const hint = 'is the way to the destination cut, or slower than before, or its QEMU stopped?';
    throw new DeadlineError('the last pass of RAM', timeouts.final, hint);
  });
  run.progressed.completed = true;
  run.timeline.add('final-ram', run.continuedUs, Timeline.now());
}

/** With everything at rest the rest of the blackout is known well: is it still within the limit? */
function checkDowntime(run: Run): void {
  const spentMs = (Timeline.now() - (run.timeline.zeroUs ?? Timeline.now())) / 1000;
  let bytes = 0;
  for (const device of run.devices) bytes += device.dataSize;
  const expectedMs = spentMs + bytes / pumpRate(run.devices) + tailMs;
  if (expectedMs <= run.downtimeLimitMs) return;
  throw refusal(
    'VC_DOWNTIME',
    `the blackout would last ${Math.ceil(expectedMs)} ms, the limit is ${run.downtimeLimitMs} ms`,
    `a downtime limit of about ${Math.ceil(expectedMs * 1.2)} ms would do (--downtime-limit)`,
  );
}

/**
 * Moves the final state of a device that is being stopped, and has it loaded. The request for it goes out at once.
 * @param stopped ends when the device has stopped and what it looked like then is known
 */
export async function moveState(run: Run, device: DeviceRun, stopped: Promise<unknown>): Promise<void> {
  const begun = stopped.then(() => Timeline.now());
  begun.catch(() => undefined);
  const { destination } = device;
  const last = await pumpRest(device);
  device.finalBytes = last.bytes;
  const start = await begun;
  await run.settled;
  // RESUMING → STOP loads and checks the state; the device stays held.
  const ended = [last.written, destination.setState(migrationState.STOP)];
  if (isTold(device)) ended.push(startTold(device));
  await Promise.all(ended);
  run.timeline.add('state', start, Timeline.now(), { device: device.id, note: `${device.finalBytes} bytes` });
}
