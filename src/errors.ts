/** Numeric errno values that travel in vfio-user replies (Linux asm-generic/errno*.h). */
export const errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENOSPC: 28,
  EPIPE: 32,
  ERANGE: 34,
  ENOSYS: 38,
  ENOMSG: 42,
  EPROTO: 71,
  EOVERFLOW: 75,
  EMSGSIZE: 90,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  ECONNRESET: 104,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
  ECANCELED: 125,
} as const;

/** Name of an errno ("EINVAL"), or its number when it is not one that we use. */
export function errnoName(value: number): string {
  for (const [name, code] of Object.entries(errno)) if (code === value) return name;
  return `errno ${value}`;
}

/** The way out where a socket or file is refused (EACCES). Sockets of ours have mode 0600. */
export const notOursHint = 'it is not for this user: run this as the one whose it is, or as root';

/** What an error carries besides its sentence. */
export interface ErrorDetails {
  /** What goes on the wire when this error answers a request; a `errno` value. */
  readonly errno?: number;
  /** The way out, one sentence for the person who reads it. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

/**
 * Base of every error that this project raises on purpose. `code` is stable and greppable
 * (`VC_DMA_FAULT`), the message names the thing at fault, `hint` the way out.
 */
export class CompanionError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly hint: string | undefined;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.errno = details.errno ?? errno.EIO;
    this.hint = details.hint;
  }
}

/** A request that its sender got wrong: bad argument, length, index, order. Answered with `errno`. */
export class RequestError extends CompanionError {
  constructor(errnoValue: number, message: string, details: Omit<ErrorDetails, 'errno'> = {}) {
    super('VC_BAD_REQUEST', message, { ...details, errno: errnoValue });
  }
}

/**
 * Saved state that can't be loaded here: another model, version or geometry, or bytes that are no intact
 * state. The message names what differs. The device is in ERROR then, until it is reset.
 */
export class StateRefused extends CompanionError {
  constructor(message: string, details: ErrorDetails = {}) {
    super('VC_STATE_REFUSED', message, { errno: errno.EINVAL, ...details });
  }
}

/** What an error says, whatever it was that was thrown. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The errno that answers a request which failed with `error`: its own, or EIO for a foreign error. */
export function errnoOf(error: unknown): number {
  return error instanceof CompanionError ? error.errno : errno.EIO;
}
