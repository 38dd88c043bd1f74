import { CompanionError, errno } from '../errors.ts';

/** A network port that can't be made or used as asked. */
export class NetError extends CompanionError {
  constructor(message: string, hint?: string, cause?: unknown) {
    super('VC_NET', message, {
      errno: errno.EINVAL,
      ...(hint === undefined ? {} : { hint }),
      ...(cause === undefined ? {} : { cause }),
    });
  }
}

/** A peer that broke the rules of its protocol; the connection to it ends. */
export class NetProtocolError extends CompanionError {
  constructor(message: string) {
    super('VC_NET_PROTOCOL', message, { errno: errno.EPROTO });
  }
}
