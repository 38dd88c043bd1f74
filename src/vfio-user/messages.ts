import { errno, RequestError } from '../errors.ts';
import { type CommandName, command, headerFlags, maxMsgFds } from './constants.ts';
import type { FieldTable, Struct, StructValue } from './struct.ts';
import * as s from './structs.ts';

/**
 * What may follow a message's structure: nothing that is looked at (`ignored`: libvfio-user and therefore its
 * clients accept longer payloads), any bytes (`bytes`), or exactly as many as a field says (`{ count }`).
 */
export type Tail<F extends FieldTable> = 'ignored' | 'bytes' | { readonly count: keyof F & string };

/** One direction of a message. */
export interface Part<F extends FieldTable = FieldTable> {
  readonly struct: Struct<F>;
  readonly tail: Tail<F>;
}

/** One command: who sends it, what it and its reply look like, how many descriptors may come with either. */
export interface MessageSpec<Q extends FieldTable = FieldTable, R extends FieldTable = FieldTable> {
  readonly name: CommandName;
  readonly command: number;
  readonly from: 'client' | 'server';
  readonly request: Part<Q>;
  readonly reply: Part<R>;
  readonly requestFds: number;
  readonly replyFds: number;
  /** The reply may be the header alone: what QEMU 10 and libvfio-user send, or when nothing was moved. */
  readonly replyOptional: boolean;
}

interface Options {
  readonly from?: 'server';
  readonly requestFds?: number;
  readonly replyFds?: number;
  readonly replyOptional?: boolean;
}

function part<const F extends FieldTable>(structure: Struct<F>, tail: Tail<F> = 'ignored'): Part<F> {
  return { struct: structure, tail };
}

function message<Q extends FieldTable, R extends FieldTable>(
  name: CommandName,
  request: Part<Q>,
  reply: Part<R>,
  options: Options = {},
): MessageSpec<Q, R> {
  return {
    name,
    command: command[name],
    from: options.from ?? 'client',
    request,
    reply,
    requestFds: options.requestFds ?? 0,
    replyFds: options.replyFds ?? 0,
    replyOptional: options.replyOptional ?? false,
  };
}

/** All messages of the protocol. Encoder, decoder and length checks derive from this table. */
export const messages = {
  VERSION: message('VERSION', part(s.version, 'bytes'), part(s.version, 'bytes')),
  DMA_MAP: message('DMA_MAP', part(s.dmaMap), part(s.empty), { requestFds: 1 }),
  DMA_UNMAP: message('DMA_UNMAP', part(s.dmaUnmap), part(s.dmaUnmap)),
  DEVICE_GET_INFO: message('DEVICE_GET_INFO', part(s.deviceInfo), part(s.deviceInfo)),
  DEVICE_GET_REGION_INFO: message('DEVICE_GET_REGION_INFO', part(s.regionInfo), part(s.regionInfo, 'bytes'), {
    replyFds: maxMsgFds,
  }),
  DEVICE_GET_REGION_IO_FDS: message(
    'DEVICE_GET_REGION_IO_FDS',
    part(s.regionIoFds),
    part(s.regionIoFds, 'bytes'),
    { replyFds: maxMsgFds },
  ),
  DEVICE_GET_IRQ_INFO: message('DEVICE_GET_IRQ_INFO', part(s.irqInfo), part(s.irqInfo)),
  DEVICE_SET_IRQS: message('DEVICE_SET_IRQS', part(s.irqSet, 'bytes'), part(s.empty), {
    requestFds: maxMsgFds,
  }),
  REGION_READ: message('REGION_READ', part(s.regionAccess), part(s.regionAccess, { count: 'count' }), {
    replyOptional: true,
  }),
  REGION_WRITE: message('REGION_WRITE', part(s.regionAccess, { count: 'count' }), part(s.regionAccess), {
    replyOptional: true,
  }),
  DMA_READ: message('DMA_READ', part(s.dmaAccess), part(s.dmaAccess, { count: 'count' }), { from: 'server' }),
  DMA_WRITE: message('DMA_WRITE', part(s.dmaAccess, { count: 'count' }), part(s.dmaAccess), {
    from: 'server',
    replyOptional: true,
  }),
  DEVICE_RESET: message('DEVICE_RESET', part(s.empty), part(s.empty)),
  REGION_WRITE_MULTI: message(
    'REGION_WRITE_MULTI',
    part(s.regionWriteMulti, 'bytes'),
    part(s.regionWriteMulti),
  ),
  DEVICE_FEATURE: message('DEVICE_FEATURE', part(s.deviceFeature, 'bytes'), part(s.deviceFeature, 'bytes')),
  MIG_DATA_READ: message('MIG_DATA_READ', part(s.migData), part(s.migData, 'bytes')),
  MIG_DATA_WRITE: message('MIG_DATA_WRITE', part(s.migData, 'bytes'), part(s.empty)),
  MIG_PRECOPY_INFO: message('MIG_PRECOPY_INFO', part(s.precopyInfo), part(s.precopyInfo)),
  COMPANION: message('COMPANION', part(s.empty, 'bytes'), part(s.empty, 'bytes')),
} as const;

