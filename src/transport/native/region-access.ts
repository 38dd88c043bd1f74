import { CompanionError, errno, RequestError } from '../../errors.ts';
import type { LimitedLog } from '../../limited-log.ts';
import type { Logger } from '../../log.ts';
import { closeFd } from '../../posix/index.ts';
import { command, headerFlags, maxMultiWrites, pciRegion } from '../../vfio-user/constants.ts';
import type { FramedSocket } from '../../vfio-user/framed-socket.ts';
import { decodePart, messages, writeHeader } from '../../vfio-user/messages.ts';
import { readU64 } from '../../vfio-user/struct.ts';
import {
  header,
  regionAccess,
  regionWriteMulti,
  singleWrite,
  singleWriteData,
} from '../../vfio-user/structs.ts';
import type { ServedDevice } from '../served-device.ts';
import type { Replies } from './replies.ts';

const accessEnd = header.size + regionAccess.size;
const { offset: accessOffset, region: accessRegion, count: accessCount } = regionAccess.offsets;
/** Bytes of one write of REGION_WRITE_MULTI, used or not. */
const multiStride = singleWrite.size + singleWriteData;

export interface RegionAccessOptions {
  readonly device: ServedDevice;
  readonly socket: FramedSocket;
  readonly replies: Replies;
  readonly log: LimitedLog;
  readonly logger: Logger;
  /** Most bytes in one access. */
  readonly largest: number;
  /** Where replies are made: `RegionAccess.outputSize(largest)` bytes, see `AddressCache` in src/posix/libc.ts. */
  readonly out: Buffer;
  /** Keeps a write for the end of the wait for DMA; `bytes` is what it holds on to. */
  readonly enqueue: (bytes: number, run: () => void) => void;
}

/**
 * REGION_READ, REGION_WRITE and REGION_WRITE_MULTI: what guests do all day, so nothing is allocated on the way. A read is
 * done, then answered; a write is checked, answered, then done (docs/decisions/0003-writes-are-answered-first.md).
 */
export class RegionAccess {
  readonly #device: ServedDevice;
  readonly #socket: FramedSocket;
  readonly #replies: Replies;
  readonly #log: LimitedLog;
  readonly #logger: Logger;
  readonly #largest: number;
  readonly #out: Buffer;
  readonly #enqueue: (bytes: number, run: () => void) => void;

  constructor(options: RegionAccessOptions) {
    this.#device = options.device;
    this.#socket = options.socket;
    this.#replies = options.replies;
    this.#log = options.log;
    this.#logger = options.logger;
    this.#largest = options.largest;
    this.#out = options.out;
    this.#enqueue = options.enqueue;
  }

  static outputSize(largest: number): number {
    return accessEnd + largest;
  }

  /** A count of 0 is answered by a header alone, as libvfio-user does. */
  read(id: number, flags: number, buffer: Buffer, at: number, length: number, fds: readonly number[]): void {
    const out = this.#out;
    const replies = this.#replies;
    replies.unanswered += 1;
    try {
      this.#check(buffer, at, length, fds, false);
      const count = buffer.readUInt32LE(at + header.size + accessCount);
      if (count > 0) {
        const region = buffer.readUInt32LE(at + header.size + accessRegion);
        const offset = readU64(buffer, at + header.size + accessOffset);
        this.#device.regionRead(region, offset, count, out, accessEnd);
      }
      if ((flags & headerFlags.noReply) !== 0) return;
      const size = count > 0 ? accessEnd + count : header.size;
      writeHeader(out, 0, id, command.REGION_READ, size, headerFlags.typeReply, 0);
      buffer.copy(out, header.size, at + header.size, at + accessEnd);
      this.#socket.send(out, size);
    } catch (error) {
      replies.failure(id, command.REGION_READ, flags, error);
    } finally {
      replies.unanswered -= 1;
    }
  }

