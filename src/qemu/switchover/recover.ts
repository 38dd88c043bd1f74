/** A VM whose migration was left in the middle, as by an orchestrator that was killed, goes on where it is. */
import { setTimeout as delay } from 'node:timers/promises';
import { CompanionError } from '../../errors.ts';
import { migrationState, stateName } from '../../migration/state.ts';
import { field, listAt, textAt } from '../answers.ts';
import type { DevicePeer, PeerInfo } from '../device-peer.ts';
import { refusal } from '../errors.ts';
import type { QmpAddress, QmpSession } from '../qmp.ts';
import { connectSide } from '../side.ts';
import { checkNamed } from './inventory.ts';
import { defaultTimeouts, type MigrateOptions, type Timeouts } from './options.ts';
import { cancelMigration, endedStatuses, resumeGuest, reviveDevice } from './revive.ts';

export interface RecoverOptions {
  /** The QEMU's QMP socket, which nobody else may be using. */
  readonly qmp: QmpAddress;
  /** Its vfio-user devices, and the migration sockets of their servers. */
  readonly devices: readonly { readonly id: string; readonly socket: string }[];
  /**
   * Also when this QEMU has sent the guest away. Only if it is certain that it does not run elsewhere, and never
   * will: end the destination first.
   */
  readonly force?: boolean;
  readonly timeouts?: Partial<Timeouts>;
  readonly connectDevice?: MigrateOptions['connectDevice'];
}

/** What `recover` found and did. */
export interface Recovery {
  /** QEMU's status before: "running", "finish-migrate" … */
  readonly before: string;
  /** Of its migration before: "none", "pre-switchover" … */
  readonly migration: string;
  /** QEMU's status now: "running", or what a VM was in that stood still for other reasons: "paused" by somebody, "io-error" … */
  readonly after: string;
  readonly devices: readonly { readonly id: string; readonly state: string; readonly held: boolean }[];
  /** Settings of QEMU that a migration had left changed, as they are now. */
  readonly restored: Readonly<Record<string, number | boolean>>;
}

const pollMs = 20;
/** What a migration has a VM come to, which goes on then; any other status is somebody's wish, or a trouble of its own. */
const migrationStatuses: ReadonlySet<string> = new Set(['running', 'finish-migrate', 'postmigrate']);
/** QEMU's own defaults of what a migration of ours changes: what there was before is known to nobody any more. */
const defaultParameters = { 'downtime-limit': 300, 'max-bandwidth': 128 * 1024 * 1024 } as const;
/** What a migration of ours switches on and, at its end, off again. */
const ownCapabilities = ['pause-before-switchover', 'events'];

/**
 * Ends a migration that nobody conducts any more, and has devices and guest go on at this QEMU. Does no harm to one that is well; one
 * whose guest had arrived, but whose devices had not been let go, gets them.
 *
 * @throws CompanionError VC_RECOVER when the guest may be running at the destination, waits for a migration, or does not go on; VC_DEVICES when
 *   not every vfio-user device is named. Nothing has been changed in the second and the last case, and in the first unless QEMU's migration came to
 *   its end just then
 */
export async function recover(options: RecoverOptions): Promise<Recovery> {
  const timeouts = { ...defaultTimeouts, ...options.timeouts };
  const side = await connectSide(options.qmp, options.devices, timeouts, options.connectDevice);
  try {
    return await recoverAll(side.qemu, side.devices, timeouts, options.force === true);
  } finally {
    await side.close();
  }
}

