/** Guest memory: the client's mappings, accesses to them, and the log of pages written. */
export { DirtyLog, type DirtyLogOptions, trackedPage } from './dirty-log.ts';
export { createDirtyLog, type DirtyScopeOptions } from './dirty-scopes.ts';
export { type DirtyScopeName, type DirtyTracker, dirtyScopes, type IovaRange } from './dirty-tracker.ts';
export { DmaFault } from './fault.ts';
export { type DmaMapRequest, GuestMemoryMap, MAX_DMA_REGIONS } from './guest-memory-map.ts';
export {
  type ByteBatchResult,
  type DirtySink,
  type DmaRegion,
  dmaProt,
  type GuestMemory,
  type MessageDma,
} from './types.ts';
