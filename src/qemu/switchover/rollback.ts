/**
 * What is done when a migration fails before the commit point: the guest runs at the source again, and the
 * destination never will. Nothing in here may hang, and nothing may stop the rest.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { migrationState } from '../../migration/state.ts';
import type { Outcome } from '../../report/types.ts';
import { DeadlineError, QmpConnectionError } from '../errors.ts';
import { Qmp, type QmpAddress } from '../qmp.ts';
import { type DeviceRun, type Run, textAt, within } from './run.ts';

/** QEMU resumes the vCPUs of a failed migration by itself within this time, or we do it. */
const selfResumeMs = 500;
const probeMs = 1000;

/** Returns where the guest is in the end. */
export async function rollback(run: Run): Promise<Outcome> {
  const { progressed } = run;
  await run.enter('rollback').catch((error) => run.warn(`rollback hook: ${String(error)}`));
  if (progressed.committed) return 'migrated';
  if (!progressed.touched) return run.source.open ? 'source' : goneSource(run);
  if (progressed.contSent && !progressed.contVoid && !(await destinationIsDead(run))) return 'unknown';

  await run.giveBack?.().catch((error) => run.warn(`borrowed registers: ${String(error)}`));
  // First the devices: QEMU resumes the vCPUs by itself as soon as its migration has failed.
  await Promise.all(run.devices.map((device) => reviveSource(run, device)));
  const outcome = await resumeSource(run);
  await restoreSettings(run);
  await endDestination(run);
  return outcome;
}

/**
 * `cont` was sent and no answer came. While the destination might run the guest, the source must not. A
 * destination whose monitor can't be reached any more is dead; held devices have let nothing out of it.
 */
async function destinationIsDead(run: Run): Promise<boolean> {
  const { kill, qmp } = run.options.destination;
  if (kill !== undefined) {
    await within(run.timeouts.rollback, 'killing the destination', kill()).catch((error) =>
      run.warn(`the destination could not be killed: ${String(error)}`),
    );
  }
  return !run.destination.open && isDead(qmp);
}

/** Whether nobody listens at a monitor whose connection has ended: its QEMU is no more. */
async function isDead(address: QmpAddress): Promise<boolean> {
  try {
    const again = await Qmp.connect(address, { timeoutMs: probeMs });
    await again.close();
    return false;
  } catch (error) {
    return error instanceof QmpConnectionError;
  }
}

/** The connection to the source QEMU has ended: most likely the guest with it. */
async function goneSource(run: Run): Promise<Outcome> {
  if (await isDead(run.options.source.qmp)) {
    // A destination that has all RAM but was not replayed can't go on either.
    run.warn('the source QEMU is gone');
    return 'lost';
  }
  run.warn('the connection to the source QEMU was lost, but it still lives');
  return 'unknown';
}

async function reviveSource(run: Run, device: DeviceRun): Promise<void> {
  const { source } = device;
  const steps: readonly [string, () => Promise<unknown>][] = [
    ['state RUNNING', () => source.setState(migrationState.RUNNING)],
    ['end of the dirty log', () => source.stopLogging()],
    ['release', () => source.hold(false)],
    ['end of parking', () => (device.sourceInfo.hasNet ? source.park(false) : Promise.resolve())],
  ];
  // Sent together, carried out in this order: the vCPUs may be waiting for the device already.
  const results = await Promise.allSettled(
    steps.map(([what, step]) => within(run.timeouts.command, `${what} of ${device.id}`, step())),
  );
  const [running, , released] = results;
  for (const [index, result] of results.entries()) {
    // Logging may never have been started; then its end is refused, rightly.
    if (result.status === 'rejected' && index !== 1)
      run.warn(`device ${device.id} at the source: ${steps[index]?.[0]}: ${String(result.reason)}`);
  }
  if (running?.status === 'rejected' || released?.status === 'rejected')
    run.warn(`device ${device.id} does not work at the source any more`);
}

/** Cancels QEMU's migration and sees the guest run at the source. */
async function resumeSource(run: Run): Promise<Outcome> {
  const { source, progressed } = run;
  if (!source.open) return goneSource(run);
  try {
    if (progressed.migrateSent && !progressed.completed) await cancel(run);
    const deadline = performance.now() + run.timeouts.rollback;
    const giveTime = performance.now() + selfResumeMs;
    while (run.wasRunning) {
      const status = textAt(await source.execute('query-status'), 'status');
      if (status === 'running') return 'source';
      const stopped = status === 'postmigrate' || status === 'paused';
      if (stopped || performance.now() > giveTime) {
        await source.execute('cont').catch((error) => run.log.debug(`cont at the source: ${String(error)}`));
      }
      if (performance.now() > deadline) {
        run.warn(`the source is in state "${status}" and does not resume`);
        return 'unknown';
      }
      await delay(5);
    }
    return 'source';
  } catch (error) {
    if (!source.open) return goneSource(run);
    run.warn(`the source QEMU does not answer: ${error instanceof Error ? error.message : String(error)}`);
    return error instanceof DeadlineError ? 'unknown' : 'source';
  }
}

async function cancel(run: Run): Promise<void> {
  const ended = new Set(['cancelled', 'failed', 'completed', 'none', '']);
  const before = run.source.lastEvent;
  const over = run.source.waitFor('MIGRATION', ({ data }) => ended.has(textAt(data, 'status')), {
    timeoutMs: run.timeouts.rollback,
    after: before,
  });
  over.catch(() => undefined);
  const status = textAt(await run.source.execute('query-migrate'), 'status');
  if (ended.has(status)) return;
  await run.source
    .execute('migrate_cancel')
    .catch((error) => run.log.debug(`migrate_cancel: ${String(error)}`));
  await over;
}

async function restoreSettings(run: Run): Promise<void> {
  for (const { command, args } of run.restoreSettings) {
    if (!run.source.open) return;
    await run.source
      .execute(command, args)
      .catch((error) => run.log.debug(`restoring migration settings: ${String(error)}`));
  }
}

/** A destination that was touched is of no use any more, and one that is loaded must not be started by anyone. */
async function endDestination(run: Run): Promise<void> {
  if (!run.progressed.touched || !run.destination.open) return;
  await run.destination.execute('quit', undefined, { timeoutMs: probeMs }).catch(() => undefined);
}
