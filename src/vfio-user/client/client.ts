import { CompanionError, errno, errnoOf, RequestError } from '../../errors.ts';
import { ready } from '../../loop/types.ts';
import { closeFd, connectUnix, pollFd, setSocketTimeout } from '../../posix/index.ts';
import { type Capabilities, defaultOffer, type OfferedCapabilities } from '../capabilities.ts';
import { command, defaultLimits, headerFlags, stateBuffers } from '../constants.ts';
import { FramedSocket, frame } from '../framed-socket.ts';
import {
  encodeError,
  encodeReply,
  encodeRequest,
  type HeaderFields,
  messages,
  readHeader,
} from '../messages.ts';
import { readU64 } from '../struct.ts';
import { dmaAccess, header, regionInfo } from '../structs.ts';
import { ConnectionError, ProtocolError } from './errors.ts';
import { bytesRange, ClientMemory } from './memory.ts';
import type { Operation } from './operations.ts';
import * as op from './operations.ts';
import { finish } from './reply.ts';

export interface ClientOptions {
  readonly capabilities?: Partial<OfferedCapabilities>;
  /** How long a reply may take; default 5000 ms, as QEMU's. */
  readonly timeoutMs?: number;
  /** Called while a reply is waited for: lets a test run the server on the same thread. */
  readonly pump?: () => void;
  /** Tries to receive before the thread sleeps; default 0. */
  readonly spin?: number;
}

interface Received {
  readonly head: HeaderFields;
  readonly payload: Buffer;
  readonly fds: readonly number[];
}

/** A request that has been sent. */
export interface Pending<T> {
  /** Whether the reply is there. */
  readonly done: boolean;
  /** Waits for the reply; throws as the operation does. Once. */
  wait(): T;
}

/** Room in a message beside its data. */
const messageOverhead = 4096;
const maxQueuedOutput = 64 * 1024 * 1024;
const idMask = 0xffff;
/** How long one sleep lasts while there is a `pump`. */
const pumpedSleepMs = 1;

/**
 * A vfio-user client that waits for its replies: for tests, tools and benchmarks. Serves the server's DMA
 * messages out of its memory while it waits (and in `poll()`). Descriptors that it returns are the caller's.
 */
export class VfioUserClient {
  /** What DMA messages of the server are answered from. */
  readonly memory = new ClientMemory();
  /** Every DMA message of the server before it is served; may throw a `CompanionError` to refuse it. */
  onDma: ((access: { write: boolean; iova: number; count: number }) => void) | undefined;
  /** While true, commands of the server are left unread in order: a client that does not answer. */
  deaf = false;
  readonly #socket: FramedSocket;
  readonly #offer: OfferedCapabilities;
  readonly #timeoutMs: number;
  readonly #pump: (() => void) | undefined;
  readonly #spin: number;
  readonly #replies = new Map<number, Received | undefined>();
  #lastId = 0;
  #negotiated: op.Negotiated | undefined;

