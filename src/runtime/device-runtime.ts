import type { Device, DeviceModel, OptionTable, ResetKind } from '../device/model.ts';
import type { BarIndex, PciDescription } from '../device/pci-description.ts';
import { GuestMemoryMap } from '../dma/index.ts';
import { errno, RequestError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Reactor } from '../loop/types.ts';
import { MigrationController } from '../migration/index.ts';
import { ConfigSpace, InterruptController } from '../pci/index.ts';
import { closeFd, eventfdSignal } from '../posix/index.ts';
import {
  type ClientLink,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
  type RegionIoFd,
  regionFlags,
  type ServedDevice,
  type ServedMigration,
} from '../transport/served-device.ts';
import { type BarOverlay, BarSet } from './bars.ts';
import { DeviceHealth } from './health.ts';
import { RuntimeHost } from './host.ts';
import { resolveOptions } from './options.ts';

/** Region indices of a PCI device (vfio.h `VFIO_PCI_*_REGION_INDEX`). */
export const pciRegion = { bar0: 0, bar5: 5, rom: 6, config: 7, vga: 8, count: 9 } as const;
/** Interrupt indices (vfio.h `VFIO_PCI_*_IRQ_INDEX`). */
export const pciIrq = { intx: 0, msi: 1, msix: 2, err: 3, req: 4, count: 5 } as const;
/** `VFIO_DEVICE_FLAGS_*` (vfio.h). */
const deviceFlags = { reset: 1, pci: 2 } as const;

const pciBars = (index: number): index is BarIndex => index >= pciRegion.bar0 && index <= pciRegion.bar5;

export interface RuntimeSettings {
  readonly reactor: Reactor;
  readonly log: Logger;
  /** `--set` values; see `resolveOptions`. */
  readonly options?: Readonly<Record<string, unknown>>;
  readonly dirtyScope?: DirtyScopeName;
  /** Start held: answer everything, start nothing; for the destination of a migration. */
  readonly held?: boolean;
  /** Leaves optional features of the migration protocol out. */
  readonly migration?: { readonly p2p?: boolean; readonly preCopy?: boolean };
}

export type DirtyScopeName = 'precise' | 'pinned' | 'all';
