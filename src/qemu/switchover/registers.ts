/** What a device's registers say of how it can be reached. */
import { CompanionError } from '../../errors.ts';
import { command } from '../../pci/index.ts';
import type { PeerInfo } from '../device-peer.ts';
import type { DeviceRun } from './run.ts';

/** Offset of the command register (PCI Local Bus 3.0, 6.2.2). */
export const commandOffset = 0x04;

/** The command register in `config`. */
export function commandOf(config: Buffer): number {
  return config.readUInt16LE(commandOffset);
}

/** Guest-physical address of the MSI-X table, if the guest has assigned that BAR. */
export function msixTableAddress(info: PeerInfo): number | undefined {
  const { msix } = info;
  if (msix === undefined) return undefined;
  const bar = info.bars.find(({ index }) => index === msix.table.bar);
  if (bar === undefined || bar.address === null || bar.address === 0) return undefined;
  return bar.address + msix.table.offset;
}

/** The configuration of a device as it was when the vCPUs stopped. */
export function frozen(device: Pick<DeviceRun, 'id' | 'frozen'>): PeerInfo {
  if (device.frozen === undefined)
    throw new CompanionError('VC_MIGRATE', `device ${device.id} has not been stopped`);
  return device.frozen;
}

/** What the command register must have for the self-DMA: memory decoding only where there is a BAR to reach. */
export function neededBits(device: Pick<DeviceRun, 'id' | 'frozen'>): number {
  const reach = msixTableAddress(frozen(device)) === undefined ? 0 : command.memory;
  return command.master | reach;
}

/** The device's own DMA does not reach what it has to. */
export function needsBusMaster(device: Pick<DeviceRun, 'id' | 'frozen'>): boolean {
  return (commandOf(frozen(device).config) & neededBits(device)) !== neededBits(device);
}
