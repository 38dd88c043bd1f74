/** All that a client can ask for. Both clients run these. */
export * from './device-operations.ts';
export * from './migration-operations.ts';
export type { Operation, ReplyMessage } from './operation.ts';
