/**
 * Everything that the author of a device model imports; see docs/writing-a-device.md.
 */

export type { DmaRegion, GuestMemory } from '../dma/types.ts';
export { dmaProt } from '../dma/types.ts';
export { CompanionError, errno, RequestError, StateRefused } from '../errors.ts';
export type { Logger } from '../log.ts';
export type { Timer, Watch } from '../loop/types.ts';
export { ready } from '../loop/types.ts';
export type { DeviceMigration, PinnedRange, PinnedRanges, PreCopySession, StateRecord } from './migration.ts';
export type {
  BarHandler,
  Device,
  DeviceHost,
  DeviceModel,
  Interrupts,
  OptionSpec,
  OptionTable,
  OptionValues,
  ResetKind,
} from './model.ts';
export { defineModel } from './model.ts';
export { PageTracker } from './page-tracker.ts';
export type {
  BarDescription,
  BarIndex,
  DoorbellDescription,
  MsiDescription,
  MsixDescription,
  PciDescription,
  PcieDescription,
} from './pci-description.ts';
export type { RegisterHandlers, RegisterSpec, RegisterTable } from './registers.ts';
export { RegisterBlock } from './registers.ts';
