import type { MessageSpec } from '../messages.ts';
import type { FieldTable, StructValue } from '../struct.ts';
import { ProtocolError } from './errors.ts';

/** A checked reply: structure decoded, what follows it, descriptors (which become the receiver's). */
export interface ReplyMessage<R extends FieldTable> {
  readonly value: StructValue<R>;
  readonly data: Buffer;
  readonly fds: readonly number[];
  /** False when the reply was a header alone, which some messages allow. */
  readonly complete: boolean;
}

/** One request with its meaning: what is sent, and what the reply is turned into. Both clients run these. */
export interface Operation<T> {
  readonly spec: MessageSpec;
  readonly value: StructValue<FieldTable>;
  readonly data: Uint8Array | undefined;
  readonly fds: readonly number[] | undefined;
  /** Throws `ProtocolError` for a reply that does not fit. */
  parse(reply: ReplyMessage<FieldTable>): T;
}

/** An operation of `spec`; `parse` turns the checked reply into its result. */
export function operation<Q extends FieldTable, R extends FieldTable, T>(
  spec: MessageSpec<Q, R>,
  value: StructValue<Q>,
  parse: (reply: ReplyMessage<R>) => T,
  extra: { data?: Uint8Array | undefined; fds?: readonly number[] | undefined } = {},
): Operation<T> {
  return {
    spec: spec as unknown as MessageSpec,
    value: value as StructValue<FieldTable>,
    data: extra.data,
    fds: extra.fds,
    parse: (reply) => parse(reply as unknown as ReplyMessage<R>),
  };
}

/** Throws `ProtocolError` unless `condition`: for what a reply says. */
export function demand(condition: boolean, what: string): void {
  if (!condition) throw new ProtocolError(`bad reply: ${what}`);
}
