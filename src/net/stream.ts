import { constants } from 'node:os';
import { errno } from '../errors.ts';
import { ready, type Timer, type Watch } from '../loop/types.ts';
import {
  acceptUnix,
  closeFd,
  connectTcp,
  connectUnix,
  listenTcp,
  listenUnix,
  PosixError,
  rawArea,
  recvBytes,
  sendArea,
  setSocketBuffers,
  socketError,
} from '../posix/index.ts';
import { NetError, NetProtocolError } from './errors.ts';
import { ethernet, MAX_FRAME } from './ethernet.ts';
import { FrameQueue, type QueueLimits, RECORD_HEADER } from './frame-queue.ts';
import { BasePort, type PortContext } from './port.ts';

/** Where the other end of a stream is. */
export type StreamAddress =
  | { readonly type: 'unix'; readonly path: string }
  | { readonly type: 'tcp'; readonly host: string; readonly port: number };

export interface StreamPortOptions extends PortContext {
  readonly address: StreamAddress;
  /** Listen and take one peer at a time, instead of connecting. */
  readonly server?: boolean;
  /** Milliseconds between attempts to reach a peer that is not there; 0: only one attempt. Default 1000. */
  readonly reconnectMs?: number;
}

const sendLimits: QueueLimits = { frames: 8192, bytes: 1024 * 1024 };
const FLUSH_BYTES = 64 * 1024;
/** Room for several of the longest frames, so that moving an unfinished one to the front is rare. */
const RECEIVE_BYTES = 4 * (RECORD_HEADER + MAX_FRAME);
const READS_PER_TURN = 8;
const SOCKET_BUFFER = 1024 * 1024;
const NS_PER_MS = 1e6;

/**
 * Frames over a byte stream, each after its length as a 32-bit big-endian word: QEMU's `-netdev stream` and
 * `-netdev socket` (net/stream.c, net/socket.c), and passt's `--socket`.
 */
export class StreamPort extends BasePort {
  readonly kind = 'stream';
  readonly #options: StreamPortOptions;
  readonly #out = new FrameQueue(sendLimits);
  readonly #in = rawArea(RECEIVE_BYTES);
  #inAt = 0;
  #inEnd = 0;
  /** The handler has no room: nothing is read. */
  #waiting = false;
  #processing = false;
  #listener: { readonly fd: number; readonly watch: Watch } | undefined;
  #connection: { readonly fd: number; readonly watch: Watch } | undefined;
  #connected = false;
  readonly #retry: Timer;
  #flushPlanned = false;
  #closed = false;

  /** @throws NetError when there is nobody and reconnecting is off, or nothing can listen there */
  constructor(options: StreamPortOptions) {
    super(options);
    this.#options = options;
    this.#retry = this.reactor.timer(() => this.#connect());
    try {
      if (options.server) this.#listen();
      else this.#connect();
    } catch (error) {
      this.#retry.close();
      throw new NetError(
        `no stream at ${describe(options.address)}: ${error instanceof Error ? error.message : error}`,
        undefined,
        error,
      );
    }
  }

