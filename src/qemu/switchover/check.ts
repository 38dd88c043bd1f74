/** Step 1: refuse, while nothing has been touched, what could not be brought to its end. */

import { setTimeout as delay } from 'node:timers/promises';
import { type CompanionError, errno, errnoName, StateRefused } from '../../errors.ts';
import { migrationState, stateName } from '../../migration/state.ts';
import { checkLoadable } from '../../migration/stream/header.ts';
import { command } from '../../pci/index.ts';
import type { DevicePeer, PeerInfo } from '../device-peer.ts';
import { formatAddress } from '../pci-address.ts';
import type { QmpSession } from '../qmp.ts';
import { checkUris } from './listen.ts';
import { addressOf, pciDevice, placeOf } from './place.ts';
import { type DeviceRun, listAt, numberAt, type Run, refusal, textAt } from './run.ts';

const vfioUserType = 'vfio-user-pci';
/** How a DMA by message ends of which QEMU has said nothing. */
const unanswered: readonly number[] = [errno.ETIMEDOUT, errno.ECANCELED];
const iommuTypes = ['intel-iommu', 'amd-iommu', 'virtio-iommu'];
/** Offset of the command register (PCI Local Bus 3.0, 6.2.2). */
export const commandOffset = 0x04;

/** How often, and how far apart, addresses are looked at that differ. */
const addressLooks = 5;
const addressPauseMs = 20;

/** Companion operations that a source must know: the first version lacks `rest` and `halt`. */
const neededProtocol = 2;

export async function check(run: Run): Promise<void> {
  checkUris(run);
  const [status, waiting] = await run.all([
    statusOfSource(run),
    run.destination.execute('query-status').then((answer) => textAt(answer, 'status')),
  ]);
  if (status !== 'running' && status !== 'paused')
    throw refusal(
      'VC_SOURCE_STATE',
      `the source VM is ${status}, not running`,
      status === 'inmigrate'
        ? 'are source and destination the other way round?'
        : 'if a migration was left in the middle: vfio-companion recover',
    );
  if (waiting !== 'inmigrate')
    throw refusal(
      'VC_DESTINATION_STATE',
      `the destination VM is ${waiting}, not waiting for a migration`,
      'start it with -incoming defer -S',
    );
  const checks = [checkBlockers, checkMachine, checkCapabilities, checkMemory, checkInventory];
  await Promise.all(checks.map((each) => each(run)));
  await run.each((device) => checkDevice(run, device));
  run.ecamBase = await run.until(findEcam(run.source));
  await run.until(checkIommu(run));
}

/** The source's status. Whether its guest runs is noted at once: what somebody does about that later is told by events. */
async function statusOfSource(run: Run): Promise<string> {
  const before = run.source.lastEvent;
  const status = textAt(await run.source.execute('query-status'), 'status');
  run.wasRunning = status === 'running' || run.source.seen('RESUME', before) !== undefined;
  return status;
}

