import { constants } from 'node:os';
import { CompanionError, errno } from '../errors.ts';
import { PosixError } from '../posix/index.ts';

/** A network port that can't be made or used as asked. */
export class NetError extends CompanionError {
  constructor(message: string, hint?: string, cause?: unknown) {
    super('VC_NET', message, { errno: errno.EINVAL, hint, cause });
  }
}

/** What is said to be a network port can't be read. */
export class NetSpecError extends CompanionError {
  constructor(message: string, hint: string) {
    super('VC_NET_SPEC', message, { errno: errno.EINVAL, hint });
  }
}

const nobody: readonly number[] = [errno.ENOENT, constants.errno.ECONNREFUSED];

/** Why nobody could connect to the switch at `path`. */
export function noSwitch(path: string, cause: unknown): NetError {
  if (cause instanceof PosixError && !nobody.includes(cause.errno))
    return new NetError(
      `can't reach a switch: ${cause.message}`,
      cause.hint ?? "give the path of a switch's --socket",
      cause,
    );
  return new NetError(`no switch at ${path}`, 'start one: vfio-companion switch --socket PATH', cause);
}

/** A peer that broke the rules of its protocol; the connection to it ends. */
export class NetProtocolError extends CompanionError {
  constructor(message: string) {
    super('VC_NET_PROTOCOL', message, { errno: errno.EPROTO });
  }
}