async function recoverAll(
  qemu: QmpSession,
  devices: readonly { id: string; peer: DevicePeer }[],
  timeouts: Timeouts,
  force: boolean,
): Promise<Recovery> {
  const { before, migration } = await settledStatus(qemu, timeouts.final);
  checkHere(before, migration, force);
  const ids = devices.map(({ id }) => id);
  const wayOut = 'name it, too: it would stay as the migration has left it';
  await checkNamed(qemu, 'the VM', ids, { is: 'not to be recovered', wayOut });
  const found: { id: string; peer: DevicePeer; info: PeerInfo }[] = [];
  for (const { id, peer } of devices) found.push({ id, peer, info: await peer.info() });
  const troubles: string[] = [];
  // The devices first: QEMU resumes the vCPUs by itself as soon as its migration has been cancelled.
  for (const { id, peer, info } of found) {
    troubles.push(...(await reviveDevice(id, peer, info.hasNet, timeouts.command)));
    // A vector that was masked when the guest moved may have something pending that nobody knows of.
    if (info.held)
      await peer.fireVectors().catch((error) => troubles.push(`device ${id}: vectors: ${String(error)}`));
  }
  if (troubles.length > 0) {
    const broken = found.find(({ info }) => info.state === migrationState.ERROR);
    throw new CompanionError('VC_RECOVER', troubles.join('; '), {
      ...(broken !== undefined && {
        hint: `only a reset ends ERROR: vfio-companion ask ${broken.peer.name} reset, recover again, and have the guest load the driver of ${broken.id} anew, or reboot`,
      }),
    });
  }
  let after = before;
  if (!endedStatuses.has(migration)) {
    const end = await cancelMigration(qemu, timeouts.rollback);
    after = await uncoveredStatus(qemu, timeouts.rollback);
    // One that pauses nowhere may have come to its end before it could be cancelled.
    checkHere(after, end, force);
  }
  const restored = await restoreSettings(qemu);
  // Devices are let go when a guest has arrived: what is paused after that, somebody has paused.
  const arrived = after === 'paused' && migration === 'completed' && found.some(({ info }) => info.held);
  if (arrived || migrationStatuses.has(after)) {
    after = await resumeGuest(qemu, timeouts.rollback);
    if (after !== 'running' && after !== 'suspended')
      throw new CompanionError('VC_RECOVER', `the VM is in state "${after}" and does not resume`);
  }
  return {
    before,
    migration,
    after,
    devices: found.map(({ id, info }) => ({ id, state: stateName(info.state), held: info.held })),
    restored,
  };
}

/** The final pass of a migration ends by itself, and how is decisive: it is waited for. */
async function settledStatus(
  qemu: QmpSession,
  timeoutMs: number,
): Promise<{ before: string; migration: string }> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    // In this order: a guest that leaves in between is gone.
    // A QEMU that has never been told to migrate says nothing.
    const migration = textAt(await qemu.execute('query-migrate'), 'status') || 'none';
    const before = textAt(await qemu.execute('query-status'), 'status');
    const moving = migration === 'device' || migration === 'cancelling';
    if (!moving || performance.now() > deadline) return { before, migration };
    await delay(pollMs);
  }
}

/** The status that a last pass of RAM hides, to which QEMU goes back a moment after it has been called off. */
async function uncoveredStatus(qemu: QmpSession, timeoutMs: number): Promise<string> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const status = textAt(await qemu.execute('query-status'), 'status');
    if (status !== 'finish-migrate' || performance.now() > deadline) return status;
    await delay(pollMs);
  }
}

function checkHere(status: string, migration: string, force: boolean): void {
  if (status === 'inmigrate')
    throw refusal(
      'VC_RECOVER',
      'the VM waits for a migration: there is no guest to go on',
      'end it, and recover the source',
    );
  if (status === 'paused' && migration === 'completed' && !force)
    throw refusal(
      'VC_RECOVER',
      'this VM does not run its guest, and a migration of it has come to its end: it may be running elsewhere',
      'if it does (query-status there), recover that one; if both stand still, recover the one in state "postmigrate" with --force and end the other',
    );
  const gone = status === 'postmigrate' || migration === 'completed' || migration === 'device';
  if (gone && status !== 'running' && !force)
    throw refusal(
      'VC_RECOVER',
      'this VM has sent its guest away: it may be running at the destination',
      'if it does (query-status there), recover that one; else end the destination and use --force here',
    );
}

async function restoreSettings(qemu: QmpSession): Promise<Record<string, number | boolean>> {
  const capabilities = listAt(await qemu.execute('query-migrate-capabilities'));
  const on = (name: string): boolean =>
    capabilities.some((each) => textAt(each, 'capability') === name && field(each, 'state') === true);
  // Whoever else uses it would have to go on by hand: it tells that a migration of ours was left.
  const ours = on('pause-before-switchover');
  const parameters = await qemu.execute('query-migrate-parameters');
  const restored: Record<string, number | boolean> = {};
  for (const [name, value] of Object.entries(defaultParameters))
    if (ours && field(parameters, name) !== value) restored[name] = value;
  if (Object.keys(restored).length > 0) await qemu.execute('migrate-set-parameters', { ...restored });
  const left = ours ? ownCapabilities.filter(on) : [];
  if (left.length > 0) {
    await qemu.execute('migrate-set-capabilities', {
      capabilities: left.map((capability) => ({ capability, state: false })),
    });
    for (const capability of left) restored[capability] = false;
  }
  return restored;
}
