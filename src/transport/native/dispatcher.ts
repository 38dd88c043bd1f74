import { errno, RequestError } from '../../errors.ts';
import type { LimitedLog } from '../../limited-log.ts';
import type { Logger } from '../../log.ts';
import { closeFd } from '../../posix/index.ts';
import {
  type Capabilities,
  formatCapabilities,
  type OfferedCapabilities,
} from '../../vfio-user/capabilities.ts';
import { command, headerFlags, protocolVersion } from '../../vfio-user/constants.ts';
import { type FramedSocket, frame } from '../../vfio-user/framed-socket.ts';
import { commandName } from '../../vfio-user/messages.ts';
import { header } from '../../vfio-user/structs.ts';
import { DmaChannel } from '../dma/channel.ts';
import type { DmaChannelOptions, DmaPort } from '../dma/port.ts';
import type { ServedDevice } from '../served-device.ts';
import { deviceHandlers } from './device-handlers.ts';
import type { Handler, HandlerContext, Role, ServeCompanion } from './handler.ts';
import { migrationHandlers } from './migration-handlers.ts';
import { type Announcement, readAnnouncement } from './negotiation.ts';
import { RegionAccess } from './region-access.ts';
import { Replies } from './replies.ts';

const handlers = new Map<number, Handler>();
for (const entry of [...deviceHandlers, ...migrationHandlers]) handlers.set(entry.spec.command, entry);

/** What a dispatcher needs of the connection that it serves. */
export interface DispatcherOptions {
  readonly device: ServedDevice;
  readonly role: Role;
  readonly offer: OfferedCapabilities;
  readonly companion: ServeCompanion | undefined;
  readonly socket: FramedSocket;
  readonly log: LimitedLog;
  readonly logger: Logger;
  readonly dmaPort: DmaPort;
  readonly dma: Pick<DmaChannelOptions, 'window' | 'batchWindow' | 'timeoutMs'>;
  /** Keeps a request for the end of the wait for DMA; `bytes` is what it holds on to. */
  readonly enqueue: (bytes: number, run: () => void) => void;
  readonly negotiated: () => void;
  /** See `ClientLink`. */
  readonly settle: () => void;
  /** Whether the device waits for DMA. */
  readonly waiting: () => boolean;
  readonly drop: (why: string) => void;
}

/** Takes the messages of one connection, one by one, to who serves them: VERSION first, then everything else. */
export class Dispatcher implements HandlerContext {
  readonly device: ServedDevice;
  readonly role: Role;
  readonly offer: OfferedCapabilities;
  readonly companion: ServeCompanion | undefined;
  readonly sendReplies: () => void;
  /** The last message served was a read, after which nothing is left to do. */
  answeredRead = false;
  /** The last message served was one of those that a client sends many of before it waits for the last reply. */
  answeredMap = false;
  readonly #options: DispatcherOptions;
  readonly #socket: FramedSocket;
  readonly #replies: Replies;
  readonly #regions: RegionAccess;
  readonly #dmaOut: Buffer;
  #peer: Capabilities | undefined;
  #dma: DmaChannel | undefined;
  #scratch: Buffer | undefined;

