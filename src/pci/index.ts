/** PCI: configuration space, BARs, capabilities, interrupts. Knows nothing of sockets. */

export { overlayBar } from './bar-overlay.ts';
export { ConfigSpace } from './config-space.ts';
export { NoSuchVector, PciDescriptionError, PciStateError } from './errors.ts';
export { command } from './header.ts';
export { InterruptController } from './interrupts.ts';
export type { BarWindow } from './msix-table.ts';
export type { ReplayEntry } from './replay.ts';
export { compareConfigs, planReplay } from './replay.ts';
