/**
 * vfio-user clients: `VfioUserClient` waits for its replies (tests, tools), `AsyncVfioUserClient` has promises
 * (the orchestrator). The operations that both run are in `operations`.
 */
export { type AsyncClientOptions, AsyncVfioUserClient } from './async-client.ts';
export { type ClientOptions, type Pending, VfioUserClient } from './client.ts';
export { ConnectionError, PeerError, ProtocolError } from './errors.ts';
export { bytesRange, ClientMemory, type MemoryRange } from './memory.ts';
export * as operations from './operations.ts';
