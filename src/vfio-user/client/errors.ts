import { CompanionError, errno, errnoName, notOursHint } from '../../errors.ts';
import { unpackPlain } from '../../msgpack.ts';
import { command as vfioUserCommand } from '../constants.ts';
import { commandName } from '../messages.ts';

/** What a server says of an error, where it has negotiated `vfio_companion`. */
interface PeerErrorDetail {
  readonly code?: string | undefined;
  readonly message?: string | undefined;
  readonly hint?: string | undefined;
}

/** The server answered a request with an error. `code`, message and hint are the server's where it sends them. */
export class PeerError extends CompanionError {
  /** Name of the command that was refused. */
  readonly command: string;

  constructor(command: string, errnoValue: number, detail: PeerErrorDetail = {}) {
    const taken = command === commandName(vfioUserCommand.VERSION) && errnoValue === errno.EBUSY;
    const why = taken ? 'it serves another client already' : errnoName(errnoValue);
    const message = detail.message ?? `the server refused ${command}: ${why}`;
    super(detail.code ?? 'VC_PEER_REFUSED', message, { errno: errnoValue, hint: detail.hint });
    this.command = command;
  }
}

/** The server broke the protocol: a reply that does not fit its request. */
export class ProtocolError extends CompanionError {
  constructor(message: string) {
    super('VC_PROTOCOL', message, { errno: errno.EPROTO });
  }
}

/** The connection ended, or no reply came in time. */
export class ConnectionError extends CompanionError {
  constructor(errnoValue: number, message: string, cause?: unknown, hint?: string) {
    const refused = cause instanceof Error && 'code' in cause && cause.code === 'EACCES';
    const wayOut = refused ? notOursHint : hint;
    super('VC_CONNECTION', message, { errno: errnoValue, hint: wayOut, cause });
  }
}

function text(from: Record<string, unknown>, key: string): string | undefined {
  const value = from[key];
  return typeof value === 'string' ? value : undefined;
}

/**
 * The error of an error reply.
 *
 * @param payload what follows the header: empty, or with `vfio_companion` a msgpack map {code, message, hint}
 */
export function peerError(command: string, errnoValue: number, payload: Buffer): PeerError {
  const value = errnoValue === 0 ? errno.EIO : errnoValue;
  if (payload.length === 0) return new PeerError(command, value);
  let decoded: unknown;
  try {
    decoded = unpackPlain(payload);
  } catch {
    return new PeerError(command, value);
  }
  if (typeof decoded !== 'object' || decoded === null) return new PeerError(command, value);
  const from = decoded as Record<string, unknown>;
  return new PeerError(command, value, {
    code: text(from, 'code'),
    message: text(from, 'message'),
    hint: text(from, 'hint'),
  });
}