const byCommand = new Map<number, MessageSpec>();
for (const spec of Object.values(messages)) byCommand.set(spec.command, spec as unknown as MessageSpec);

/** The message of a command number, or undefined for one that the protocol does not have. */
export function messageOf(commandNumber: number): MessageSpec | undefined {
  return byCommand.get(commandNumber);
}

/** Name of a command for a log line, "command 99" for an unknown one. */
export function commandName(commandNumber: number): string {
  return byCommand.get(commandNumber)?.name ?? `command ${commandNumber}`;
}

/**
 * Checks the length of a payload against its declaration and decodes the structure.
 *
 * @param length bytes of payload, all of which are in `buffer` from `at` on
 * @throws RequestError EINVAL when it is too short, or not as long as its count field says
 */
export function decodePart<F extends FieldTable>(
  what: string,
  { struct, tail }: Part<F>,
  buffer: Buffer,
  at: number,
  length: number,
): StructValue<F> {
  if (length < struct.size) {
    throw new RequestError(
      errno.EINVAL,
      `${what}: ${length} bytes of payload, at least ${struct.size} needed`,
    );
  }
  const value = struct.decode(buffer, at);
  if (typeof tail === 'object' && length - struct.size !== Number(value[tail.count])) {
    throw new RequestError(
      errno.EINVAL,
      `${what}: ${tail.count} is ${value[tail.count]}, but ${length - struct.size} bytes of data follow`,
    );
  }
  return value;
}

/** What goes into the header of a message. */
export interface HeaderFields {
  readonly id: number;
  readonly command: number;
  /** Bytes of the whole message. */
  readonly size: number;
  readonly flags: number;
  readonly error: number;
}

/** Writes a header at `at`. */
export function writeHeader(
  buffer: Buffer,
  at: number,
  id: number,
  cmd: number,
  size: number,
  flags: number,
  error: number,
): void {
  const o = s.header.offsets;
  buffer.writeUInt16LE(id, at + o.msg_id);
  buffer.writeUInt16LE(cmd, at + o.cmd);
  buffer.writeUInt32LE(size, at + o.msg_size);
  buffer.writeUInt32LE(flags, at + o.flags);
  buffer.writeUInt32LE(error, at + o.error_no);
}

/** Reads a header at `at`; the 16 bytes must be there. */
export function readHeader(buffer: Buffer, at: number): HeaderFields {
  const o = s.header.offsets;
  return {
    id: buffer.readUInt16LE(at + o.msg_id),
    command: buffer.readUInt16LE(at + o.cmd),
    size: buffer.readUInt32LE(at + o.msg_size),
    flags: buffer.readUInt32LE(at + o.flags),
    error: buffer.readUInt32LE(at + o.error_no),
  };
}

function encode<F extends FieldTable>(
  id: number,
  cmd: number,
  flags: number,
  { struct }: Part<F>,
  value: StructValue<F>,
  tail: Uint8Array | undefined,
): Buffer {
  const size = s.header.size + struct.size + (tail?.length ?? 0);
  const buffer = Buffer.alloc(size);
  writeHeader(buffer, 0, id, cmd, size, flags, 0);
  const end = struct.encode(value, buffer, s.header.size);
  if (tail !== undefined) buffer.set(tail, end);
  return buffer;
}

/** A whole request as bytes. `flags`: `headerFlags.noReply` or 0. */
export function encodeRequest<Q extends FieldTable>(
  spec: MessageSpec<Q, FieldTable>,
  id: number,
  value: StructValue<Q>,
  tail?: Uint8Array,
  flags = 0,
): Buffer {
  return encode(id, spec.command, headerFlags.typeCommand | flags, spec.request, value, tail);
}

/** A whole successful reply as bytes. */
export function encodeReply<R extends FieldTable>(
  spec: MessageSpec<never, R> | MessageSpec<FieldTable, R>,
  id: number,
  value: StructValue<R>,
  tail?: Uint8Array,
): Buffer {
  return encode(id, spec.command, headerFlags.typeReply, spec.reply, value, tail);
}

/** An error reply: the header alone, or with `tail` where both sides have agreed on one. */
export function encodeError(id: number, cmd: number, error: number, tail?: Uint8Array): Buffer {
  const size = s.header.size + (tail?.length ?? 0);
  const buffer = Buffer.alloc(size);
  writeHeader(buffer, 0, id, cmd, size, headerFlags.typeReply | headerFlags.error, error);
  if (tail !== undefined) buffer.set(tail, s.header.size);
  return buffer;
}
