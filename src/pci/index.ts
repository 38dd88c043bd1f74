/** PCI: configuration space, BARs, capabilities, interrupts. Knows nothing of sockets. */

export { overlayBar } from './bar-overlay.ts';
export type { BarLayout, BarState } from './bars.ts';
export { barBase, barCount } from './bars.ts';
export { capabilityId } from './capabilities.ts';
export type { ConfigHooks, PowerState } from './config-space.ts';
export { ConfigSpace } from './config-space.ts';
export type { ConfigState } from './config-state.ts';
export { NoSuchVector, PciDescriptionError, PciStateError } from './errors.ts';
export { command, status } from './header.ts';
export type { InterruptState } from './interrupt-state.ts';
export type { InterruptConfig, InterruptPorts } from './interrupts.ts';
export { InterruptController } from './interrupts.ts';
export { irqIndex, irqIndexCount } from './irq-requests.ts';
export type { DescriptorPort } from './message-vectors.ts';
export { MsiView, MsixView } from './message-views.ts';
export type { BarWindow, MsixTableState } from './msix-table.ts';
export { MsixTable } from './msix-table.ts';
export type { ConfigDifference, ReplayEntry } from './replay.ts';
export { compareConfigs, planReplay } from './replay.ts';
export { msixEntrySize, pbaSize, validateDescription } from './validate.ts';
