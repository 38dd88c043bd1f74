import { ready } from '../../loop/types.ts';
import {
  closeFd,
  connectUnix,
  PosixError,
  pollFd,
  rawArea,
  recvBytes,
  sendMessage,
} from '../../posix/index.ts';
import { NetError, noSwitch } from '../errors.ts';
import { RECORD_HEADER } from '../frame-queue.ts';
import {
  decodeNotice,
  encodeControl,
  MAX_DATAGRAM,
  type Notice,
  recordEnd,
  recordKinds,
} from './protocol.ts';

const ANSWER_MS = 5000;

/**
 * Asks a switch of another process: `{op: 'stats'}`, or `{op: 'setLink', port, up}` with a port's identity,
 * name or number. Waits for the answer.
 *
 * @throws NetError when there is no switch, no answer, or it refuses
 */
export function askSwitch(
  path: string,
  request: { op: 'stats' } | { op: 'setLink'; port: string; up: boolean },
): Notice {
  const body = encodeControl(request);
  const header = Buffer.alloc(RECORD_HEADER);
  header.writeUInt32BE(recordKinds.control * 2 ** 24 + body.length);
  let fd: number;
  try {
    fd = connectUnix(path, 'seqpacket');
  } catch (error) {
    throw noSwitch(path, error);
  }
  try {
    sendMessage(fd, header, header.length, body, undefined, true);
    if (pollFd(fd, ready.read, ANSWER_MS) === 0) throw new NetError(`the switch at ${path} does not answer`);
    const { bytes } = rawArea(MAX_DATAGRAM);
    const length = recvBytes(fd, bytes, 0, bytes.length, true);
    if (length <= 0) throw refused(path);
    const notice = decodeNotice(bytes.subarray(RECORD_HEADER, recordEnd(bytes, 0, length)));
    if (notice.op === 'done' && !notice.ok) throw new NetError(notice.reason ?? 'refused');
    return notice;
  } catch (error) {
    // It hung up before it had read the question.
    throw error instanceof PosixError ? refused(path, error) : error;
  } finally {
    closeFd(fd);
  }
}

function refused(path: string, cause?: unknown): NetError {
  return new NetError(
    `the switch at ${path} refuses to talk`,
    'has it as many connections as it takes (switch --max-ports)?',
    cause,
  );
}
