/** Guest memory: the client's mappings, accesses to them, and the log of pages written. */
export { createDirtyLog } from './dirty-scopes.ts';
export type { DirtyScopeName, DirtyTracker } from './dirty-tracker.ts';
export { DmaFault } from './fault.ts';
export { GuestMemoryMap } from './guest-memory-map.ts';
export { dmaProt, type MessageDma } from './types.ts';
