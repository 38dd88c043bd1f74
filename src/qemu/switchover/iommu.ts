/** A vIOMMU in front of a device. */
import { errno, errnoName } from '../../errors.ts';
import { command } from '../../pci/index.ts';
import type { DevicePeer, PeerInfo } from '../device-peer.ts';
import { refusal } from '../errors.ts';
import { formatAddress, type PciAddress } from '../pci-address.ts';
import type { QmpSession } from '../qmp.ts';
import { peripherals } from './inventory.ts';
import { commandOf, msixTableAddress } from './registers.ts';

/** How a DMA by message ends of which QEMU has said nothing. */
const unanswered: readonly number[] = [errno.ETIMEDOUT, errno.ECANCELED];
const iommuTypes = ['intel-iommu', 'amd-iommu', 'virtio-iommu'];

/** A device of the VM that is asked. */
interface AskedDevice {
  readonly id: string;
  readonly address: PciAddress;
  readonly peer: DevicePeer;
  readonly info: PeerInfo;
}

/**
 * Behind a translating vIOMMU a device can't reach its own BAR, so that its MSI-X table can neither be read
 * nor written. Told by trying, where there is a vIOMMU at all.
 */
export async function checkIommu(qmp: QmpSession, devices: readonly AskedDevice[]): Promise<void> {
  const iommu = (await peripherals(qmp)).find(({ type }) => iommuTypes.some((name) => type.startsWith(name)));
  if (iommu === undefined) return;
  const hint = 'boot the guest with iommu=pt, or without a vIOMMU';
  for (const { id, address, peer, info } of devices) {
    const table = msixTableAddress(info);
    const decoding = command.memory | command.master;
    if (table === undefined || (commandOf(info.config) & decoding) !== decoding) {
      throw refusal(
        'VC_VIOMMU',
        `there is a vIOMMU (${iommu.type}), and as device ${id} is not set up by its driver it can't be told whether it translates`,
        hint,
      );
    }
    const [result] = await peer.dma([{ read: table, length: 4 }]);
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
        `a translating vIOMMU (${iommu.type}) is in front of device ${id} at ${formatAddress(address)}`,
        hint,
      );
  }
}
