/** The VM that is saved: what must be so before it is touched. */

import { textAt } from '../answers.ts';
import { type DevicePeer, noInfo, type PeerInfo } from '../device-peer.ts';
import type { PciAddress } from '../pci-address.ts';
import type { QmpSession } from '../qmp.ts';
import { fenced } from '../switchover/fence.ts';
import { checkNamed } from '../switchover/inventory.ts';
import { checkIommu } from '../switchover/iommu.ts';
import { describeMachine, findEcam, type Machine } from '../switchover/machine.ts';
import { placeOf } from '../switchover/place.ts';
import {
  checkAddresses,
  checkBlockers,
  checkConnected,
  checkProtocol,
  checkRunning,
  checkSourceStatus,
} from '../switchover/side-checks.ts';

/** A device on its way into a folder. */
export interface SavingDevice {
  readonly id: string;
  readonly peer: DevicePeer;
  /** The same for what undoes all; see `fenced`. */
  readonly unfenced: DevicePeer;
  info: PeerInfo;
  flags: number;
  address: PciAddress;
  place: string;
  frozen: PeerInfo | undefined;
  msixTable: Buffer | undefined;
}

export function savingDevice(id: string, peer: DevicePeer, givenUp: AbortSignal): SavingDevice {
  return {
    id,
    peer: fenced(peer, givenUp),
    unfenced: peer,
    info: noInfo,
    flags: 0,
    address: { bus: -1, device: 0, function: 0 },
    place: '',
    frozen: undefined,
    msixTable: undefined,
  };
}

/** Refuses what could not be saved, and learns what a manifest has to tell of the machine. */
export async function checkSource(
  qemu: QmpSession,
  devices: readonly SavingDevice[],
  signal: AbortSignal,
): Promise<{ machine: Machine; ecamBase: number | undefined }> {
  checkSourceStatus(textAt(await qemu.execute('query-status'), 'status'));
  await checkBlockers(qemu);
  const ids = devices.map(({ id }) => id);
  const wayOut = 'name it with its migration socket: it would be lost without an error';
  await checkNamed(qemu, 'the VM', ids, { is: 'not to be saved', wayOut });
  const machine = await describeMachine(qemu);
  await Promise.all(devices.map((device) => checkDevice(qemu, device, signal)));
  await checkIommu(qemu, devices);
  return { machine, ecamBase: await findEcam(qemu) };
}

async function checkDevice(qemu: QmpSession, device: SavingDevice, signal: AbortSignal): Promise<void> {
  const { id, peer } = device;
  const [info, flags, state] = await Promise.all([peer.info(), peer.migrationFlags(), peer.state()]);
  device.info = info;
  device.flags = flags;
  checkConnected(id, peer, info, 'source');
  checkProtocol(id, info);
  checkRunning(id, state);
  device.place = await placeOf(qemu, id);
  await checkAddresses(qemu, id, peer, signal);
}
