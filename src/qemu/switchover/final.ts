/** Step 5: the rest of RAM by QEMU, and the end of what was begun with the devices' state. */
import { migrationState } from '../../migration/state.ts';
import { Timeline } from '../../report/timeline.ts';
import { pump, pumpRate } from './pump.ts';
import { isTold, startTold } from './replay.ts';
import { type DeviceRun, type Run, refusal, within } from './run.ts';

/** Replay and resume, ms: what comes after the data. */
const tailMs = 4;

export async function finish(run: Run): Promise<void> {
  checkDowntime(run);
  const states = run.moved.then(() => {
    // With its pages marked and its state taken, a source's server is needed for nothing but a comparison.
    if (run.options.verify?.state !== true) for (const device of run.devices) device.sourceDone = true;
  });
  states.catch(() => undefined);
  const before = run.destination.lastEvent;
  const arrived = run.destination.waitFor('MIGRATION', ({ data }) => data.status === 'completed', {
    timeoutMs: run.timeouts.final,
    signal: run.signal,
    after: before,
  });
  arrived.catch(() => undefined);
  const start = Timeline.now();
  run.progressed.continued = true;
  await run.until(run.source.execute('migrate-continue', { state: 'pre-switchover' }));
  run.timeline.add('continue', start, Timeline.now());
  await run.enter('final');
  await run.until(arrived);
  run.progressed.completed = true;
  run.timeline.add('final-ram', start, Timeline.now());
  await within(run.timeouts.final, 'the rest of the device state', run.until(states));
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
    `a downtime limit of about ${Math.ceil(expectedMs * 1.2)} ms would do`,
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
  device.finalBytes = await pump(device);
  const start = await begun;
  await run.settled;
  // RESUMING → STOP loads and checks the state; the device stays held.
  const ended = [destination.setState(migrationState.STOP)];
  if (isTold(device)) ended.push(startTold(device));
  await Promise.all(ended);
  run.timeline.add('state', start, Timeline.now(), { device: device.id, note: `${device.finalBytes} bytes` });
}
