import { NetProtocolError } from '../errors.ts';
import { MAX_FRAME, parseMac } from '../ethernet.ts';
import { RECORD_HEADER } from '../frame-queue.ts';

/**
 * The switch's socket: SOCK_SEQPACKET, each datagram one or more records (frame-queue.ts), so that a burst of
 * frames costs one system call. The top byte of a record's word says what it holds.
 */
export const recordKinds = {
  frame: 0,
  /** From a parking port: a frame that it had received and its device has not taken. Goes back in front. */
  returned: 1,
  /** JSON, one message of those below. */
  control: 2,
} as const;

export const PROTOCOL_VERSION = 1;
/** Longest datagram; what a sender puts into one stays below the default socket buffer. */
export const MAX_DATAGRAM = 128 * 1024;
export const MAX_CONTROL = 2048;
/** Characters of an identity or a name. */
export const MAX_NAME = 128;

/** What a port is to the switch. `parked`: frames for it are kept; `standby`: it takes no part. */
export const portStates = ['active', 'parked', 'standby'] as const;
export type PortState = (typeof portStates)[number];

/** From a port, or from a tool that is no port (`setLink`, `stats`). */
export type Request =
  /**
   * First message of a port. Two ports of the same `identity` are the same NIC in two places: the second one
   * is in stand-by until it takes over. `name` is for people.
   */
  | { op: 'hello'; version: number; identity?: string; name?: string }
  | { op: 'park' }
  /** All `returned` records have been sent. */
  | { op: 'returned' }
  | { op: 'activate' }
  | { op: 'standby' }
  /** This MAC lives here now; takes over from a parked port which it belonged to, of the same identity or none. */
  | { op: 'announce'; mac: string }
  /** The cable of a port by its identity, name or number, and of all others of its identity, now and later. */
  | { op: 'setLink'; port: string; up: boolean }
  | { op: 'stats' };

/** From the switch. */
export type Notice =
  | { op: 'welcome'; port: number; state: PortState; link: boolean }
  /** No further frame comes before the port is active again. */
  | { op: 'parked' }
  | { op: 'state'; state: PortState }
  | { op: 'link'; up: boolean }
  | { op: 'done'; ok: boolean; reason?: string }
  | { op: 'stats'; stats: unknown };

type Fields = Record<string, 'string' | 'number' | 'boolean' | 'string?'>;

const requestFields: Record<Request['op'], Fields> = {
  hello: { version: 'number', identity: 'string?', name: 'string?' },
  park: {},
  returned: {},
  activate: {},
  standby: {},
  announce: { mac: 'string' },
  setLink: { port: 'string', up: 'boolean' },
  stats: {},
};

const noticeFields: Record<Notice['op'], Fields> = {
  welcome: { port: 'number', state: 'string', link: 'boolean' },
  parked: {},
  state: { state: 'string' },
  link: { up: 'boolean' },
  done: { ok: 'boolean', reason: 'string?' },
  stats: {},
};

export function encodeControl(message: Request | Notice): Buffer {
  return Buffer.from(JSON.stringify(message));
}

function decode(bytes: Uint8Array, table: Record<string, Fields>): Record<string, unknown> {
  let message: unknown;
  try {
    message = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    throw new NetProtocolError('control message is no JSON');
  }
  if (typeof message !== 'object' || message === null)
    throw new NetProtocolError('control message is no object');
  const given = message as Record<string, unknown>;
  const op = given.op;
  const fields = typeof op === 'string' && Object.hasOwn(table, op) ? table[op] : undefined;
  if (fields === undefined) throw new NetProtocolError('unknown control message');
  for (const [key, type] of Object.entries(fields)) {
    const value = given[key];
    if (type === 'string?' && value === undefined) continue;
    if (typeof value !== type.replace('?', '')) throw new NetProtocolError(`${op}: ${key} is not a ${type}`);
    if (typeof value === 'string' && table === requestFields && (value === '' || value.length > MAX_NAME))
      throw new NetProtocolError(`${op}: ${key} has to have 1 to ${MAX_NAME} characters`);
  }
  return given;
}

/** Checks what a peer of the switch sent. @throws NetProtocolError */
export function decodeRequest(bytes: Uint8Array): Request {
  if (bytes.length > MAX_CONTROL) throw new NetProtocolError('control message too long');
  const request = decode(bytes, requestFields) as unknown as Request;
  if (request.op === 'announce') {
    try {
      parseMac(request.mac);
    } catch {
      throw new NetProtocolError('announce: no MAC address');
    }
  }
  return request;
}

/** Checks what the switch sent. @throws NetProtocolError */
export function decodeNotice(bytes: Uint8Array): Notice {
  const notice = decode(bytes, noticeFields) as unknown as Notice;
  if ((notice.op === 'welcome' || notice.op === 'state') && !portStates.includes(notice.state))
    throw new NetProtocolError('unknown port state');
  return notice;
}

/**
 * End of the record at `at` of a datagram that ends at `end`.
 *
 * @throws NetProtocolError when it is cut off, longer than any frame, or of no known kind
 */
export function recordEnd(bytes: Buffer, at: number, end: number): number {
  if (end - at < RECORD_HEADER) throw new NetProtocolError('datagram ends within a record header');
  const word = bytes.readUInt32BE(at);
  const length = word & 0xffffff;
  if (length > MAX_FRAME) throw new NetProtocolError(`record of ${length} bytes, longer than any frame`);
  if (word >>> 24 > recordKinds.control) throw new NetProtocolError(`record of unknown kind ${word >>> 24}`);
  const next = at + RECORD_HEADER + length;
  if (next > end) throw new NetProtocolError('record goes beyond its datagram');
  return next;
}