  /** @param nested the device waits for DMA: of writes, only those to configuration space are done at once */
  write(
    id: number,
    flags: number,
    buffer: Buffer,
    at: number,
    length: number,
    fds: readonly number[],
    nested: boolean,
  ): void {
    const replies = this.#replies;
    let region: number;
    let offset: number;
    let count: number;
    replies.unanswered += 1;
    try {
      this.#check(buffer, at, length, fds, true);
      count = length - accessEnd;
      region = buffer.readUInt32LE(at + header.size + accessRegion);
      offset = readU64(buffer, at + header.size + accessOffset);
      if (count > 0) this.#device.checkRegionWrite(region, offset, count);
    } catch (error) {
      replies.failure(id, command.REGION_WRITE, flags, error);
      return;
    } finally {
      replies.unanswered -= 1;
    }
    if ((flags & headerFlags.noReply) === 0) {
      const out = this.#out;
      const size = count > 0 ? accessEnd : header.size;
      writeHeader(out, 0, id, command.REGION_WRITE, size, headerFlags.typeReply, 0);
      buffer.copy(out, header.size, at + header.size, at + accessEnd);
      this.#socket.send(out, size);
    }
    if (count > 0) this.#perform(region, offset, count, buffer, at + accessEnd, nested);
  }

  /** All writes are checked before one is done; one bad write refuses the message. */
  writeMulti(id: number, flags: number, payload: Buffer, nested: boolean): void {
    const cmd = command.REGION_WRITE_MULTI;
    const replies = this.#replies;
    let total: number;
    replies.unanswered += 1;
    try {
      total = this.#checkMulti(payload);
    } catch (error) {
      replies.failure(id, cmd, flags, error);
      return;
    } finally {
      replies.unanswered -= 1;
    }
    replies.success(id, cmd, flags, { value: { wr_cnt: total } });
    for (let at = regionWriteMulti.size; at < payload.length; at += multiStride) {
      const { offset, region, count } = singleWrite.decode(payload, at);
      if (count > 0) this.#perform(region, offset, count, payload, at + singleWrite.size, nested);
    }
  }

  /** Throws EINVAL unless the message is a whole access, with `data` for exactly its count. */
  #check(buffer: Buffer, at: number, length: number, fds: readonly number[], data: boolean): void {
    if (fds.length > 0) {
      for (const fd of fds) closeFd(fd);
      throw new RequestError(errno.EINVAL, `region access with ${fds.length} unexpected descriptors`);
    }
    if (length < accessEnd) {
      throw new RequestError(errno.EINVAL, `region access of ${length} bytes is too short`);
    }
    const count = buffer.readUInt32LE(at + header.size + accessCount);
    if (count > this.#largest) {
      throw new RequestError(errno.EINVAL, `region access of ${count} bytes, at most ${this.#largest}`);
    }
    if (data && length - accessEnd !== count) {
      throw new RequestError(
        errno.EINVAL,
        `region write of ${count} bytes with ${length - accessEnd} bytes of data`,
      );
    }
  }

  /** Returns the number of writes. */
  #checkMulti(payload: Buffer): number {
    const request = messages.REGION_WRITE_MULTI.request;
    const { wr_cnt: total } = decodePart('REGION_WRITE_MULTI', request, payload, 0, payload.length);
    const length = payload.length - regionWriteMulti.size;
    if (total > maxMultiWrites || length !== total * multiStride) {
      throw new RequestError(errno.EINVAL, `REGION_WRITE_MULTI: ${total} writes in ${length} bytes`);
    }
    for (let at = regionWriteMulti.size; at < payload.length; at += multiStride) {
      const { offset, region, count } = singleWrite.decode(payload, at);
      if (count > singleWriteData) {
        throw new RequestError(errno.EINVAL, `REGION_WRITE_MULTI: a write of ${count} bytes`);
      }
      if (count > 0) this.#device.checkRegionWrite(region, offset, count);
    }
    return total;
  }

  /** Does a write that has been answered, or keeps a copy of it until the device waits no more. */
  #perform(region: number, offset: number, count: number, source: Buffer, at: number, nested: boolean): void {
    if (!nested || region === pciRegion.config) {
      this.#write(region, offset, count, source, at);
      return;
    }
    const copy = Buffer.from(source.subarray(at, at + count));
    this.#enqueue(count, () => this.#write(region, offset, count, copy, 0));
  }

  /** The write itself, already answered: what goes wrong now can only be logged. */
  #write(region: number, offset: number, count: number, source: Buffer, at: number): void {
    try {
      this.#device.regionWrite(region, offset, count, source, at);
    } catch (error) {
      if (error instanceof CompanionError) {
        this.#log.warn(
          { region, offset, count, code: error.code },
          `a write failed after its answer: ${error.message}`,
        );
      } else this.#logger.error({ err: error, region, offset, count }, 'a write failed in the device');
    }
  }
}
