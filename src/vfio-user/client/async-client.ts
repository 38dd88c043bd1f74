import { connect, type Socket } from 'node:net';
import { errno } from '../../errors.ts';
import { startTimer } from '../../start-timer.ts';
import { type Capabilities, defaultOffer, type OfferedCapabilities } from '../capabilities.ts';
import { headerFlags } from '../constants.ts';
import { encodeError, type HeaderFields, writeHeader } from '../messages.ts';
import { header } from '../structs.ts';
import { ConnectionError } from './errors.ts';
import { MessageReader } from './message-reader.ts';
import type { Operation } from './operations.ts';
import * as op from './operations.ts';
import { finish } from './reply.ts';

export interface AsyncClientOptions {
  readonly capabilities?: Partial<OfferedCapabilities>;
  /** How long each reply may take, unless the request says otherwise; default 10,000 ms. */
  readonly timeoutMs?: number | undefined;
  /** How long connecting and negotiating may take; default as above. */
  readonly connectTimeoutMs?: number | undefined;
}

interface Waiting {
  receive(head: HeaderFields, payload: Buffer): void;
  fail(error: Error): void;
}

/** Room in a message beside its data: headers, and the bitmap of a DMA_LOGGING_REPORT. */
const messageOverhead = 1024 * 1024;
const idMask = 0xffff;

/**
 * A vfio-user client with promises, over a Node socket (which can't take descriptors: it is for the migration
 * socket). Requests may be under way side by side; every one has a deadline, in ms. They fail with `PeerError` when the server refuses
 * them, `ProtocolError` for a reply that does not fit, and `ConnectionError` when the connection has ended or the deadline has passed.
 */
export class AsyncVfioUserClient {
  readonly #path: string;
  readonly #socket: Socket;
  readonly #offer: OfferedCapabilities;
  readonly #timeoutMs: number;
  readonly #reader: MessageReader;
  readonly #waiting = new Map<number, Waiting>();
  /** Ids of requests whose deadline passed: their replies may still come. */
  readonly #late = new Set<number>();
  #lastId = 0;
  #ended: ConnectionError | undefined;
  #negotiated: op.Negotiated | undefined;
  #onEnd: ((error: ConnectionError) => void) | undefined;

