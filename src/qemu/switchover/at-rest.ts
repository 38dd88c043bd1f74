/** A device comes to rest while the vCPUs stand still, and what only QEMU knows of it is read. */
import { errno, errnoName } from '../../errors.ts';
import { migrationFlags, migrationState } from '../../migration/state.ts';
import type { BarrierResult, DevicePeer, PeerInfo } from '../device-peer.ts';
import { refusal } from '../errors.ts';
import { formatAddress } from '../pci-address.ts';
import { msixTableAddress, needsBusMaster } from './registers.ts';
import type { DeviceRun } from './run.ts';

/** What a device that has come to rest tells. */
export interface Rested extends BarrierResult {
  readonly frozen: PeerInfo;
  /** What the barrier took. */
  readonly microseconds: number;
}

/**
 * Brings a device to rest: its port parked, what QEMU has queued drained (which brings the MSI-X table), the device held
 * and, if it has one, in its P2P state. One request for all of it.
 * @param flags `VFIO_MIGRATION_*` bits that may be used
 * @param precopied it is in PRE_COPY, else in RUNNING
 */
export async function bringToRest(
  peer: DevicePeer,
  info: PeerInfo,
  flags: number,
  precopied: boolean,
): Promise<Rested> {
  const park = info.hasNet;
  const p2p = precopied ? migrationState.PRE_COPY_P2P : migrationState.RUNNING_P2P;
  const hasP2p = (flags & migrationFlags.P2P) !== 0;
  const rested = await peer.rest(hasP2p ? { park, state: p2p } : { park });
  const { config, addresses } = rested;
  const bars = info.bars.map((bar) => ({ ...bar, address: addresses[bar.index] ?? null }));
  return { ...rested, frozen: { ...info, config, bars } };
}

/** Takes the MSI-X table as QEMU holds it from what a barrier brought. */
export function takeTable(
  device: Pick<DeviceRun, 'id' | 'address' | 'frozen' | 'msixTable'>,
  { errno: code, msixTable }: BarrierResult,
): void {
  device.msixTable = msixTable;
  const { frozen } = device;
  const unreached = msixTable === undefined && frozen !== undefined && msixTableAddress(frozen) !== undefined;
  if (!unreached || needsBusMaster(device)) return;
  throw refusal(
    'VC_VIOMMU',
    `device ${device.id} at ${formatAddress(device.address)} can't reach its own MSI-X table (${errnoName(code === 0 ? errno.EIO : code)})`,
    'is there a translating vIOMMU? boot the guest with iommu=pt',
  );
}
