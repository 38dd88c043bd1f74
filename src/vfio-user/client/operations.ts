/**
 * All that a client can ask for; each function makes one request. Both clients run these. Offsets, lengths and addresses are bytes. A
 * reply that does not fit its request is a `ProtocolError`.
 */
export * from './device-operations.ts';
export * from './migration-operations.ts';
export type { Operation, ReplyMessage } from './operation.ts';