  private constructor(fd: number, options: ClientOptions) {
    this.#offer = { ...defaultOffer, ...options.capabilities };
    this.#timeoutMs = options.timeoutMs ?? 5000;
    this.#pump = options.pump;
    this.#spin = options.spin ?? 0;
    this.#socket = new FramedSocket(fd, {
      maxMessage: Math.max(this.#offer.maxDataXferSize + messageOverhead, defaultLimits.maxDataXferSize),
      maxQueued: maxQueuedOutput,
      ...(this.#offer.companion && { kernelBuffers: stateBuffers }),
    });
    setSocketTimeout(fd, this.#timeoutMs);
  }

  /** Connects to a server's socket and negotiates. */
  static connect(path: string, options: ClientOptions = {}): VfioUserClient {
    return VfioUserClient.adopt(connectUnix(path), options);
  }

  /** Takes over a connected socket and negotiates. */
  static adopt(fd: number, options: ClientOptions = {}): VfioUserClient {
    const client = VfioUserClient.raw(fd, options);
    try {
      client.negotiate();
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  /** As `adopt`, without negotiating: for tests of what a server does then. */
  static raw(fd: number, options: ClientOptions = {}): VfioUserClient {
    return new VfioUserClient(fd, options);
  }

  /** What the server announced. */
  get server(): Capabilities {
    if (this.#negotiated === undefined) throw new ConnectionError(errno.ENOTCONN, 'not negotiated yet');
    return this.#negotiated.capabilities;
  }

  get minor(): number | undefined {
    return this.#negotiated?.minor;
  }

  get fd(): number {
    return this.#socket.fd;
  }

  /** Whether the server is still there, as far as was noticed. */
  get open(): boolean {
    return !this.#socket.closed;
  }

  close(): void {
    for (const received of this.#replies.values()) closeAll(received?.fds ?? []);
    this.#replies.clear();
    this.#socket.release();
  }

  // ---- requests

  /** Runs an operation and waits for its reply. */
  run<T>(operation: Operation<T>): T {
    return this.submit(operation).wait();
  }

  /** Sends an operation without waiting: several may be under way. */
  submit<T>(operation: Operation<T>): Pending<T> {
    const id = this.#takeId();
    this.#replies.set(id, undefined);
    this.#send(encodeRequest(operation.spec, id, operation.value, operation.data), operation.fds);
    const replies = this.#replies;
    return {
      get done() {
        return replies.get(id) !== undefined;
      },
      wait: () => {
        const { head, payload, fds } = this.#await(id, operation.spec.name);
        try {
          return finish(operation, head, payload, fds);
        } catch (error) {
          closeAll(fds);
          throw error;
        }
      },
    };
  }

  /** Sends an operation with NO_REPLY. */
  post(operation: Operation<unknown>): void {
    const bytes = encodeRequest(
      operation.spec,
      this.#takeId(),
      operation.value,
      operation.data,
      headerFlags.noReply,
    );
    this.#send(bytes, operation.fds);
  }

  /** Sends bytes as they are: for tests of bad input. */
  sendRaw(bytes: Buffer, fds?: readonly number[]): void {
    this.#send(bytes, fds);
  }

  /** The reply to a message sent by `sendRaw` with this id: header and payload, unchecked. */
  rawReply(id: number): { head: HeaderFields; payload: Buffer; fds: readonly number[] } {
    if (!this.#replies.has(id)) this.#replies.set(id, undefined);
    return this.#await(id, `message ${id}`);
  }

  /** Announces that a reply with this id will come, so that `poll()` keeps it. */
  expect(id: number): void {
    this.#replies.set(id, undefined);
  }

  /** Serves what the server has sent, without waiting; returns whether there was anything. */
  poll(): boolean {
    if (this.#socket.blocked) this.#socket.flush();
    let found = false;
    do {
      while (!(this.deaf && this.#commandNext()) && this.#next()) found = true;
      if (this.deaf && this.#commandNext()) return found;
    } while (this.#socket.receive());
    return found;
  }

  // ---- what the requests mean; see operations.ts

  negotiate(): op.Negotiated {
    this.#negotiated = this.run(op.negotiate(this.#offer));
    return this.#negotiated;
  }

  getInfo(): op.DeviceInfo {
    return this.run(op.deviceInfo());
  }

  /** Asks again with enough room when the first reply says so, as QEMU does. */
  getRegionInfo(index: number): op.RegionDescription {
    const first = this.run(op.regionInfo(index));
    if (first.argsz <= regionInfo.size) return first;
    closeAll(first.fd === undefined ? [] : [first.fd]);
    return this.run(op.regionInfo(index, first.argsz));
  }

  getRegionIoFds(index: number): op.IoFdDescription {
    const first = this.run(op.regionIoFds(index));
    return first.count === 0 ? first : this.run(op.regionIoFds(index, first.argsz));
  }

  getIrqInfo(index: number): { flags: number; count: number } {
    return this.run(op.irqInfo(index));
  }

  setIrqs(request: op.IrqRequest): void {
    this.run(op.setIrqs(request));
  }

  /** Bytes of a region, ours to keep. */
  regionRead(region: number, offset: number, count: number): Buffer {
    return this.run(op.regionRead(region, offset, count));
  }

  regionWrite(region: number, offset: number, data: Uint8Array): void {
    this.run(op.regionWrite(region, offset, data));
  }

  /** As a posted write of a guest: no reply, no error. */
  regionWritePosted(region: number, offset: number, data: Uint8Array): void {
    this.post(op.regionWrite(region, offset, data));
  }

  regionWriteMulti(writes: readonly op.SmallWrite[]): void {
    this.run(op.regionWriteMulti(writes));
  }

  /** The value of a register of 1, 2 or 4 bytes. */
  readRegister(region: number, offset: number, size: 1 | 2 | 4 = 4): number {
    return this.regionRead(region, offset, size).readUIntLE(0, size);
  }

  writeRegister(region: number, offset: number, value: number, size: 1 | 2 | 4 = 4): void {
    const data = Buffer.alloc(size);
    data.writeUIntLE(value, 0, size);
    this.regionWrite(region, offset, data);
  }

  reset(): void {
    this.run(op.reset());
  }

  /**
   * Maps memory for the device. With `fd` the server may map it; with `bytes` its DMA messages are served
   * from there (both may be given: then they should be the same memory).
   */
  dmaMap(request: op.DmaMapRequest & { readonly bytes?: Uint8Array }): void {
    this.run(op.dmaMap(request));
    if (request.bytes !== undefined) this.memory.add(bytesRange(request.iova, request.bytes, request.prot));
  }

  dmaUnmap(iova: number, size: number): void {
    this.run(op.dmaUnmap(iova, size));
    this.memory.remove(iova);
  }

  dmaUnmapAll(): void {
    this.run(op.dmaUnmapAll());
    this.memory.clear();
  }

  deviceFeature(flags: number, data: Uint8Array, room?: number): Buffer {
    return this.run(op.deviceFeature(flags, data, room));
  }

  migrationFlags(): number {
    return this.run(op.migrationFlags());
  }

  getState(): number {
    return this.run(op.migrationState());
  }

  setState(state: number): void {
    this.run(op.setMigrationState(state));
  }

  dataSize(): number {
    return this.run(op.migrationDataSize());
  }

  readState(size: number): Buffer {
    return this.run(op.readState(size));
  }

  writeState(data: Uint8Array): void {
    this.run(op.writeState(data));
  }

  precopyInfo(): op.PrecopyInfo {
    return this.run(op.precopyInfo());
  }

  startDmaLogging(pageSize: number, ranges: readonly op.LoggingRange[] = []): number {
    return this.run(op.startDmaLogging(pageSize, ranges));
  }

  stopDmaLogging(): void {
    this.run(op.stopDmaLogging());
  }

  reportDmaLogging(iova: number, length: number, pageSize: number): Buffer {
    return this.run(op.reportDmaLogging(iova, length, pageSize));
  }

  companion(operation: string, args: Readonly<Record<string, unknown>> = {}): unknown {
    return this.run(op.companion(operation, args));
  }

  // ---- underneath

  #takeId(): number {
    do this.#lastId = (this.#lastId + 1) & idMask;
    while (this.#replies.has(this.#lastId));
    return this.#lastId;
  }

  #send(bytes: Buffer, fds: readonly number[] | undefined): void {
    this.#socket.send(bytes, bytes.length, undefined, fds);
    if (this.#socket.closed) this.#gone();
  }

  #gone(): never {
    throw new ConnectionError(errno.ENOTCONN, `vfio-user: ${this.#socket.reason ?? 'not connected'}`);
  }

  #await(id: number, what: string): Received {
    const deadline = performance.now() + this.#timeoutMs;
    let spin = this.#spin;
    // Nothing to be done meanwhile: one system call that sleeps, instead of two and a wake-up between them.
    const sleepy = this.#pump === undefined && this.#spin === 0 && !this.deaf;
    for (;;) {
      const received = this.#replies.get(id);
      if (received !== undefined) {
        this.#replies.delete(id);
        return received;
      }
      if (sleepy && !this.#socket.blocked && !this.#socket.pending && this.#socket.receive(true)) {
        while (this.#next());
        continue;
      }
      if (this.poll()) continue;
      if (this.#pump !== undefined) {
        this.#pump();
        if (this.poll()) continue;
      }
      if (this.#socket.closed) {
        this.#replies.delete(id);
        this.#gone();
      }
      if (spin-- > 0) continue;
      const left = deadline - performance.now();
      if (left <= 0) {
        this.#replies.delete(id);
        throw new ConnectionError(errno.ETIMEDOUT, `${what}: no reply within ${this.#timeoutMs} ms`);
      }
      const interest = this.#socket.blocked ? ready.read | ready.write : ready.read;
      pollFd(this.#socket.fd, interest, this.#pump === undefined ? Math.ceil(left) : pumpedSleepMs);
    }
  }

  /** Whether the next complete message is a command of the server. */
  #commandNext(): boolean {
    return (
      this.#socket.pending && (this.#socket.peekFlags() & headerFlags.typeMask) === headerFlags.typeCommand
    );
  }

  /** Takes the next message that has arrived; false when there is none. */
  #next(): boolean {
    const socket = this.#socket;
    const found = socket.next();
    if (found === frame.none) return false;
    if (found !== frame.message) {
      socket.close('the server sent a message of an impossible size');
      return false;
    }
    const head = readHeader(socket.buffer, socket.at);
    const fds = socket.takeDescriptors();
    const payload = socket.buffer.subarray(socket.at + header.size, socket.at + socket.length);
    const type = head.flags & headerFlags.typeMask;
    if (type === headerFlags.typeCommand) {
      closeAll(fds);
      this.#serve(head, payload, fds.length);
    } else if (
      type === headerFlags.typeReply &&
      this.#replies.has(head.id) &&
      this.#replies.get(head.id) === undefined
    ) {
      this.#replies.set(head.id, { head, payload: Buffer.from(payload), fds });
    } else {
      closeAll(fds);
      socket.close(`the server sent a reply to ${head.id}, which was not asked`);
      throw new ProtocolError(`a reply with id ${head.id}, which answers nothing`);
    }
    return true;
  }

  #serve(head: HeaderFields, payload: Buffer, fds: number): void {
    let reply: Buffer;
    let refused = false;
    try {
      if (fds > 0) throw new RequestError(errno.EINVAL, 'descriptors with a DMA message');
      reply = this.#serveDma(head, payload);
    } catch (error) {
      if (!(error instanceof CompanionError)) throw error;
      reply = encodeError(head.id, head.command, errnoOf(error));
      refused = true;
    }
    // A refusal is told in any case, as QEMU does.
    if (refused || (head.flags & headerFlags.noReply) === 0) this.#socket.send(reply, reply.length);
  }

  #serveDma(head: HeaderFields, payload: Buffer): Buffer {
    const write = head.command === command.DMA_WRITE;
    if (!write && head.command !== command.DMA_READ)
      throw new RequestError(errno.ENOSYS, `command ${head.command}`);
    if (payload.length < dmaAccess.size)
      throw new RequestError(errno.EINVAL, 'a DMA message that is cut off');
    const addr = readU64(payload, dmaAccess.offsets.addr);
    const count = readU64(payload, dmaAccess.offsets.count);
    if (count > this.#offer.maxDataXferSize)
      throw new RequestError(errno.E2BIG, `a DMA message of ${count} bytes`);
    this.onDma?.({ write, iova: addr, count });
    if (write) {
      if (payload.length !== dmaAccess.size + count)
        throw new RequestError(errno.EINVAL, 'wrong length of data');
      this.memory.write(addr, payload.subarray(dmaAccess.size));
      return encodeReply(messages.DMA_WRITE, head.id, { addr, count });
    }
    const data = Buffer.alloc(count);
    this.memory.read(addr, data);
    return encodeReply(messages.DMA_READ, head.id, { addr, count }, data);
  }
}

function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeFd(fd);
}
