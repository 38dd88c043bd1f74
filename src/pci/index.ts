/** PCI: configuration space, BARs, capabilities, interrupts. Knows nothing of sockets. */

export type { BarLayout, BarState } from './bars.ts';
export { barBase, barCount } from './bars.ts';
export { capabilityId } from './capabilities.ts';
export type { ConfigHooks, PowerState } from './config-space.ts';
export { ConfigSpace } from './config-space.ts';
export type { ConfigState } from './config-state.ts';
export { NoSuchVector, PciDescriptionError, PciStateError } from './errors.ts';
export { command, status } from './header.ts';
export type { ReplayRole } from './layout.ts';
export { MsiView, MsixView } from './message-views.ts';
export type { ReplayEntry } from './replay.ts';
export { msixEntrySize, pbaSize, validateDescription } from './validate.ts';
