import { errno } from '../../errors.ts';
import { ready } from '../../loop/types.ts';
import { closeFd, pollFd, setSocketTimeout } from '../../posix/index.ts';
import { defaultOffer, type OfferedCapabilities } from '../capabilities.ts';
import { defaultLimits, headerFlags, stateBuffers } from '../constants.ts';
import { FramedSocket, frame } from '../framed-socket.ts';
import { encodeRequest, type HeaderFields, readHeader } from '../messages.ts';
import { header } from '../structs.ts';
import { type DmaAccess, type DmaService, serveDma } from './dma-service.ts';
import { ConnectionError, ProtocolError } from './errors.ts';
import { ClientMemory } from './memory.ts';
import type { Operation } from './operation.ts';
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
 * A client's end of a connection: sends operations, waits for their replies, and serves the server's DMA messages
 * meanwhile. What the operations are is not its business.
 */
export class ClientConnection implements DmaService {
  /** What DMA messages of the server are answered from. */
  readonly memory = new ClientMemory();
  /** Every DMA message of the server before it is served; may throw a `CompanionError` to refuse it. */
  onDma: ((access: DmaAccess) => void) | undefined;
  /** While true, commands of the server are left unread in order: a client that does not answer. */
  deaf = false;
  readonly #socket: FramedSocket;
  /** What is proposed to the server. */
  readonly offer: OfferedCapabilities;
  readonly #timeoutMs: number;
  readonly #pump: (() => void) | undefined;
  readonly #spin: number;
  readonly #replies = new Map<number, Received | undefined>();
  #lastId = 0;

  protected constructor(fd: number, options: ClientOptions) {
    this.offer = { ...defaultOffer, ...options.capabilities };
    this.#timeoutMs = options.timeoutMs ?? 5000;
    this.#pump = options.pump;
    this.#spin = options.spin ?? 0;
    this.#socket = new FramedSocket(fd, {
      maxMessage: Math.max(this.offer.maxDataXferSize + messageOverhead, defaultLimits.maxDataXferSize),
      maxQueued: maxQueuedOutput,
      ...(this.offer.companion && { kernelBuffers: stateBuffers }),
    });
    setSocketTimeout(fd, this.#timeoutMs);
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
    const reply = serveDma(head, payload, fds, this);
    if (reply !== undefined) this.#socket.send(reply, reply.length);
  }
}

/** Descriptors of a message that nobody wants. */
export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeFd(fd);
}
