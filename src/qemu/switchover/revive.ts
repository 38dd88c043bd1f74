/** What has a VM whose migration came to nothing go on where it is. */
import { setTimeout as delay } from 'node:timers/promises';
import { migrationState } from '../../migration/state.ts';
import { startTimer } from '../../start-timer.ts';
import { textAt } from '../answers.ts';
import { within } from '../deadline.ts';
import type { DevicePeer } from '../device-peer.ts';
import { DeadlineError } from '../errors.ts';
import type { QmpSession } from '../qmp.ts';

/** QEMU resumes the vCPUs of a failed migration by itself within this time, or we do it. */
const selfResumeMs = 500;
const pollMs = 5;
/** A migration that has not ended so long after it was called off is stuck. */
const stuckMs = 1000;
/** QEMU's own migration, for `yank` (`YankInstance` in qapi/yank.json). */
const yankMigration = { instances: [{ type: 'migration' }] } as const;

/** What `query-migrate` tells of a migration that is over, or was never begun. */
export const endedStatuses: ReadonlySet<string> = new Set(['cancelled', 'failed', 'completed', 'none', '']);

/**
 * Has a device that was stopped for a migration work again; returns what went wrong.
 * @param hasNet it may have been parked
 */
export async function reviveDevice(
  id: string,
  device: DevicePeer,
  hasNet: boolean,
  timeoutMs: number,
): Promise<string[]> {
  const steps: readonly [string, () => Promise<unknown>][] = [
    ['state RUNNING', () => device.setState(migrationState.RUNNING)],
    ['end of the dirty log', () => device.stopLogging()],
    ['release', () => device.hold(false)],
    ['end of parking', () => (hasNet ? device.park(false) : Promise.resolve())],
  ];
  // Sent together, carried out in this order: the vCPUs may be waiting for the device already.
  const results = await Promise.allSettled(
    steps.map(([what, step]) => within(timeoutMs, `${what} of ${id}`, step())),
  );
  const troubles: string[] = [];
  for (const [index, result] of results.entries()) {
    // Logging may never have been started: that its end is refused then would be no trouble.
    if (result.status === 'rejected' && index !== 1)
      troubles.push(`device ${id}: ${steps[index]?.[0]}: ${String(result.reason)}`);
  }
  const [running, , released] = results;
  if (running?.status === 'rejected' || released?.status === 'rejected')
    troubles.push(`device ${id} does not work any more`);
  return troubles;
}

/**
 * Cancels the migration of a QEMU, if there is one, and waits until it is over. One that others have begun need not tell of that by events.
 *
 * While the last pass of RAM waits for a network or a destination that takes nothing, QEMU carries out no command, `migrate_cancel` neither:
 * then its connection is cut. One that has not got that far as to be connected can't be cut, and is not waited for: it ends when connecting does, which
 * may take minutes, and its guest runs all the time.
 *
 * @returns how it ended; it may have been too late. "cancelling": it still tries to connect
 */
export async function cancelMigration(qemu: QmpSession, timeoutMs: number): Promise<string> {
  const begun = performance.now();
  const unstick = startTimer(() => {
    // Refused when it is over since.
    qemu.execute('yank', yankMigration, { outOfBand: true }).catch(() => undefined);
  }, stuckMs);
  try {
    let connects = false;
    for (let asked = false; ; asked = true) {
      const status = textAt(
        await qemu.execute('query-migrate').catch((error: unknown) => {
          // One that can be reached again later is to go on then, although nobody waits for it any more.
          if (!asked) qemu.execute('migrate_cancel').catch(() => undefined);
          throw error;
        }),
        'status',
      );
      if (endedStatuses.has(status)) return status;
      if (!asked) connects = status === 'setup';
      if (connects && status === 'cancelling' && performance.now() - begun > stuckMs) return status;
      if (!asked) await qemu.execute('migrate_cancel').catch(() => undefined);
      if (performance.now() - begun > timeoutMs)
        throw new DeadlineError("the end of QEMU's migration", timeoutMs);
      await delay(pollMs);
    }
  } finally {
    unstick.stop();
  }
}

/**
 * Sees a guest run whose migration is over; returns QEMU's status: "running", "suspended" where it has done that itself, another one where it
 * does not resume in that time.
 */
export async function resumeGuest(qemu: QmpSession, timeoutMs: number): Promise<string> {
  const begun = performance.now();
  for (;;) {
    const status = textAt(await qemu.execute('query-status'), 'status');
    if (status === 'running' || status === 'suspended') return status;
    const stopped = status === 'postmigrate' || status === 'paused';
    const spentMs = performance.now() - begun;
    if (stopped || spentMs > selfResumeMs) await qemu.execute('cont').catch(() => undefined);
    if (spentMs > timeoutMs) return status;
    await delay(pollMs);
  }
}
