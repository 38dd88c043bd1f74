/** What is wrong with one side of a migration, or with a device's two sides together. Changes nothing. */
import { setTimeout as delay } from 'node:timers/promises';
import { type CompanionError, StateRefused } from '../../errors.ts';
import { migrationState, stateName } from '../../migration/state.ts';
import { checkLoadable } from '../../migration/stream/header.ts';
import { listAt, numberAt, textAt } from '../answers.ts';
import type { DevicePeer, PeerInfo } from '../device-peer.ts';
import { refusal } from '../errors.ts';
import type { QmpSession } from '../qmp.ts';
import { pciDevice } from './place.ts';
import { commandOf } from './registers.ts';

type SideName = 'source' | 'destination';

/** How often, and how far apart, addresses are looked at that differ. */
const addressLooks = 5;
const addressPauseMs = 20;

/** Companion operations that a source must know: the first version lacks `rest` and `halt`. */
const neededProtocol = 2;

const leftHint = 'if a migration was left in the middle: vfio-companion recover';

const suspendedHint = 'wake it up first: QMP system_wakeup';

/** A guest that suspends itself (S3) before it is stopped for the switchover. QEMU can't take it back once it has left, and aborts instead. */
export function suspendedMeanwhile(what: 'migrated' | 'saved' = 'migrated'): CompanionError {
  return refusal('VC_GUEST_SUSPENDED', `the guest has suspended itself while it was ${what}`, suspendedHint);
}

/** Refuses a VM whose guest can't leave, as its status tells. */
export function checkSourceStatus(status: string): void {
  if (status === 'running' || status === 'paused') return;
  const hints: Readonly<Record<string, string>> = {
    inmigrate: 'are source and destination the other way round?',
    suspended: suspendedHint,
  };
  throw refusal('VC_SOURCE_STATE', `the source VM is ${status}, not running`, hints[status] ?? leftHint);
}

/** Refuses a QEMU that has not been started to take a guest, or has taken one. */
export function checkWaiting(status: string): void {
  if (status === 'inmigrate') return;
  throw refusal(
    'VC_DESTINATION_STATE',
    `the destination VM is ${status}, not waiting for a migration`,
    'start it with -incoming defer -S',
  );
}

/** Refuses a QEMU that can't migrate its guest, or is about to. */
export async function checkBlockers(source: QmpSession): Promise<void> {
  const state = await source.execute('query-migrate');
  const reasons = listAt(state, 'blocked-reasons');
  if (reasons.length > 0) throw refusal('VC_BLOCKED', `QEMU refuses to migrate: ${reasons.join('; ')}`);
  const status = textAt(state, 'status');
  if (['setup', 'active', 'pre-switchover', 'device', 'cancelling'].includes(status))
    throw refusal(
      'VC_BLOCKED',
      `a migration is under way already (${status})`,
      'if nobody conducts it any more: vfio-companion recover',
    );
}

/** Refuses a server without a QEMU. */
export function checkConnected(id: string, peer: DevicePeer, info: PeerInfo, side: SideName): void {
  if (!info.clientConnected)
    throw refusal(
      'VC_NOT_CONNECTED',
      `no QEMU is connected to the ${side} server of device ${id} (${peer.name})`,
      'is it the right migration socket?',
    );
}

/** Refuses a source's server that does not know all that it will be asked. */
export function checkProtocol(id: string, { protocol }: PeerInfo): void {
  if (protocol < neededProtocol)
    throw refusal(
      'VC_PROTOCOL',
      `the source server of device ${id} speaks version ${protocol} of the companion operations; ${neededProtocol} is needed`,
      'migrate with the vfio-companion that serves it, or an older one',
    );
}

/** Refuses a device that is being migrated, or has failed. */
export function checkRunning(id: string, state: number): void {
  if (state !== migrationState.RUNNING)
    throw refusal(
      'VC_DEVICE_STATE',
      `device ${id} is in state ${stateName(state)} at the source, not RUNNING`,
      leftHint,
    );
}

/**
 * Refuses a destination's server that serves a guest already: one that waits for its migration has not run, and whose this is would lose it.
 */
export function checkUnused(id: string, peer: DevicePeer, info: PeerInfo): void {
  if (commandOf(info.config) !== 0)
    throw refusal(
      'VC_DESTINATION_STATE',
      `the destination server of device ${id} (${peer.name}) serves a guest that has set the device up`,
      'are its two sockets the other way round? the source comes first',
    );
}

/** Refuses a destination that can't load the device's state, as far as that is known in advance. */
export function checkFits(id: string, from: PeerInfo, to: PeerInfo): void {
  if (from.model !== to.model)
    throw refusal(
      'VC_STATE_REFUSED',
      `device ${id} is a ${from.model}, but its destination serves a ${to.model}`,
    );
  if (from.stateVersion > to.stateVersion)
    throw refusal(
      'VC_STATE_REFUSED',
      `device ${id} has state version ${from.stateVersion}; its destination knows ${to.stateVersion}`,
      'use a destination server that is not older than the source',
    );
  checkFormat(id, from, to);
}

/**
 * What the destination would find in the header of the state, found now: a device without PRE_COPY sends its
 * header when the guest has stopped.
 */
function checkFormat(id: string, from: PeerInfo, to: PeerInfo): void {
  if (from.stateFormat === undefined || to.stateFormat === undefined) return;
  const { model, stateVersion } = from;
  const { geometry, frameworkVersion } = from.stateFormat;
  try {
    checkLoadable(
      { model, stateVersion, geometry, frameworkVersion, requires: [], pageSize: 0 },
      { model: to.model, stateVersion: to.stateVersion, ...to.stateFormat },
    );
  } catch (error) {
    if (!(error instanceof StateRefused)) throw error;
    throw refusal('VC_STATE_REFUSED', `device ${id}: ${error.message}`, error.hint);
  }
}

/** Refuses a device that sits elsewhere than its other side; see `placeOf`. */
export function checkPlace(id: string, here: string, there: string): void {
  if (here !== there)
    throw refusal(
      'VC_MACHINES_DIFFER',
      `device ${id} sits in slot ${here} at the source and ${there} at the destination`,
      'give both the same bus= and addr=',
    );
}

/**
 * Refuses a server that is not this device's: a device's own one has the addresses that QEMU has. The guest may be moving them just now:
 * only a difference that stays counts.
 * @param signal ends the look
 */
export async function checkAddresses(
  qmp: QmpSession,
  id: string,
  source: DevicePeer,
  signal?: AbortSignal,
): Promise<void> {
  for (let look = 1; ; look++) {
    const { bars } = await source.info();
    const regions = listAt(await pciDevice(qmp, id), 'regions');
    // QEMU has -1 for one that is not decoded.
    const other = bars.some(({ index, address }) => {
      const known = numberAt(
        regions.find((region) => numberAt(region, 'bar') === index),
        'address',
      );
      return address !== null && address > 0 && known > 0 && address !== known;
    });
    if (!other) return;
    if (look === addressLooks) throw otherServer(source, id, 'source');
    await delay(addressPauseMs, undefined, { signal });
  }
}

/** A server that is not that of the device for which it was named. */
export function otherServer(server: DevicePeer, id: string, side: SideName): CompanionError {
  return refusal(
    'VC_DEVICES',
    `the server at ${server.name} is not that of device ${id} at the ${side}`,
    'are the sockets of several devices mixed up?',
  );
}