  constructor(options: DispatcherOptions) {
    const { device, role, offer, companion, socket, log, logger, enqueue } = options;
    this.#options = options;
    this.device = device;
    this.role = role;
    this.offer = offer;
    this.companion = companion;
    this.sendReplies = () => socket.sendKept();
    this.#socket = socket;
    this.#replies = new Replies(socket, log, logger);
    // One array for replies to accesses and the DMA channel's output, see `AddressCache` in src/posix/libc.ts.
    const largest = offer.maxDataXferSize;
    const outputSize = RegionAccess.outputSize(largest);
    const slab = Buffer.allocUnsafeSlow(outputSize + DmaChannel.outputSize);
    const out = slab.subarray(0, outputSize);
    this.#dmaOut = slab.subarray(outputSize);
    this.#regions = new RegionAccess({
      device,
      socket,
      replies: this.#replies,
      log,
      logger,
      largest,
      out,
      enqueue,
    });
  }

  get negotiated(): boolean {
    return this.#peer !== undefined;
  }

  /** Whether the device waits for DMA no longer, but has to unwind before it is reset: what follows is for the device after that. */
  get unwinding(): boolean {
    return this.#dma?.cancelled === true;
  }

  /** Whether the client waits for an answer that is being computed. */
  get unanswered(): boolean {
    return this.#replies.unanswered > 0;
  }

  /** What the client announced; only asked for once it has. */
  get peer(): Capabilities {
    if (this.#peer === undefined) throw new RequestError(errno.EINVAL, 'VERSION has not been negotiated');
    return this.#peer;
  }

  scratch(size: number): Buffer {
    if (this.#scratch === undefined || this.#scratch.length < size) {
      this.#scratch = Buffer.allocUnsafeSlow(Math.max(size, this.offer.maxDataXferSize));
    }
    return this.#scratch;
  }

  /** What follows the header of the message that is being served: only asked for before anything else is served. */
  get #payload(): Buffer {
    const { buffer, at, length } = this.#socket;
    return buffer.subarray(at + header.size, at + length);
  }

  /**
   * Serves the next message that has been received whole.
   *
   * @param nested the device waits for DMA: what must not overtake its work is kept for later
   * @returns false when there is none
   */
  serveNext(nested: boolean): boolean {
    const socket = this.#socket;
    const found = socket.next();
    if (found === frame.none) return false;
    const { buffer, at, length } = socket;
    const id = buffer.readUInt16LE(at + header.offsets.msg_id);
    const cmd = buffer.readUInt16LE(at + header.offsets.cmd);
    const flags = buffer.readUInt32LE(at + header.offsets.flags);
    if (found !== frame.message) {
      this.#badFrame(found, id, cmd, buffer.readUInt32LE(at + header.offsets.msg_size), flags);
      return true;
    }
    const fds = socket.takeDescriptors();
    this.answeredRead = cmd === command.REGION_READ;
    this.answeredMap = cmd === command.DMA_MAP || cmd === command.DMA_UNMAP;
    const type = flags & headerFlags.typeMask;
    if (type === headerFlags.typeReply) this.#onReply(id, cmd, flags, fds);
    else if (type !== headerFlags.typeCommand) {
      this.#replies.refuse(id, cmd, flags, fds, `message type ${type}`);
    } else if (this.#peer === undefined) this.#negotiate(id, cmd, flags, fds);
    else if (this.role === 'device' && cmd === command.REGION_READ)
      this.#regions.read(id, flags, buffer, at, length, fds);
    else if (this.role === 'device' && cmd === command.REGION_WRITE) {
      this.#regions.write(id, flags, buffer, at, length, fds, nested);
    } else this.#request(id, cmd, flags, fds, nested);
    return true;
  }

  #badFrame(found: number, id: number, cmd: number, size: number, flags: number): void {
    const what = `${commandName(cmd)}: message size ${size}`;
    if ((flags & headerFlags.typeMask) !== headerFlags.typeReply) {
      this.#replies.failure(id, cmd, flags, new RequestError(errno.EINVAL, what));
    }
    if (found === frame.malformed) this.#options.drop(`${what} is less than a header`);
  }

  #onReply(id: number, cmd: number, flags: number, fds: readonly number[]): void {
    for (const fd of fds) closeFd(fd);
    const { buffer, at, length } = this.#socket;
    const error = buffer.readUInt32LE(at + header.offsets.error_no);
    const problem =
      this.#dma === undefined
        ? 'nothing was asked'
        : this.#dma.onReply(id, cmd, flags, error, buffer, at + header.size, length - header.size);
    if (problem !== undefined) this.#options.log.warn({ id, cmd }, `unexpected reply: ${problem}`);
  }

  #negotiate(id: number, cmd: number, flags: number, fds: readonly number[]): void {
    try {
      for (const fd of fds) closeFd(fd);
      this.#accept(id, flags, readAnnouncement(cmd, this.#payload, fds.length));
    } catch (error) {
      this.#replies.failure(id, cmd, flags, error);
      this.#options.drop('negotiation failed');
    }
  }

  #accept(id: number, flags: number, { minor, capabilities: peer }: Announcement): void {
    if (this.role === 'device') {
      const chunk = Math.min(peer.maxDataXferSize, this.offer.maxDataXferSize);
      // Only QEMU announces these; a client made of libvfio-user's sources must not be asked for 4 GiB.
      const probe = peer.proposed.has('pgsizes') && peer.proposed.has('max_dma_maps');
      const dma = new DmaChannel(this.#options.dmaPort, this.#dmaOut, { ...this.#options.dma, chunk, probe });
      this.#dma = dma;
      this.device.attach({
        dma,
        settle: this.#options.settle,
        unwind: (reset) => this.#unwind(dma, reset),
      });
    }
    this.#peer = peer;
    this.#replies.detailed = peer.companion && this.offer.companion;
    this.#options.negotiated();
    this.#options.logger.info({ minor, capabilities: [...peer.proposed] }, 'client connected');
    const data = formatCapabilities(this.offer, peer);
    const value = { major: protocolVersion.major, minor };
    this.#replies.success(id, command.VERSION, flags, { value, data });
  }

  #unwind(dma: DmaChannel, reset: () => void): boolean {
    if (!this.#options.waiting()) return false;
    dma.cancel();
    this.#options.enqueue(0, () => {
      dma.allow();
      reset();
    });
    return true;
  }

  /** Every other request. */
  #request(id: number, cmd: number, flags: number, fds: readonly number[], nested: boolean): void {
    if (this.role === 'device' && cmd === command.REGION_WRITE_MULTI && fds.length === 0) {
      this.#regions.writeMulti(id, flags, this.#payload, nested);
      return;
    }
    const entry = handlers.get(cmd);
    if (entry === undefined || !entry.roles.includes(this.role)) {
      this.#replies.refuse(id, cmd, flags, fds, `not a command of the ${this.role} socket`);
      return;
    }
    if (fds.length > entry.spec.requestFds) {
      this.#replies.refuse(
        id,
        cmd,
        flags,
        fds,
        `${fds.length} descriptors, at most ${entry.spec.requestFds}`,
      );
      return;
    }
    const payload = this.#payload;
    if (!nested || entry.nested) {
      this.#run(entry, id, flags, payload, fds);
      return;
    }
    const copy = Buffer.from(payload);
    const dma = cmd === command.DEVICE_RESET ? this.#dma : undefined;
    dma?.cancel();
    this.#options.enqueue(copy.length, () => {
      dma?.allow();
      this.#run(entry, id, flags, copy, fds);
    });
  }

  #run(entry: Handler, id: number, flags: number, payload: Buffer, fds: readonly number[]): void {
    this.#replies.unanswered += 1;
    try {
      this.#replies.success(id, entry.spec.command, flags, entry.run(this, payload, fds));
    } catch (error) {
      this.#replies.failure(id, entry.spec.command, flags, error);
    } finally {
      this.#replies.unanswered -= 1;
    }
  }
}
