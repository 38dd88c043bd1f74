import { Packr } from 'msgpackr';
import { CompanionError, reasonOf, StateRefused } from '../../errors.ts';
import { checkMsgpack, plainMsgpack, unpackPlain } from '../../msgpack.ts';
import { limits } from './format.ts';
import { quoted } from './header.ts';

const packr = new Packr(plainMsgpack);

/**
 * Packs a value for the stream: null, booleans, numbers, bigints of 64 bits, strings, byte arrays, arrays
 * and objects of these. Throws `VC_STATE_UNSAVABLE` for anything else and for what no reader would take.
 *
 * @param where names the section in the message
 */
export function packValue(value: unknown, where: string): Buffer {
  let bytes: Buffer;
  try {
    bytes = packr.pack(value);
    checkMsgpack(bytes);
  } catch (error) {
    throw new CompanionError('VC_STATE_UNSAVABLE', `section "${where}" can't be saved: ${reasonOf(error)}`, {
      cause: error,
      hint: 'Save plain objects, arrays, numbers, strings and byte arrays.',
    });
  }
  if (bytes.length > limits.payload) {
    throw new CompanionError(
      'VC_STATE_UNSAVABLE',
      `section "${where}" has a value of ${bytes.length} bytes; at most ${limits.payload} fit in a chunk`,
      { hint: 'Save memory as bulk records, and long lists as several records.' },
    );
  }
  return bytes;
}

/** Unpacks what `packValue` made; hostile bytes are refused (`StateRefused`) before anything is built of them. */
export function unpackValue(bytes: Uint8Array, where: string): unknown {
  try {
    return unpackPlain(bytes);
  } catch (error) {
    throw new StateRefused(`section ${quoted(where)} is no readable value: ${reasonOf(error)}`, {
      cause: error,
    });
  }
}
