import { CompanionError, reasonOf } from '../../errors.ts';
import { packPlain } from '../../msgpack.ts';

/**
 * What follows the header of an error reply when `vfio_companion` was negotiated: a msgpack map
 * `{code, message, hint}`. The specification wants a header alone, and every other client gets that.
 */
export function describeError(error: unknown): Buffer {
  if (error instanceof CompanionError) {
    const { code, message, hint } = error;
    return packPlain(hint === undefined ? { code, message } : { code, message, hint });
  }
  const message = reasonOf(error);
  return packPlain({ code: 'VC_DEVICE_FAILED', message: `the device failed: ${message}` });
}
