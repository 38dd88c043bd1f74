/**
 * vfio-user clients: `VfioUserClient` waits for its replies (tests, tools), `AsyncVfioUserClient` has promises
 * (the orchestrator). The operations that both run are in `operations`.
 */
export { type AsyncClientOptions, AsyncVfioUserClient } from './async-client.ts';
export { VfioUserClient } from './client.ts';
export type { ClientOptions, Pending } from './connection.ts';
export { ConnectionError, PeerError, ProtocolError } from './errors.ts';
export { bytesRange, ClientMemory, type MemoryRange } from './memory.ts';
export * as operations from './operations.ts';