  override send(parts: readonly Uint8Array[], length: number): boolean {
    const fits = length >= ethernet.headerLength && length <= MAX_FRAME;
    if (!fits || !this.sending) return this.counted(false, length);
    if (!this.#out.push(parts, length)) {
      this.#flush();
      if (!this.#connected || !this.#out.push(parts, length)) return this.counted(false, length);
    }
    if (this.#out.length >= FLUSH_BYTES) this.#flush();
    else this.#planFlush();
    return this.counted(true, length);
  }

  override ready(): void {
    if (!this.#waiting || this.#processing) return;
    this.#waiting = false;
    try {
      this.#process();
    } catch (error) {
      this.#lost(error);
    }
    if (!this.#waiting) this.#readable();
  }

  override close(): void {
    this.#closed = true;
    this.#flush();
    this.#disconnect();
    this.#retry.close();
    if (this.#listener !== undefined) {
      this.#listener.watch.close();
      closeFd(this.#listener.fd);
      this.#listener = undefined;
    }
    super.close();
  }

  #listen(): void {
    const { address } = this.#options;
    const fd = address.type === 'unix' ? listenUnix(address.path) : listenTcp(address.host, address.port);
    const watch = this.reactor.watch(fd, ready.read, () => {
      const peer = acceptUnix(fd);
      if (peer === undefined) return;
      if (this.#connection !== undefined) {
        this.log.warn('a second peer was refused: a cable has two ends');
        closeFd(peer);
        return;
      }
      this.#use(peer, true);
    });
    this.#listener = { fd, watch };
  }

  #connect(): void {
    const { address, reconnectMs = 1000 } = this.#options;
    try {
      if (address.type === 'unix') this.#use(connectUnix(address.path), true);
      else this.#use(connectTcp(address.host, address.port), false);
    } catch (error) {
      const nobody =
        error instanceof PosixError &&
        (error.errno === errno.ENOENT || error.errno === constants.errno.ECONNREFUSED);
      if (!nobody || reconnectMs === 0) throw error;
      this.#retryLater();
    }
  }

  #use(fd: number, connected: boolean): void {
    if (this.#options.address.type === 'unix') setSocketBuffers(fd, SOCKET_BUFFER);
    const watch = this.reactor.watch(fd, connected ? ready.read : ready.write, (readiness) => {
      if (!this.#connected) {
        this.#finishConnect(fd);
        return;
      }
      if ((readiness & ready.write) !== 0) this.#flush();
      if ((readiness & (ready.read | ready.hangup)) !== 0) this.#readable();
    });
    this.#connection = { fd, watch };
    if (connected) this.#begin();
  }

  #finishConnect(fd: number): void {
    const error = socketError(fd);
    if (error !== 0) this.#lost(new PosixError(`connect ${describe(this.#options.address)}`, error));
    else this.#begin();
  }

  #begin(): void {
    this.#connected = true;
    this.#updateInterest();
    this.log.info({ peer: describe(this.#options.address) }, 'stream connected');
    this.setPeer(true);
  }

  #retryLater(): void {
    const { reconnectMs = 1000, server } = this.#options;
    if (!this.#closed && !server && reconnectMs > 0) this.#retry.arm(reconnectMs * NS_PER_MS);
  }

  #disconnect(): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    this.#connection = undefined;
    this.#connected = false;
    connection.watch.close();
    closeFd(connection.fd);
    // A frame that went out by half can't be finished on another connection.
    this.stats.sendDropped += this.#out.frames;
    this.#out.clear();
    this.#inAt = 0;
    this.#inEnd = 0;
    this.#waiting = false;
    this.setPeer(false);
  }

  #lost(error: unknown): void {
    if (this.#connection === undefined) return;
    if (this.#connected || error instanceof NetProtocolError)
      this.log.warn({ peer: describe(this.#options.address), err: error }, 'stream ended');
    this.#disconnect();
    this.#retryLater();
  }

  #planFlush(): void {
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    this.reactor.defer(this.#plannedFlush);
  }

  readonly #plannedFlush = (): void => {
    this.#flushPlanned = false;
    this.#flush();
  };

  #flush(): void {
    const out = this.#out;
    while (out.length > 0 && this.#connection !== undefined && this.#connected) {
      let sent: number;
      try {
        sent = sendArea(this.#connection.fd, out.area, out.head, out.length);
      } catch (error) {
        this.#lost(error);
        return;
      }
      if (sent < 0) break;
      out.consume(sent);
    }
    this.#updateInterest();
  }

  #updateInterest(): void {
    if (!this.#connected) return;
    const writing = this.#out.length > 0 ? ready.write : 0;
    this.#connection?.watch.modify(this.#waiting ? writing : ready.read | writing);
  }

  #readable(): void {
    const { bytes } = this.#in;
    try {
      for (let turn = 0; turn < READS_PER_TURN && !this.#waiting; turn++) {
        const connection = this.#connection;
        if (connection === undefined) return;
        const length = recvBytes(connection.fd, bytes, this.#inEnd, bytes.length - this.#inEnd, false);
        if (length < 0) break;
        if (length === 0) {
          this.#lost(undefined);
          return;
        }
        this.#inEnd += length;
        this.#process();
      }
    } catch (error) {
      this.#lost(error);
      return;
    }
    this.#updateInterest();
  }

  /** Hands over every whole frame; what is unfinished moves to the front when the room behind it gets short. */
  #process(): void {
    const { bytes } = this.#in;
    this.#processing = true;
    try {
      while (this.#inEnd - this.#inAt >= RECORD_HEADER) {
        const length = bytes.readUInt32BE(this.#inAt);
        if (length === 0 || length > MAX_FRAME)
          throw new NetProtocolError(`frame of ${length} bytes announced`);
        const start = this.#inAt + RECORD_HEADER;
        if (start + length > this.#inEnd) break;
        if (!this.receiving || length < ethernet.headerLength) this.stats.receiveDropped++;
        else if (!this.deliver(bytes.subarray(start, start + length))) {
          this.#waiting = true;
          break;
        }
        // The handler may have closed the port.
        if (this.#connection === undefined) return;
        this.#inAt = start + length;
      }
    } finally {
      this.#processing = false;
    }
    if (this.#inAt === this.#inEnd) {
      this.#inAt = 0;
      this.#inEnd = 0;
    } else if (bytes.length - this.#inEnd < RECORD_HEADER + MAX_FRAME && !this.#waiting) {
      bytes.copyWithin(0, this.#inAt, this.#inEnd);
      this.#inEnd -= this.#inAt;
      this.#inAt = 0;
    }
    if (this.#waiting) this.#updateInterest();
  }
}

function describe(address: StreamAddress): string {
  return address.type === 'unix' ? address.path : `${address.host}:${address.port}`;
}
