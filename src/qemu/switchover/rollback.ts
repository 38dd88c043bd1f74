/**
 * What is done when a migration fails before the commit point: the guest runs at the source again, and the
 * destination never will. Nothing in here may hang, and nothing may stop the rest.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { reasonOf } from '../../errors.ts';
import type { Outcome } from '../../report/types.ts';
import { field } from '../answers.ts';
import { within } from '../deadline.ts';
import { DeadlineError, QmpConnectionError } from '../errors.ts';
import { Qmp, type QmpAddress, type QmpSession } from '../qmp.ts';
import { guestHasEnded } from './guest-end.ts';
import { cancelMigration, endedStatuses, resumeGuest, reviveDevice } from './revive.ts';
import type { DeviceRun, Run } from './run.ts';

const probeMs = 1000;
const pollMs = 5;
/** A QEMU that lost a device server is watched so long: its guest uses its devices in that time, and more than that nobody can tell. */
const crippledMs = 1000;
/** What a connection comes to where nobody listens. */
const nobodyThere: readonly unknown[] = ['ECONNREFUSED', 'ENOENT'];

/** Returns where the guest is in the end. */
export async function rollback(run: Run): Promise<Outcome> {
  const { progressed } = run;
  await run.enter('rollback').catch((error) => run.warn(`rollback hook: ${String(error)}`));
  if (progressed.committed) return 'migrated';
  if (!progressed.touched) return run.unfenced.open ? 'source' : goneSource(run);
  if (progressed.contSent && !progressed.contVoid && !(await destinationIsDead(run))) return 'unknown';

  await run.giveBack?.().catch((error) => run.warn(`borrowed registers: ${String(error)}`));
  // First the devices: QEMU resumes the vCPUs by itself as soon as its migration has failed.
  const revived = await Promise.all(run.devices.map((device) => reviveSource(run, device)));
  const outcome = await resumeSource(run);
  await restoreSettings(run);
  await endDestination(run);
  return outcome === 'source' ? lastLook(run, revived.includes(false)) : outcome;
}

/**
 * A QEMU that can't do without a device server that is gone may fail when its guest goes on, or a moment later.
 * @param crippled it may have such a one
 */
async function lastLook(run: Run, crippled: boolean): Promise<Outcome> {
  const { unfenced: source, timeouts } = run;
  if (crippled) await untilClosed(source, crippledMs);
  try {
    await source.execute('query-status', undefined, { timeoutMs: timeouts.rollback });
    return 'source';
  } catch (error) {
    if (!source.open) return goneSource(run);
    run.warn(`the source QEMU does not answer any more: ${String(error)}`);
    return 'unknown';
  }
}

/**
 * `cont` was sent and no answer came. While the destination might run the guest, the source must not. A
 * destination whose monitor can't be reached any more is dead; held devices have let nothing out of it.
 */
async function destinationIsDead(run: Run): Promise<boolean> {
  const killed = await killDestination(run);
  // That the connection has ended is seen when this process has time for it.
  if (killed) await untilClosed(run.destination, run.timeouts.rollback);
  return !run.destination.open && (killed || (await isDead(run.options.destination.qmp)));
}

/** Whether we were given the means, and they worked. */
async function killDestination(run: Run): Promise<boolean> {
  const { kill } = run.options.destination;
  if (kill === undefined) return false;
  try {
    await within(run.timeouts.rollback, 'killing the destination', kill());
    return true;
  } catch (error) {
    run.warn(`the destination could not be killed: ${String(error)}`);
    return false;
  }
}

async function untilClosed(session: QmpSession, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (session.open && performance.now() < deadline) await delay(pollMs);
}

/**
 * Whether nobody listens at a monitor whose connection has ended: its QEMU is no more. Any other fault, as of a network or a proxy on
 * the way there, tells nothing of it.
 */
async function isDead(address: QmpAddress): Promise<boolean> {
  const deadline = performance.now() + probeMs;
  for (;;) {
    try {
      const again = await Qmp.connect(address, { timeoutMs: probeMs });
      await again.close();
      return false;
    } catch (error) {
      if (!(error instanceof QmpConnectionError)) return false;
      if (nobodyThere.includes(field(error.cause, 'code'))) return true;
      // One that is just ending may still have taken this connection.
      if (performance.now() > deadline) return false;
    }
    await delay(pollMs);
  }
}

/** The connection to the source QEMU has ended: most likely the guest with it. */
async function goneSource(run: Run): Promise<Outcome> {
  if (await guestHasEnded(run)) return 'ended';
  if (await isDead(run.options.source.qmp)) {
    // A destination that has all RAM but was not replayed can't go on either.
    run.warn('the source QEMU is gone');
    return 'lost';
  }
  run.warn('the connection to the source QEMU was lost, but it still lives');
  return 'unknown';
}

/** Returns whether the device works again. */
async function reviveSource(run: Run, { id, unfenced, sourceInfo }: DeviceRun): Promise<boolean> {
  let gone = false;
  void unfenced.ended.then(() => {
    gone = true;
  });
  const troubles = await reviveDevice(id, unfenced, sourceInfo.hasNet, run.timeouts.command);
  for (const trouble of troubles) run.warn(`at the source: ${trouble}`);
  if (troubles.length > 0 && !gone)
    run.warn(`when the server of device ${id} answers again, \`vfio-companion recover\` has the device work`);
  return troubles.length === 0;
}

/** Cancels QEMU's migration and sees the guest run at the source. */
async function resumeSource(run: Run): Promise<Outcome> {
  const { unfenced: source, progressed, timeouts } = run;
  if (!source.open) return goneSource(run);
  try {
    if (progressed.migrateSent && !progressed.completed) {
      const end = await cancelMigration(source, timeouts.rollback);
      if (!endedStatuses.has(end))
        run.warn(
          'the source QEMU still tries to connect, and until that ends it neither migrates again nor takes its former settings (`vfio-companion recover` sees to both)',
        );
    }
    if (!run.wasRunning) return 'source';
    const status = await resumeGuest(source, timeouts.rollback);
    if (status === 'running' || status === 'suspended') return 'source';
    run.warn(`the source is in state "${status}" and does not resume`);
    return 'unknown';
  } catch (error) {
    if (!source.open) return goneSource(run);
    run.warn(`the source QEMU does not answer: ${reasonOf(error)}`);
    return error instanceof DeadlineError ? 'unknown' : 'source';
  }
}

async function restoreSettings(run: Run): Promise<void> {
  for (const { command, args } of run.restoreSettings) {
    if (!run.unfenced.open) return;
    try {
      await run.unfenced.execute(command, args);
    } catch (error) {
      run.warn(`migration settings of the source were not restored: ${String(error)}`);
      // One that is silent takes the next setting no sooner.
      if (error instanceof DeadlineError) return;
    }
  }
}

/** A destination that was touched is of no use any more, and one that is loaded must not be started by anyone. */
async function endDestination(run: Run): Promise<void> {
  const ended = run.destination.open
    ? await quit(run.destination)
    : await isDead(run.options.destination.qmp);
  if (!ended && !(await killDestination(run)))
    run.warn('the destination QEMU does not answer and could not be ended: end it, and never start it');
}

/** Whether a QEMU took the command to end, or has ended. */
async function quit(qemu: QmpSession): Promise<boolean> {
  try {
    await qemu.execute('quit', undefined, { timeoutMs: probeMs });
    return true;
  } catch (error) {
    return error instanceof QmpConnectionError;
  }
}
