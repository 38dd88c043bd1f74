import { CompanionError, errno, errnoOf, RequestError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { type Reactor, ready, type Timer, type Watch } from '../../loop/types.ts';
import { closeFd, pollFd } from '../../posix/index.ts';
import {
  type Capabilities,
  formatCapabilities,
  type OfferedCapabilities,
  parseCapabilities,
} from '../../vfio-user/capabilities.ts';
import {
  command,
  headerFlags,
  maxMultiWrites,
  pciRegion,
  protocolVersion,
} from '../../vfio-user/constants.ts';
import { FramedSocket, frame } from '../../vfio-user/framed-socket.ts';
import { commandName, decodePart, messageOf, messages, writeHeader } from '../../vfio-user/messages.ts';
import { readU64 } from '../../vfio-user/struct.ts';
import {
  header,
  regionAccess,
  regionWriteMulti,
  singleWrite,
  singleWriteData,
  version,
} from '../../vfio-user/structs.ts';
import type { ServedDevice } from '../served-device.ts';
import { describeError } from './companion-error.ts';
import { deviceHandlers } from './device-handlers.ts';
import { DmaChannel, type DmaPort } from './dma-channel.ts';
import type { Handler, HandlerContext, Reply, Role } from './handler.ts';
import { LimitedLog } from './limited-log.ts';
import { migrationHandlers } from './migration-handlers.ts';

/** What a session is made of; see `NativeServerOptions` for the meaning of the limits. */
export interface SessionOptions {
  readonly fd: number;
  readonly reactor: Reactor;
  readonly device: ServedDevice;
  readonly role: Role;
  readonly log: Logger;
  readonly offer: OfferedCapabilities;
  readonly companion: ((request: unknown) => unknown) | undefined;
  readonly dmaWindow: number;
  readonly dmaBatchWindow: number;
  readonly dmaTimeoutMs: number;
  readonly outputTimeoutMs: number;
  readonly negotiationTimeoutMs: number;
  /** Called over and over while a DMA reply is waited for, instead of sleeping; for a client on this thread. */
  readonly whileWaiting: (() => void) | undefined;
  /** The session is over and nothing of it is on the stack. */
  readonly onEnd: (session: Session) => void;
}

/** Room in a message beside its data: headers, structures, the ranges of DMA_LOGGING_START. */
const messageOverhead = 4096;
/** Output that may wait for a client: one reply of the largest kind and some. */
const maxQueuedOutput = 40 * 1024 * 1024;
/** Requests that may wait for the end of a wait for DMA. */
const maxQueuedRequests = 65536;
const maxQueuedRequestBytes = 64 * 1024 * 1024;
/** Messages served in one turn of the loop, so that timers and other descriptors get theirs. */
const messagesPerTurn = 256;
/**
 * Tries to receive the next request right after a read was answered, before the loop is gone back to: a guest that
 * reads registers one after another asks again within some microseconds, about what a sleep and a wake-up cost.
 */
const lingerTries = 32;
/** Lingering in vain so often in a row ends it; it is tried again after that many reads, and later and later. */
const lingerFailures = 2;
const lingerRetry = { first: 32, last: 4096 } as const;
/** Waits for DMA inside one another: a config write served during a wait may need DMA itself. */
const maxWaitDepth = 8;
const nsPerMs = 1e6;

const accessEnd = header.size + regionAccess.size;
const { offset: accessOffset, region: accessRegion, count: accessCount } = regionAccess.offsets;

const handlers = new Map<number, Handler>();
for (const entry of [...deviceHandlers, ...migrationHandlers]) handlers.set(entry.spec.command, entry);

interface QueuedRequest {
  readonly bytes: number;
  run(): void;
}

/**
 * One client on one socket: negotiates, serves its requests in order, and carries the device's DMA by
 * message. Rules (see "Things about QEMU's client that bite" in docs): a region write is checked, answered,
 * then done; a wait for a DMA reply goes on serving what must not wait and queues the rest in order.
 */
export class Session implements DmaPort, HandlerContext {
  readonly device: ServedDevice;
  readonly role: Role;
  readonly offer: OfferedCapabilities;
  readonly companion: ((request: unknown) => unknown) | undefined;
  readonly #options: SessionOptions;
  readonly #socket: FramedSocket;
  readonly #log: LimitedLog;
  readonly #logger: Logger;
  readonly #watch: Watch;
  readonly #poller: Watch | undefined;
  readonly #outputTimer: Timer;
  readonly #negotiationTimer: Timer;
  /** Replies to region accesses are made here; one array with the DMA channel's output, see `AddressCache`. */
  readonly #out: Buffer;
  readonly #dmaOut: Buffer;
  readonly #head = Buffer.alloc(256);
  readonly #queue: QueuedRequest[] = [];
  #queuedBytes = 0;
  #peer: Capabilities | undefined;
  #dma: DmaChannel | undefined;
  #scratch: Buffer | undefined;
  /** Requests on the stack whose client waits for an answer. */
  #unanswered = 0;
  #waits = 0;
  #serving = false;
  #draining = false;
  #interest: number = ready.read;
  /** The last message served was a read, after which nothing is left to do. */
  #answeredRead = false;
  #lingerFailed = 0;
  #lingerPause = 0;
  #lingerRetry: number = lingerRetry.first;
  #ended = false;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.device = options.device;
    this.role = options.role;
    this.offer = options.offer;
    this.companion = options.companion;
    const { reactor } = options;
    const largest = options.offer.maxDataXferSize;
    this.#socket = new FramedSocket(options.fd, {
      maxMessage: largest + messageOverhead,
      maxQueued: maxQueuedOutput,
    });
    const slab = Buffer.allocUnsafeSlow(accessEnd + largest + DmaChannel.outputSize);
    this.#out = slab.subarray(0, accessEnd + largest);
    this.#dmaOut = slab.subarray(accessEnd + largest);
    this.#logger = options.log;
    this.#log = new LimitedLog(options.log, () => reactor.now());
    this.#outputTimer = reactor.timer(() => this.drop('it does not read what it is sent'));
    this.#negotiationTimer = reactor.timer(() => this.drop('it did not send VERSION in time'));
    this.#negotiationTimer.arm(options.negotiationTimeoutMs * nsPerMs);
    this.#watch = reactor.watch(options.fd, ready.read, (readiness) => this.#onReady(readiness));
    this.#poller = options.role === 'device' ? reactor.poller(() => this.#poll()) : undefined;
  }

  /** What the client announced; only asked for once it has. */
  get peer(): Capabilities {
    if (this.#peer === undefined) throw new RequestError(errno.EINVAL, 'VERSION has not been negotiated');
    return this.#peer;
  }

  get open(): boolean {
    return !this.#socket.closed;
  }

  get blocked(): boolean {
    return this.#socket.blocked;
  }

  get mayWait(): boolean {
    return this.open && this.#peer !== undefined && this.#unanswered === 0 && this.#waits < maxWaitDepth;
  }

  now(): number {
    return this.#options.reactor.now();
  }

  scratch(size: number): Buffer {
    if (this.#scratch === undefined || this.#scratch.length < size) {
      this.#scratch = Buffer.allocUnsafeSlow(Math.max(size, this.offer.maxDataXferSize));
    }
    return this.#scratch;
  }

  /** Whether the client is still there; notices a disconnect that has not been reported yet. */
  checkAlive(): boolean {
    if (this.open && !this.#serving && this.#waits === 0) this.#serve();
    this.#settle();
    return this.open;
  }

  /** Ends the session; `why` goes to the log. */
  drop(why: string): void {
    if (!this.open) return;
    this.#logger.warn({ why }, 'client dropped');
    this.#socket.close(why);
    this.#settle();
  }

  /** Ends the session quietly. */
  close(): void {
    this.#socket.close('the server is closing');
    this.#settle();
  }

  // ---- DmaPort

  send(bytes: Buffer, length: number, payload?: Uint8Array): void {
    this.#socket.send(bytes, length, payload);
  }

  beginWait(): void {
    this.#waits += 1;
    // What is being served stays where it is in the buffer while more arrives behind it.
    this.#socket.pin();
  }

  endWait(): void {
    this.#socket.unpin();
    this.#waits -= 1;
    if (this.#waits > 0 || this.#serving) return;
    // The wait began outside of any request (a timer, another socket): serve what was left once that is over.
    this.#options.reactor.defer(() => this.#resume());
  }

  serveWhileWaiting(timeoutMs: number): boolean {
    if (this.#receiveNested()) return true;
    const { whileWaiting } = this.#options;
    if (whileWaiting !== undefined) {
      whileWaiting();
      if (this.#receiveNested()) return true;
    }
    if (timeoutMs === 0 || !this.open) return false;
    const interest = this.blocked ? ready.read | ready.write : ready.read;
    const found = pollFd(this.#socket.fd, interest, whileWaiting === undefined ? timeoutMs : 1);
    if ((found & ready.write) !== 0) this.#socket.flush();
    return this.#receiveNested();
  }

  #receiveNested(): boolean {
    const received = this.#socket.receive();
    let served = false;
    while (this.open && this.#serveNext(true)) served = true;
    return received || served;
  }

  // ---- the loop

  #onReady(readiness: number): void {
    if ((readiness & ready.write) !== 0) this.#socket.flush();
    this.#resume();
  }

  #poll(): boolean {
    if (this.#waits > 0 || this.#serving || this.blocked || !this.open) return false;
    const found = this.#serve();
    this.#settle();
    return found;
  }

  #resume(): void {
    if (this.#waits === 0 && !this.#serving) this.#serve();
    this.#settle();
  }

  /** Serves what has arrived; returns whether there was anything. Stops while the client does not read. */
  #serve(): boolean {
    this.#serving = true;
    let left = messagesPerTurn;
    let found = false;
    try {
      this.#drain();
      do {
        while (this.open && !this.blocked && left > 0 && this.#serveNext(false)) {
          left -= 1;
          found = true;
          if (this.#queue.length > 0) this.#drain();
        }
      } while (left > 0 && !this.blocked && this.#receiveMore(found));
    } catch (error) {
      // Ours, not the device's, whose errors have been answered: this client can't be trusted to be in step.
      this.#logger.error({ err: error }, 'the server failed');
      this.#socket.close('the server failed');
    } finally {
      this.#serving = false;
    }
    if (left === 0 && this.open && this.#socket.pending) this.#options.reactor.defer(() => this.#resume());
    return found;
  }

  /** After anything that may have closed the socket or filled its output: adjusts what is waited for. */
  #settle(): void {
    if (!this.open) {
      if (this.#ended || this.#waits > 0 || this.#serving || this.#draining) return;
      this.#end();
      return;
    }
    const interest = this.blocked ? ready.write : ready.read;
    if (interest === this.#interest) return;
    this.#interest = interest;
    this.#watch.modify(interest);
    if (this.blocked) this.#outputTimer.arm(this.#options.outputTimeoutMs * nsPerMs);
    else this.#outputTimer.cancel();
  }

  /** After a write the loop comes first: the device may have left work to it. */
  #receiveMore(served: boolean): boolean {
    if (!served) return this.#socket.receive();
    if (!this.#answeredRead) return false;
    if (this.#lingerFailed >= lingerFailures) {
      this.#lingerPause -= 1;
      if (this.#lingerPause > 0) return false;
      this.#lingerFailed = lingerFailures - 1;
    }
    for (let tries = 0; tries < lingerTries && this.open; tries++) {
      if (!this.#socket.receive()) continue;
      this.#lingerFailed = 0;
      this.#lingerRetry = lingerRetry.first;
      return true;
    }
    this.#lingerFailed += 1;
    this.#lingerPause = this.#lingerRetry;
    this.#lingerRetry = Math.min(2 * this.#lingerRetry, lingerRetry.last);
    return false;
  }

  #end(): void {
    this.#ended = true;
    this.#watch.close();
    this.#poller?.close();
    this.#outputTimer.close();
    this.#negotiationTimer.close();
    this.#queue.length = 0;
    if (this.#peer !== undefined && this.role === 'device') {
      try {
        this.device.detach();
      } catch (error) {
        this.#logger.error({ err: error }, 'the device failed when its client left');
      }
    }
    this.#logger.info({ reason: this.#socket.reason }, 'client gone');
    this.#socket.release();
    this.#options.onEnd(this);
  }

  /** Runs what had to wait for the end of a wait, in order. */
  #drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
        this.#queuedBytes -= next.bytes;
        next.run();
      }
    } finally {
      this.#draining = false;
    }
  }

  #enqueue(bytes: number, run: () => void): void {
    if (this.#queue.length >= maxQueuedRequests || this.#queuedBytes + bytes > maxQueuedRequestBytes) {
      this.drop('it floods the device while that waits for a DMA reply');
      return;
    }
    this.#queuedBytes += bytes;
    this.#queue.push({ bytes, run });
  }

  // ---- messages

  #serveNext(nested: boolean): boolean {
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
    this.#answeredRead = cmd === command.REGION_READ;
    const type = flags & headerFlags.typeMask;
    if (type === headerFlags.typeReply) this.#onReply(id, cmd, flags, buffer, at, length, fds);
    else if (type !== headerFlags.typeCommand) {
      this.#refuseMessage(id, cmd, flags, fds, `message type ${type}`);
    } else if (this.#peer === undefined) this.#negotiate(id, cmd, flags, buffer, at, length, fds);
    else if (this.role === 'device' && cmd === command.REGION_READ)
      this.#read(id, flags, buffer, at, length, fds);
    else if (this.role === 'device' && cmd === command.REGION_WRITE) {
      this.#write(id, flags, buffer, at, length, fds, nested);
    } else this.#request(id, cmd, flags, buffer, at, length, fds, nested);
    return true;
  }

  #badFrame(found: number, id: number, cmd: number, size: number, flags: number): void {
    const what = `${commandName(cmd)}: message size ${size}`;
    if ((flags & headerFlags.typeMask) !== headerFlags.typeReply) {
      this.#answerError(id, cmd, flags, new RequestError(errno.EINVAL, what));
    }
    if (found === frame.malformed) this.drop(`${what} is less than a header`);
  }

  #onReply(
    id: number,
    cmd: number,
    flags: number,
    buffer: Buffer,
    at: number,
    length: number,
    fds: readonly number[],
  ): void {
    for (const fd of fds) closeFd(fd);
    const error = buffer.readUInt32LE(at + header.offsets.error_no);
    const problem =
      this.#dma === undefined
        ? 'nothing was asked'
        : this.#dma.onReply(id, cmd, flags, error, buffer, at + header.size, length - header.size);
    if (problem !== undefined) this.#log.warn({ id, cmd }, `unexpected reply: ${problem}`);
  }

  /** Answers EINVAL to something that is not even looked into. */
  #refuseMessage(id: number, cmd: number, flags: number, fds: readonly number[], why: string): void {
    for (const fd of fds) closeFd(fd);
    this.#answerError(id, cmd, flags, new RequestError(errno.EINVAL, `${commandName(cmd)}: ${why}`));
  }

  #answerError(id: number, cmd: number, flags: number, error: unknown): void {
    if (error instanceof CompanionError) {
      this.#log.warn({ id, errno: error.errno, code: error.code }, `request refused: ${error.message}`);
    } else this.#logger.error({ err: error, id }, `${commandName(cmd)} failed in the device`);
    if ((flags & headerFlags.noReply) !== 0) return;
    const detail = this.#peer?.companion && this.offer.companion ? describeError(error) : undefined;
    const size = header.size + (detail?.length ?? 0);
    writeHeader(this.#head, 0, id, cmd, size, headerFlags.typeReply | headerFlags.error, errnoOf(error));
    this.#socket.send(this.#head, header.size, detail);
  }

  #negotiate(
    id: number,
    cmd: number,
    flags: number,
    buffer: Buffer,
    at: number,
    length: number,
    fds: readonly number[],
  ): void {
    try {
      for (const fd of fds) closeFd(fd);
      if (cmd !== command.VERSION) throw new RequestError(errno.EINVAL, `${commandName(cmd)} before VERSION`);
      if (fds.length > 0)
        throw new RequestError(errno.EINVAL, `VERSION: ${fds.length} unexpected descriptors`);
      const value = decodePart(
        'VERSION',
        messages.VERSION.request,
        buffer,
        at + header.size,
        length - header.size,
      );
      if (value.major !== protocolVersion.major) {
        throw new RequestError(errno.EINVAL, `VERSION: major version ${value.major} is not supported`);
      }
      const peer = parseCapabilities(buffer.subarray(at + header.size + version.size, at + length));
      this.#accept(id, flags, Math.min(value.minor, protocolVersion.minor), peer);
    } catch (error) {
      this.#answerError(id, cmd, flags, error);
      this.drop('negotiation failed');
    }
  }

  #accept(id: number, flags: number, minor: number, peer: Capabilities): void {
    const { dmaWindow: window, dmaBatchWindow: batchWindow, dmaTimeoutMs: timeoutMs } = this.#options;
    if (this.role === 'device') {
      const chunk = Math.min(peer.maxDataXferSize, this.offer.maxDataXferSize);
      // Only QEMU announces these; a client made of libvfio-user's sources must not be asked for 4 GiB.
      const probe = peer.proposed.has('pgsizes') && peer.proposed.has('max_dma_maps');
      this.#dma = new DmaChannel(this, this.#dmaOut, { chunk, window, batchWindow, timeoutMs, probe });
      this.device.attach({ dma: this.#dma });
    }
    this.#peer = peer;
    this.#negotiationTimer.cancel();
    this.#logger.info({ minor, capabilities: [...peer.proposed] }, 'client connected');
    const data = formatCapabilities(this.offer, peer);
    this.#answer(id, command.VERSION, flags, { value: { major: protocolVersion.major, minor }, data });
  }

  #answer(id: number, cmd: number, flags: number, reply: Reply): void {
    if ((flags & headerFlags.noReply) !== 0) return;
    const spec = messageOf(cmd);
    if (spec === undefined) return;
    const end = spec.reply.struct.encode(reply.value, this.#head, header.size);
    writeHeader(this.#head, 0, id, cmd, end + (reply.data?.length ?? 0), headerFlags.typeReply, 0);
    this.#socket.send(this.#head, end, reply.data, reply.fds);
  }

  /** REGION_READ: nothing is allocated on the way. A count of 0 is answered by a header alone, as libvfio-user does. */
  #read(id: number, flags: number, buffer: Buffer, at: number, length: number, fds: readonly number[]): void {
    const out = this.#out;
    this.#unanswered += 1;
    try {
      this.#checkAccess(buffer, at, length, fds, 0);
      const count = buffer.readUInt32LE(at + header.size + accessCount);
      if (count > 0) {
        const region = buffer.readUInt32LE(at + header.size + accessRegion);
        const offset = readU64(buffer, at + header.size + accessOffset);
        this.device.regionRead(region, offset, count, out, accessEnd);
      }
      if ((flags & headerFlags.noReply) !== 0) return;
      const size = count > 0 ? accessEnd + count : header.size;
      writeHeader(out, 0, id, command.REGION_READ, size, headerFlags.typeReply, 0);
      buffer.copy(out, header.size, at + header.size, at + accessEnd);
      this.#socket.send(out, size);
    } catch (error) {
      this.#answerError(id, command.REGION_READ, flags, error);
    } finally {
      this.#unanswered -= 1;
    }
  }

  #checkAccess(buffer: Buffer, at: number, length: number, fds: readonly number[], data: number): void {
    if (fds.length > 0) {
      for (const fd of fds) closeFd(fd);
      throw new RequestError(errno.EINVAL, `region access with ${fds.length} unexpected descriptors`);
    }
    if (length < accessEnd)
      throw new RequestError(errno.EINVAL, `region access of ${length} bytes is too short`);
    const count = buffer.readUInt32LE(at + header.size + accessCount);
    if (count > this.offer.maxDataXferSize) {
      throw new RequestError(
        errno.EINVAL,
        `region access of ${count} bytes, at most ${this.offer.maxDataXferSize}`,
      );
    }
    if (data !== 0 && length - accessEnd !== count) {
      throw new RequestError(
        errno.EINVAL,
        `region write of ${count} bytes with ${length - accessEnd} bytes of data`,
      );
    }
  }

  /** REGION_WRITE: check, answer, do. While the device waits for DMA only config space is done at once. */
  #write(
    id: number,
    flags: number,
    buffer: Buffer,
    at: number,
    length: number,
    fds: readonly number[],
    nested: boolean,
  ): void {
    let region: number;
    let offset: number;
    let count: number;
    this.#unanswered += 1;
    try {
      this.#checkAccess(buffer, at, length, fds, 1);
      count = length - accessEnd;
      region = buffer.readUInt32LE(at + header.size + accessRegion);
      offset = readU64(buffer, at + header.size + accessOffset);
      if (count > 0) this.device.checkRegionWrite(region, offset, count);
    } catch (error) {
      this.#answerError(id, command.REGION_WRITE, flags, error);
      return;
    } finally {
      this.#unanswered -= 1;
    }
    if ((flags & headerFlags.noReply) === 0) {
      const out = this.#out;
      const size = count > 0 ? accessEnd : header.size;
      writeHeader(out, 0, id, command.REGION_WRITE, size, headerFlags.typeReply, 0);
      buffer.copy(out, header.size, at + header.size, at + accessEnd);
      this.#socket.send(out, size);
    }
    if (count === 0) return;
    if (nested && region !== pciRegion.config) {
      const copy = Buffer.from(buffer.subarray(at + accessEnd, at + length));
      this.#enqueue(count, () => this.#doWrite(region, offset, count, copy, 0));
    } else this.#doWrite(region, offset, count, buffer, at + accessEnd);
  }

  /** The write itself, already answered: what goes wrong now can only be logged. */
  #doWrite(region: number, offset: number, count: number, source: Buffer, at: number): void {
    try {
      this.device.regionWrite(region, offset, count, source, at);
    } catch (error) {
      if (error instanceof CompanionError) {
        this.#log.warn(
          { region, offset, count, code: error.code },
          `a write failed after its answer: ${error.message}`,
        );
      } else this.#logger.error({ err: error, region, offset, count }, 'a write failed in the device');
    }
  }

  /** Every other request. */
  #request(
    id: number,
    cmd: number,
    flags: number,
    buffer: Buffer,
    at: number,
    length: number,
    fds: readonly number[],
    nested: boolean,
  ): void {
    if (this.role === 'device' && cmd === command.REGION_WRITE_MULTI && fds.length === 0) {
      this.#writeMulti(id, flags, buffer.subarray(at + header.size, at + length), nested);
      return;
    }
    const entry = handlers.get(cmd);
    if (entry === undefined || !entry.roles.includes(this.role)) {
      this.#refuseMessage(id, cmd, flags, fds, `not a command of the ${this.role} socket`);
      return;
    }
    if (fds.length > entry.spec.requestFds) {
      this.#refuseMessage(id, cmd, flags, fds, `${fds.length} descriptors, at most ${entry.spec.requestFds}`);
      return;
    }
    const payload = buffer.subarray(at + header.size, at + length);
    if (!nested || entry.nested) {
      this.#run(entry, id, flags, payload, fds);
      return;
    }
    const copy = Buffer.from(payload);
    this.#enqueue(copy.length, () => this.#run(entry, id, flags, copy, fds));
  }

  #run(entry: Handler, id: number, flags: number, payload: Buffer, fds: readonly number[]): void {
    this.#unanswered += 1;
    try {
      this.#answer(id, entry.spec.command, flags, entry.run(this, payload, fds));
    } catch (error) {
      this.#answerError(id, entry.spec.command, flags, error);
    } finally {
      this.#unanswered -= 1;
    }
  }

  /** REGION_WRITE_MULTI: all writes are checked before one is done; one bad write refuses the message. */
  #writeMulti(id: number, flags: number, payload: Buffer, nested: boolean): void {
    const cmd = command.REGION_WRITE_MULTI;
    const stride = singleWrite.size + singleWriteData;
    let total: number;
    this.#unanswered += 1;
    try {
      total = decodePart(
        'REGION_WRITE_MULTI',
        messages.REGION_WRITE_MULTI.request,
        payload,
        0,
        payload.length,
      ).wr_cnt;
      const length = payload.length - regionWriteMulti.size;
      if (total > maxMultiWrites || length !== total * stride) {
        throw new RequestError(errno.EINVAL, `REGION_WRITE_MULTI: ${total} writes in ${length} bytes`);
      }
      for (let at = regionWriteMulti.size; at < payload.length; at += stride) {
        const { offset, region, count } = singleWrite.decode(payload, at);
        if (count > singleWriteData) {
          throw new RequestError(errno.EINVAL, `REGION_WRITE_MULTI: a write of ${count} bytes`);
        }
        if (count > 0) this.device.checkRegionWrite(region, offset, count);
      }
    } catch (error) {
      this.#answerError(id, cmd, flags, error);
      return;
    } finally {
      this.#unanswered -= 1;
    }
    this.#answer(id, cmd, flags, { value: { wr_cnt: total } });
    for (let at = regionWriteMulti.size; at < payload.length; at += stride) {
      const { offset, region, count } = singleWrite.decode(payload, at);
      if (count === 0) continue;
      const data = at + singleWrite.size;
      if (nested && region !== pciRegion.config) {
        const copy = Buffer.from(payload.subarray(data, data + count));
        this.#enqueue(count, () => this.#doWrite(region, offset, count, copy, 0));
      } else this.#doWrite(region, offset, count, payload, data);
    }
  }
}
