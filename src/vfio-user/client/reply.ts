import { headerFlags } from '../constants.ts';
import type { HeaderFields, MessageSpec } from '../messages.ts';
import { ProtocolError, peerError } from './errors.ts';
import type { Operation } from './operation.ts';

function checkLength(spec: MessageSpec, payload: Buffer): boolean {
  const { struct, tail } = spec.reply;
  if (payload.length === 0 && struct.size > 0 && spec.replyOptional) return false;
  const fits = tail === 'ignored' ? payload.length === struct.size : payload.length >= struct.size;
  if (!fits) {
    throw new ProtocolError(
      `${spec.name}: a reply with ${payload.length} bytes of payload instead of ${struct.size}`,
    );
  }
  return true;
}

/**
 * Checks a reply against its request and turns it into the operation's result.
 *
 * @param head the reply's header; its id has been matched already
 * @throws PeerError when it is an error reply; ProtocolError when it does not fit
 */
export function finish<T>(
  { spec, parse }: Operation<T>,
  head: HeaderFields,
  payload: Buffer,
  fds: readonly number[],
): T {
  if (head.command !== spec.command) {
    throw new ProtocolError(`${spec.name}: a reply to command ${head.command}`);
  }
  if ((head.flags & headerFlags.error) !== 0) throw peerError(spec.name, head.error, payload);
  if (fds.length > spec.replyFds) {
    throw new ProtocolError(
      `${spec.name}: ${fds.length} descriptors in a reply that may have ${spec.replyFds}`,
    );
  }
  const complete = checkLength(spec, payload);
  const { struct, tail } = spec.reply;
  if (!complete) return parse({ value: {}, data: payload, fds, complete });
  const value = struct.decode(payload, 0);
  const data = payload.subarray(struct.size);
  if (typeof tail === 'object' && Number(value[tail.count]) !== data.length) {
    throw new ProtocolError(
      `${spec.name}: ${tail.count} is ${value[tail.count]}, but ${data.length} bytes follow`,
    );
  }
  return parse({ value, data, fds, complete });
}
