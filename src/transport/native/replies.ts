import { CompanionError, errno, errnoOf, RequestError } from '../../errors.ts';
import type { LimitedLog } from '../../limited-log.ts';
import type { Logger } from '../../log.ts';
import { closeFd } from '../../posix/index.ts';
import { headerFlags } from '../../vfio-user/constants.ts';
import type { FramedSocket } from '../../vfio-user/framed-socket.ts';
import { commandName, messageOf, writeHeader } from '../../vfio-user/messages.ts';
import { header } from '../../vfio-user/structs.ts';
import { describeError } from './companion-error.ts';
import type { Reply } from './handler.ts';

/** Room for the header and the longest fixed structure of a reply. */
const headSize = 256;

/** Answers requests on one connection, and remembers how many are being computed. */
export class Replies {
  /** Requests on the stack whose client waits for an answer: meanwhile it answers nothing itself. */
  unanswered = 0;
  /** Errors carry `{code, message, hint}`: the client has negotiated that. */
  detailed = false;
  readonly #socket: FramedSocket;
  readonly #log: LimitedLog;
  readonly #logger: Logger;
  readonly #head = Buffer.alloc(headSize);

  constructor(socket: FramedSocket, log: LimitedLog, logger: Logger) {
    this.#socket = socket;
    this.#log = log;
    this.#logger = logger;
  }

  /** Answers with success, unless the client wants no reply. */
  success(id: number, cmd: number, flags: number, reply: Reply): void {
    if ((flags & headerFlags.noReply) !== 0) return;
    const spec = messageOf(cmd);
    if (spec === undefined) return;
    const end = spec.reply.struct.encode(reply.value, this.#head, header.size);
    writeHeader(this.#head, 0, id, cmd, end + (reply.data?.length ?? 0), headerFlags.typeReply, 0);
    this.#socket.send(this.#head, end, reply.data, reply.fds);
  }

  /** Logs what went wrong and answers its errno; what is no `CompanionError` is a bug of the device. */
  failure(id: number, cmd: number, flags: number, error: unknown): void {
    if (error instanceof CompanionError) {
      this.#log.warn({ id, errno: error.errno, code: error.code }, `request refused: ${error.message}`);
    } else this.#logger.error({ err: error, id }, `${commandName(cmd)} failed in the device`);
    if ((flags & headerFlags.noReply) !== 0) return;
    const detail = this.detailed ? describeError(error) : undefined;
    const size = header.size + (detail?.length ?? 0);
    writeHeader(this.#head, 0, id, cmd, size, headerFlags.typeReply | headerFlags.error, errnoOf(error));
    this.#socket.send(this.#head, header.size, detail);
  }

  /** Answers EINVAL to something that is not even looked into; closes its descriptors. */
  refuse(id: number, cmd: number, flags: number, fds: readonly number[], why: string): void {
    for (const fd of fds) closeFd(fd);
    this.failure(id, cmd, flags, new RequestError(errno.EINVAL, `${commandName(cmd)}: ${why}`));
  }
}
