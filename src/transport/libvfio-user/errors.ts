import { CompanionError, errno, errnoName } from '../../errors.ts';

/** The libvfio-user library is missing, or refused something that a server can't be without. */
export class LibvfioUserError extends CompanionError {
  constructor(message: string, details: { errno?: number; hint?: string } = {}) {
    super('VC_LIBVFIO_USER', message, { errno: errno.EIO, ...details });
  }
}

/** The error for a call of the library that returned -1 and left `value` in errno. */
export function callFailed(call: string, value: number, hint?: string): LibvfioUserError {
  const details = hint === undefined ? { errno: value } : { errno: value, hint };
  return new LibvfioUserError(`libvfio-user: ${call} failed: ${errnoName(value)}`, details);
}
