/** Step 8: `cont` at the destination, the commit point; and what follows it. */
import { CompanionError } from '../../errors.ts';
import { Timeline } from '../../report/timeline.ts';
import { QmpError } from '../errors.ts';
import type { DeviceRun, Run } from './run.ts';

const resumeTimeoutMs = 5000;

export async function commit(run: Run): Promise<void> {
  if (run.signal.aborted) throw run.signal.reason;
  const { progressed, timeline } = run;
  const start = Timeline.now();
  const before = run.destination.lastEvent;
  if (run.wasRunning) {
    progressed.contSent = true;
    try {
      await run.destination.execute('cont');
    } catch (error) {
      progressed.contRefused = error instanceof QmpError;
      throw error;
    }
  }
  progressed.committed = true;
  // Only now may the devices act: until here nothing of this migration has been seen by the world.
  const released = await Promise.allSettled(run.devices.map((device) => release(run, device)));
  timeline.add('resume', start, Timeline.now());
  if (run.wasRunning) await noteResume(run, before);
  const failed = run.devices.filter((_device, index) => released[index]?.status === 'rejected');
  const reason = released.find((each) => each.status === 'rejected')?.reason;
  if (failed.length > 0)
    throw new CompanionError(
      'VC_RELEASE',
      `device ${failed.map(({ id }) => id).join(', ')} could not be released at the destination (${reason instanceof Error ? reason.message : String(reason)})`,
    );
}

async function release(run: Run, device: DeviceRun): Promise<void> {
  const { destination } = device;
  await Promise.all([
    destination.hold(false),
    // A vector that was masked has its pending bit in the QEMU that was left: every vector is fired once.
    destination.fireVectors(),
    device.pristine.hasNet ? destination.park(false) : undefined,
  ]);
  run.log.debug(`device ${device.id} runs at the destination`);
}

async function noteResume(run: Run, after: number): Promise<void> {
  try {
    const resumed = await run.destination.waitFor('RESUME', () => true, {
      timeoutMs: resumeTimeoutMs,
      after,
    });
    run.resumeUs = resumed.timeUs;
  } catch (error) {
    run.warn(
      `no RESUME event of the destination (${error instanceof Error ? error.message : String(error)})`,
    );
  }
}
