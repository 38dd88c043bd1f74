import { command } from '../../vfio-user/constants.ts';
import { readHeader } from '../../vfio-user/messages.ts';
import { header, version } from '../../vfio-user/structs.ts';

/** A first message longer than this is no VERSION that anybody sends. */
export const maxGreeting = 64 * 1024;

/** The capabilities of a VERSION message: what follows major and minor. */
export function capabilitiesOf(message: Buffer): Buffer {
  return message.subarray(Math.min(message.length, header.size + version.size));
}

/**
 * VERSION as the library gets it: without `twin_socket`. With it, the library would send its own messages on a
 * second socket; messages of the device are made here, on the first one. Anything that is not understood is
 * left as it is, for the library to refuse.
 */
export function withoutTwinSocket(message: Buffer): Buffer {
  if (message.length < header.size || readHeader(message, 0).command !== command.VERSION) return message;
  let parsed: { capabilities?: Record<string, unknown> };
  try {
    parsed = JSON.parse(capabilitiesOf(message).toString('utf8').replace(/\0+$/, '')) as typeof parsed;
  } catch {
    return message;
  }
  const { capabilities } = parsed ?? {};
  if (typeof capabilities !== 'object' || capabilities === null || !('twin_socket' in capabilities))
    return message;
  delete capabilities.twin_socket;
  const result = Buffer.concat([
    message.subarray(0, header.size + version.size),
    Buffer.from(`${JSON.stringify(parsed)}\0`),
  ]);
  result.writeUInt32LE(result.length, header.offsets.msg_size);
  return result;
}
