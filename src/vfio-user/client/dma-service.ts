import { CompanionError, errno, errnoOf, RequestError } from '../../errors.ts';
import type { OfferedCapabilities } from '../capabilities.ts';
import { command, headerFlags } from '../constants.ts';
import { encodeError, encodeReply, type HeaderFields, messages } from '../messages.ts';
import { readU64 } from '../struct.ts';
import { dmaAccess } from '../structs.ts';
import type { ClientMemory } from './memory.ts';

/** A DMA message of the server. */
export interface DmaAccess {
  readonly write: boolean;
  readonly iova: number;
  readonly count: number;
  /** The server waits for a reply. */
  readonly answered: boolean;
}

/** Who is asked. */
export interface DmaService {
  readonly offer: Pick<OfferedCapabilities, 'maxDataXferSize'>;
  readonly memory: ClientMemory;
  /** Every access before it is served; may throw a `CompanionError` to refuse it. */
  readonly onDma: ((access: DmaAccess) => void) | undefined;
}

/**
 * Does what a command of the server asks for.
 *
 * @returns the reply; undefined when none is wanted
 */
export function serveDma(
  head: HeaderFields,
  payload: Buffer,
  fds: number,
  service: DmaService,
): Buffer | undefined {
  try {
    if (fds > 0) throw new RequestError(errno.EINVAL, 'descriptors with a DMA message');
    const reply = access(head, payload, service);
    return (head.flags & headerFlags.noReply) === 0 ? reply : undefined;
  } catch (error) {
    if (!(error instanceof CompanionError)) throw error;
    // A refusal is told in any case, as QEMU does.
    return encodeError(head.id, head.command, errnoOf(error));
  }
}

function access(head: HeaderFields, payload: Buffer, service: DmaService): Buffer {
  const { memory, offer } = service;
  const write = head.command === command.DMA_WRITE;
  if (!write && head.command !== command.DMA_READ)
    throw new RequestError(errno.ENOSYS, `command ${head.command}`);
  if (payload.length < dmaAccess.size) throw new RequestError(errno.EINVAL, 'a DMA message that is cut off');
  const addr = readU64(payload, dmaAccess.offsets.addr);
  const count = readU64(payload, dmaAccess.offsets.count);
  if (count > offer.maxDataXferSize) throw new RequestError(errno.E2BIG, `a DMA message of ${count} bytes`);
  service.onDma?.({ write, iova: addr, count, answered: (head.flags & headerFlags.noReply) === 0 });
  if (write) {
    if (payload.length !== dmaAccess.size + count)
      throw new RequestError(errno.EINVAL, 'wrong length of data');
    memory.write(addr, payload.subarray(dmaAccess.size));
    return encodeReply(messages.DMA_WRITE, head.id, { addr, count });
  }
  const data = Buffer.alloc(count);
  memory.read(addr, data);
  return encodeReply(messages.DMA_READ, head.id, { addr, count }, data);
}