  private constructor(path: string, options: AsyncClientOptions) {
    const socket = connect(path);
    this.#path = path;
    this.#socket = socket;
    this.#offer = { ...defaultOffer, companion: true, ...options.capabilities };
    this.#timeoutMs = options.timeoutMs ?? 10_000;
    this.#reader = new MessageReader(this.#offer.maxDataXferSize + messageOverhead, (head, payload) =>
      this.#onMessage(head, payload),
    );
    socket.on('data', (piece) => {
      try {
        this.#reader.push(typeof piece === 'string' ? Buffer.from(piece) : piece);
      } catch (cause) {
        this.#end(errno.EPROTO, 'the server broke the protocol', cause);
      }
    });
    socket.on('error', (cause) =>
      this.#end(errno.ENOTCONN, `the connection failed: ${cause.message}`, cause),
    );
    socket.on('close', () => {
      this.#end(
        errno.ENOTCONN,
        `the server closed the connection${this.#reader.inside ? ' inside a message' : ''}`,
      );
    });
  }

  /** Connects to a server's socket and negotiates. Fails with `ConnectionError` where no server listens. */
  static async connect(path: string, options: AsyncClientOptions = {}): Promise<AsyncVfioUserClient> {
    const client = new AsyncVfioUserClient(path, options);
    try {
      client.#negotiated = await client.run(op.negotiate(client.#offer), options.connectTimeoutMs);
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  /** What the server announced. */
  get server(): Capabilities {
    if (this.#negotiated === undefined) throw new ConnectionError(errno.ENOTCONN, 'not negotiated yet');
    return this.#negotiated.capabilities;
  }

  /** Undefined while connected; then what ended it. */
  get ended(): ConnectionError | undefined {
    return this.#ended;
  }

  /** Called once when the connection ends, also by `close()`. */
  set onEnd(callback: ((error: ConnectionError) => void) | undefined) {
    this.#onEnd = callback;
    if (this.#ended !== undefined) callback?.(this.#ended);
  }

  /** Bytes in one `readState` or `writeState`, by what both sides announced. */
  get maxTransfer(): number {
    return Math.min(this.#offer.maxDataXferSize, this.server.maxDataXferSize);
  }

  close(): void {
    this.#end(errno.ENOTCONN, 'the connection was closed here');
    this.#socket.destroy();
  }

  /**
   * Runs an operation.
   *
   * @param timeoutMs deadline for the reply; ConnectionError ETIMEDOUT after that, the connection stays
   */
  run<T>(operation: Operation<T>, timeoutMs: number = this.#timeoutMs): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#ended !== undefined) {
        reject(this.#ended);
        return;
      }
      const id = this.#takeId();
      const timer = startTimer(() => {
        this.#waiting.delete(id);
        this.#late.add(id);
        reject(this.#unanswered(`${operation.spec.name}: no reply within ${timeoutMs} ms`));
      }, timeoutMs);
      this.#waiting.set(id, {
        receive: (head, payload) => {
          timer.stop();
          try {
            resolve(finish(operation, head, payload, []));
          } catch (error) {
            reject(error);
          }
        },
        fail: (error) => {
          timer.stop();
          reject(error);
        },
      });
      this.#send(id, operation);
    });
  }

  /** `VFIO_MIGRATION_*` bits. */
  migrationFlags(): Promise<number> {
    return this.run(op.migrationFlags());
  }

  /** The migration state, a `VFIO_DEVICE_STATE_*`. */
  getState(): Promise<number> {
    return this.run(op.migrationState());
  }

  setState(state: number, timeoutMs?: number): Promise<void> {
    return this.run(op.setMigrationState(state), timeoutMs);
  }

  /** Estimate of the bytes that STOP_COPY would read now. */
  dataSize(): Promise<number> {
    return this.run(op.migrationDataSize());
  }

  precopyInfo(): Promise<op.PrecopyInfo> {
    return this.run(op.precopyInfo());
  }

  /** Up to `size` bytes, at most `maxTransfer`; the buffer is the caller's. */
  readState(size: number, timeoutMs?: number): Promise<Buffer> {
    return this.run(op.readState(size), timeoutMs);
  }

  /** At most `maxTransfer` bytes, which must not change before the promise is settled. */
  writeState(data: Uint8Array, timeoutMs?: number): Promise<void> {
    return this.run(op.writeState(data), timeoutMs);
  }

  /** Resolves to the page size in bytes that the device chose. No ranges: everything is logged. */
  startDmaLogging(pageSize: number, ranges: readonly op.LoggingRange[] = []): Promise<number> {
    return this.run(op.startDmaLogging(pageSize, ranges));
  }

  stopDmaLogging(): Promise<void> {
    return this.run(op.stopDmaLogging());
  }

  /** A bit for each page, least significant first; what is told is clean from then on. */
  reportDmaLogging(iova: number, length: number, pageSize: number): Promise<Buffer> {
    return this.run(op.reportDmaLogging(iova, length, pageSize));
  }

  /** One operation of the companion extension. */
  companion(
    operation: string,
    args: Readonly<Record<string, unknown>> = {},
    timeoutMs?: number,
  ): Promise<unknown> {
    return this.run(op.companion(operation, args), timeoutMs);
  }

  /** Whoever connects knows what it connects to. Later several servers may be asked. */
  #unanswered(what: string): ConnectionError {
    if (this.#negotiated === undefined) return new ConnectionError(errno.ETIMEDOUT, what);
    return new ConnectionError(
      errno.ETIMEDOUT,
      `the server at ${this.#path} does not answer (${what})`,
      undefined,
      'is it stuck or stopped, or the QEMU that it serves?',
    );
  }

  #takeId(): number {
    do this.#lastId = (this.#lastId + 1) & idMask;
    while (this.#waiting.has(this.#lastId) || this.#late.has(this.#lastId));
    return this.#lastId;
  }

  #send<T>(id: number, { spec, value, data }: Operation<T>): void {
    const { struct } = spec.request;
    const head = Buffer.allocUnsafe(header.size + struct.size);
    writeHeader(head, 0, id, spec.command, head.length + (data?.length ?? 0), headerFlags.typeCommand, 0);
    struct.encode(value, head, header.size);
    // Requests made together go out together: one system call, and the server is woken once.
    if (this.#socket.writableCorked === 0) {
      this.#socket.cork();
      process.nextTick(() => this.#socket.uncork());
    }
    this.#socket.write(head);
    if (data !== undefined && data.length > 0) this.#socket.write(data);
  }

  #onMessage(head: HeaderFields, payload: Buffer): void {
    const type = head.flags & headerFlags.typeMask;
    if (type === headerFlags.typeCommand) {
      this.#socket.write(encodeError(head.id, head.command, errno.ENOSYS));
      return;
    }
    const waiting = this.#waiting.get(head.id);
    if (type === headerFlags.typeReply && waiting !== undefined) {
      this.#waiting.delete(head.id);
      waiting.receive(head, payload);
    } else if (type !== headerFlags.typeReply || !this.#late.delete(head.id)) {
      this.#end(errno.EPROTO, `the server sent a reply to ${head.id}, which was not asked`);
    }
  }

  #end(errnoValue: number, message: string, cause?: unknown): void {
    if (this.#ended !== undefined) return;
    const error = new ConnectionError(errnoValue, `vfio-user: ${message}`, cause);
    this.#ended = error;
    this.#socket.destroy();
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const request of waiting) request.fail(error);
    this.#onEnd?.(error);
  }
}