async function checkBlockers(run: Run): Promise<void> {
  const state = await run.until(run.source.execute('query-migrate'));
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

/** One that a QEMU has not, it would refuse only when both sides have been touched. */
async function checkCapabilities(run: Run): Promise<void> {
  const wanted = Object.keys(run.options.capabilities ?? {});
  if (wanted.length === 0) return;
  for (const [side, qemu] of Object.entries({ source: run.source, destination: run.destination })) {
    const answer = await run.until(qemu.execute('query-migrate-capabilities'));
    const known = listAt(answer).map((each) => textAt(each, 'capability'));
    const unknown = wanted.filter((name) => !known.includes(name));
    if (unknown.length > 0)
      throw refusal('VC_CAPABILITY', `the ${side} QEMU has no migration capability ${unknown.join(', ')}`);
  }
}

/** QEMU tells of these on the destination's standard error, when that has been touched, or not at all. */
async function checkMachine(run: Run): Promise<void> {
  const sides = [run.source, run.destination];
  const types = await run.all(
    sides.map((qemu) => qemu.execute('qom-get', { path: '/machine', property: 'type' })),
  );
  const [source, destination] = types.map((type) => String(type).replace(/-machine$/, ''));
  if (source !== destination)
    throw refusal(
      'VC_MACHINES_DIFFER',
      `the source is a ${source} and the destination a ${destination}`,
      `start the destination with -machine ${source}`,
    );
  const processors = await run.all(sides.map((qemu) => qemu.execute('query-cpus-fast')));
  const [here, there] = processors.map((list) => listAt(list).length);
  if (here !== there)
    throw refusal(
      'VC_MACHINES_DIFFER',
      `the VMs have ${here} and ${there} processors`,
      'give both the same -smp',
    );
}

async function checkMemory(run: Run): Promise<void> {
  const [a, b] = await run.all([
    run.source.execute('query-memory-size-summary'),
    run.destination.execute('query-memory-size-summary'),
  ]);
  run.ramBytes = numberAt(a, 'base-memory') + numberAt(a, 'plugged-memory');
  if (numberAt(a, 'base-memory') !== numberAt(b, 'base-memory'))
    throw refusal(
      'VC_MACHINES_DIFFER',
      `the VMs have ${numberAt(a, 'base-memory')} and ${numberAt(b, 'base-memory')} bytes of memory`,
      'give both the same -m',
    );
}

interface QomChild {
  readonly path: string;
  readonly type: string;
}

/** User-made devices of a VM, with or without an id. */
async function peripherals(qmp: QmpSession): Promise<QomChild[]> {
  const children: QomChild[] = [];
  for (const parent of ['/machine/peripheral', '/machine/peripheral-anon']) {
    for (const child of listAt(await qmp.execute('qom-list', { path: parent }))) {
      const type = /^child<(.*)>$/.exec(textAt(child, 'type'))?.[1];
      if (type !== undefined) children.push({ path: `${parent}/${textAt(child, 'name')}`, type });
    }
  }
  return children;
}

async function checkInventory(run: Run): Promise<void> {
  const ids = run.devices.map(({ id }) => id);
  const unnamed = {
    is: 'not to be migrated',
    wayOut: 'name it with its migration sockets: QEMU would lose it without an error',
  };
  await run.until(checkNamed(run.source, 'the source VM', ids, unnamed));
  await run.until(checkNamed(run.destination, 'the destination VM', ids, unnamed));
}

/**
 * Every vfio-user device of a VM must be named, and once.
 * @param unnamed what to say of one that is not
 */
export async function checkNamed(
  qmp: QmpSession,
  who: string,
  ids: readonly string[],
  unnamed: { readonly is: string; readonly wayOut: string },
): Promise<void> {
  const named = new Set(ids.map((id) => `/machine/peripheral/${id}`));
  if (named.size !== ids.length) throw refusal('VC_DEVICES', 'a device is named twice');
  const paths = (await peripherals(qmp)).filter(({ type }) => type === vfioUserType).map(({ path }) => path);
  const missing = [...named].filter((path) => !paths.includes(path));
  if (missing.length > 0)
    throw refusal(
      'VC_DEVICES',
      `${who} has no vfio-user-pci device ${missing.map(baseName).join(', ')}`,
      paths.length === 0
        ? 'it has none at all'
        : `a device is named by its id= in QEMU; there is ${paths.map(baseName).join(', ')}`,
    );
  const extra = paths.filter((path) => !named.has(path));
  if (extra.length > 0)
    throw refusal(
      'VC_DEVICES',
      `${who} has a vfio-user-pci device that is ${unnamed.is}: ${extra.map(baseName).join(', ')}`,
      unnamed.wayOut,
    );
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

async function checkDevice(run: Run, device: DeviceRun): Promise<void> {
  const { id, source, destination } = device;
  const [from, to, sourceFlags, destinationFlags, state] = await run.until(
    Promise.all([
      source.info(),
      destination.info(),
      source.migrationFlags(),
      destination.migrationFlags(),
      source.state(),
    ]),
  );
  device.sourceInfo = from;
  device.pristine = to;
  device.flags = sourceFlags & destinationFlags;
  checkConnected(id, source, from, 'source');
  checkConnected(id, destination, to, 'destination');
  // A guest that waits for its migration has not run: whose this is loses it.
  if (commandOf(to.config) !== 0)
    throw refusal(
      'VC_DESTINATION_STATE',
      `the destination server of device ${id} (${destination.name}) serves a guest that has set the device up`,
      'are its two sockets the other way round? the source comes first',
    );
  if (from.protocol < neededProtocol)
    throw refusal(
      'VC_PROTOCOL',
      `the source server of device ${id} speaks version ${from.protocol} of the companion operations; ${neededProtocol} is needed`,
      'migrate with the vfio-companion that serves it, or an older one',
    );
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
  if (state !== migrationState.RUNNING)
    throw refusal(
      'VC_DEVICE_STATE',
      `device ${id} is in state ${stateName(state)} at the source, not RUNNING`,
      'if a migration was left in the middle: vfio-companion recover',
    );
  device.address = await run.until(addressOf(run.source, id));
  const [here, there] = await run.all([placeOf(run.source, id), placeOf(run.destination, id)]);
  if (here !== there)
    throw refusal(
      'VC_MACHINES_DIFFER',
      `device ${id} sits in slot ${here} at the source and ${there} at the destination`,
      'give both the same bus= and addr=',
    );
  await checkAddresses(run, device);
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

function checkConnected(id: string, peer: DevicePeer, info: PeerInfo, side: string): void {
  if (!info.clientConnected)
    throw refusal(
      'VC_NOT_CONNECTED',
      `no QEMU is connected to the ${side} server of device ${id} (${peer.name})`,
      'is it the right migration socket?',
    );
}

/**
 * A device's own server has the addresses that QEMU has. The guest may be moving them just now: only a difference that stays
 * counts.
 */
async function checkAddresses(run: Run, { id, source }: DeviceRun): Promise<void> {
  for (let look = 1; ; look++) {
    const { bars } = await run.until(source.info());
    const regions = listAt(await run.until(pciDevice(run.source, id)), 'regions');
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
    await run.until(delay(addressPauseMs));
  }
}

/** A server that is not that of the device for which it was named. */
export function otherServer(server: DevicePeer, id: string, side: 'source' | 'destination'): CompanionError {
  return refusal(
    'VC_DEVICES',
    `the server at ${server.name} is not that of device ${id} at the ${side}`,
    'are the sockets of several devices mixed up?',
  );
}

/** The ECAM window of a q35 as it stands in the memory tree now; firmware places it. */
export async function findEcam(qmp: QmpSession): Promise<number | undefined> {
  const tree = await qmp.hmp('info mtree');
  const digits = /^\s*([0-9a-f]{16})-[0-9a-f]{16} \(prio [^)]*\): pcie-mmcfg-mmio\b/m.exec(tree)?.[1];
  return digits === undefined ? undefined : Number.parseInt(digits, 16);
}

/** Guest-physical address of the MSI-X table, if the guest has assigned that BAR. */
export function msixTableAddress(info: PeerInfo): number | undefined {
  const { msix } = info;
  if (msix === undefined) return undefined;
  const bar = info.bars.find(({ index }) => index === msix.table.bar);
  if (bar === undefined || bar.address === null || bar.address === 0) return undefined;
  return bar.address + msix.table.offset;
}

/**
 * Behind a translating vIOMMU a device can't reach its own BAR, so that its MSI-X table can neither be read
 * nor written. Told by trying, where there is a vIOMMU at all.
 */
async function checkIommu(run: Run): Promise<void> {
  const iommu = (await peripherals(run.source)).find(({ type }) =>
    iommuTypes.some((name) => type.startsWith(name)),
  );
  if (iommu === undefined) return;
  const hint = 'boot the guest with iommu=pt, or without a vIOMMU';
  for (const device of run.devices) {
    const { sourceInfo, id, source } = device;
    const table = msixTableAddress(sourceInfo);
    const control = sourceInfo.config.readUInt16LE(commandOffset);
    const decoding = command.memory | command.master;
    if (table === undefined || (control & decoding) !== decoding) {
      throw refusal(
        'VC_VIOMMU',
        `there is a vIOMMU (${iommu.type}), and as device ${id} is not set up by its driver it can't be told whether it translates`,
        hint,
      );
    }
    const [result] = await source.dma([{ read: table, length: 4 }]);
    const code = result?.errno ?? errno.EIO;
    if (unanswered.includes(code))
      throw refusal(
        'VC_VIOMMU',
        `there is a vIOMMU (${iommu.type}), and it can't be told whether it translates: QEMU has not answered a read by device ${id} (${errnoName(code)})`,
        'try again',
      );
    if (code !== 0)
      throw refusal(
        'VC_VIOMMU',
        `a translating vIOMMU (${iommu.type}) is in front of device ${id} at ${formatAddress(device.address)}`,
        hint,
      );
  }
}

/** The command register in `config`. */
export function commandOf(config: Buffer): number {
  return config.readUInt16LE(commandOffset);
}
