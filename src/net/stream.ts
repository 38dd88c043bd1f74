import { lookup } from 'node:dns';
import { isIP } from 'node:net';
import { constants } from 'node:os';
import { errno } from '../errors.ts';
import { Listener } from '../loop/listener.ts';
import { ready } from '../loop/types.ts';
import {
  closeFd,
  connectTcp,
  connectUnix,
  listenTcp,
  listenUnix,
  PosixError,
  recvBytes,
  sendArea,
  setKeepAlive,
  setNoDelay,
  setSocketBuffers,
  socketError,
  unanswered,
} from '../posix/index.ts';
import { NetError, NetProtocolError } from './errors.ts';
import { ethernet, MAX_FRAME } from './ethernet.ts';
import { type QueueLimits, RECORD_HEADER } from './frame-queue.ts';
import type { PortContext } from './port.ts';
import { SOCKET_BUFFER, SocketPort } from './socket-port.ts';

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
  /** Finds a host's addresses for another attempt, without waiting. Default: by Node's `dns.lookup`. */
  readonly lookup?: (
    host: string,
    found: (error: Error | null, addresses: readonly string[]) => void,
  ) => void;
}

const sendLimits: QueueLimits = { frames: 8192, bytes: 1024 * 1024 };
const FLUSH_BYTES = 64 * 1024;
/** Room for several of the longest frames, so that moving an unfinished one to the front is rare. */
const RECEIVE_BYTES = 4 * (RECORD_HEADER + MAX_FRAME);
const READS_PER_TURN = 8;
/** Half a minute, in seconds. Not TCP_USER_TIMEOUT: that ends a peer, too, which is there and takes nothing, as a guest that is paused. */
const keepAlive = { idle: 10, interval: 5, count: 4 } as const;
/** A peer that has not answered so often gives way to one that is there: 1.4 s after data, else 20 s after its last word. */
const DEAD_AFTER = 3;

/**
 * Frames over a byte stream, each after its length as a 32-bit big-endian word: QEMU's `-netdev stream` and
 * `-netdev socket` (net/stream.c, net/socket.c), and passt's `--socket`.
 */
export class StreamPort extends SocketPort {
  readonly kind = 'stream';
  readonly #options: StreamPortOptions;
  /** The handler has no room: nothing is read. */
  #waiting = false;
  #listener: Listener | undefined;
  #connected = false;
  /** Why attempts fail, as far as it has been logged: they may do so for days. */
  #complaint: number | undefined;
  /** Which of a host's addresses is tried; the peer may listen at one only (`localhost` is ::1 first on Debian). */
  #turn = 0;

  /** @throws NetError when there is nobody and reconnecting is off, or nothing can listen there */
  constructor(options: StreamPortOptions) {
    super(options, {
      send: sendLimits,
      flushBytes: FLUSH_BYTES,
      receiveBytes: RECEIVE_BYTES,
      reconnectMs: options.server ? 0 : (options.reconnectMs ?? 1000),
    });
    this.#options = options;
    try {
      if (options.server) this.#listen();
      else this.#firstAttempt();
    } catch (error) {
      this.giveUp();
      throw new NetError(
        `no stream at ${describe(options.address)}: ${error instanceof Error ? error.message : error}`,
        error instanceof PosixError ? error.hint : undefined,
        error,
      );
    }
  }

  override ready(): void {
    if (!this.#waiting || this.processing) return;
    this.#waiting = false;
    try {
      this.#process();
    } catch (error) {
      this.lost(error);
    }
    if (!this.#waiting) this.readable();
  }

  override close(): void {
    super.close();
    this.#listener?.close();
  }

  #listen(): void {
    const { address } = this.#options;
    const fd = address.type === 'unix' ? listenUnix(address.path) : listenTcp(address.host, address.port);
    this.#listener = new Listener(fd, {
      reactor: this.reactor,
      log: this.log,
      ...(address.type === 'unix' && { path: address.path }),
      accepted: (peer) => this.#accept(peer),
    });
  }

  #accept(peer: number): void {
    this.#lookWhetherDead();
    if (this.connection !== undefined) {
      this.log.warn('a second peer was refused: a cable has two ends');
      closeFd(peer);
      return;
    }
    this.#use(peer, true);
  }

  /** A host that has vanished says nothing: the kernel would go on trying for a quarter of an hour. */
  #lookWhetherDead(): void {
    const { connection } = this;
    if (connection === undefined || this.#options.address.type === 'unix') return;
    if (unanswered(connection.fd) >= DEAD_AFTER)
      this.lost(new PosixError('the peer no longer answers', constants.errno.ETIMEDOUT));
  }

  #firstAttempt(): void {
    const { address, reconnectMs } = this.#options;
    try {
      this.#connect(address, false);
    } catch (error) {
      if (!isNobody(error) || reconnectMs === 0) throw error;
      this.retryLater();
    }
  }

  protected override reconnect(): void {
    const { address } = this.#options;
    if (address.type === 'unix' || isIP(address.host) !== 0) {
      this.#again(address);
      return;
    }
    // Asking a name server takes seconds when there is none, and the device loop can't wait for that.
    const find = this.#options.lookup ?? lookupAll;
    find(address.host, (error, addresses) => {
      if (this.closed) return;
      const host = addresses[this.#turn % addresses.length];
      if (error === null && host !== undefined) this.#again({ ...address, host });
      else {
        this.#failed(error);
        this.retryLater();
      }
    });
  }

  /** An attempt that nobody waits for: whatever it fails with may be over the next time. */
  #again(address: StreamAddress): void {
    try {
      this.#connect(address, true);
    } catch (error) {
      this.#failed(error);
      this.retryLater();
    }
  }

  #connect(address: StreamAddress, again: boolean): void {
    // A guest is being served meanwhile: it can't wait for a peer that accepts nobody.
    if (address.type === 'unix') this.#use(connectUnix(address.path, 'stream', { nonBlocking: again }), true);
    else this.#use(connectTcp(address.host, address.port), false);
  }

  /** An attempt has failed. Logs what is not just that nobody is there, once until it is something else. */
  #failed(error: unknown): void {
    this.#turn++;
    const reason = error instanceof PosixError ? error.errno : errno.EIO;
    if (isNobody(error) || reason === this.#complaint) return;
    this.#complaint = reason;
    this.log.warn({ peer: describe(this.#options.address), err: error }, 'stream not connected, trying on');
  }

  #use(fd: number, connected: boolean): void {
    if (this.#options.address.type === 'unix') setSocketBuffers(fd, SOCKET_BUFFER);
    else {
      setNoDelay(fd);
      setKeepAlive(fd, keepAlive);
    }
    this.use(fd, connected ? ready.read : ready.write);
    if (connected) this.#begin();
  }

  protected override onReady(readiness: number): void {
    if (this.#connected) super.onReady(readiness);
    else if (this.connection !== undefined) this.#finishConnect(this.connection.fd);
  }

  #finishConnect(fd: number): void {
    const error = socketError(fd);
    if (error !== 0) this.lost(new PosixError(`connect ${describe(this.#options.address)}`, error));
    else this.#begin();
  }

  #begin(): void {
    this.#connected = true;
    this.#complaint = undefined;
    this.updateInterest();
    this.log.info({ peer: describe(this.#options.address) }, 'stream connected');
    this.setPeer(true);
  }

  protected override aboutToLose(error: unknown): void {
    if (this.#connected || error instanceof NetProtocolError)
      this.log.warn({ peer: describe(this.#options.address), err: error }, 'stream ended');
    else this.#failed(error);
  }

  protected override disconnect(): void {
    this.#connected = false;
    this.#waiting = false;
    super.disconnect();
  }

  protected override transmit(fd: number): number {
    const { out } = this;
    return sendArea(fd, out.area, out.head, out.length);
  }

  protected override updateInterest(): void {
    if (!this.#connected) return;
    const writing = this.out.length > 0 ? ready.write : 0;
    this.connection?.watch.modify(this.#waiting ? writing : ready.read | writing);
  }

  protected override readable(): void {
    const { bytes } = this.in;
    try {
      for (let turn = 0; turn < READS_PER_TURN && !this.#waiting; turn++) {
        const connection = this.connection;
        if (connection === undefined) return;
        const length = recvBytes(connection.fd, bytes, this.inEnd, bytes.length - this.inEnd, false);
        if (length < 0) break;
        if (length === 0) {
          this.lost(undefined);
          return;
        }
        this.inEnd += length;
        this.#process();
      }
    } catch (error) {
      this.lost(error);
      return;
    }
    this.updateInterest();
  }

  /** Hands over every whole frame; what is unfinished moves to the front when the room behind it gets short. */
  #process(): void {
    const { bytes } = this.in;
    this.processing = true;
    try {
      while (this.inEnd - this.inAt >= RECORD_HEADER) {
        const length = bytes.readUInt32BE(this.inAt);
        if (length === 0 || length > MAX_FRAME)
          throw new NetProtocolError(`frame of ${length} bytes announced`);
        const start = this.inAt + RECORD_HEADER;
        if (start + length > this.inEnd) break;
        if (!this.receiving || length < ethernet.headerLength) this.stats.receiveDropped++;
        else if (!this.deliver(bytes.subarray(start, start + length))) {
          this.#waiting = true;
          break;
        }
        // The handler may have closed the port.
        if (this.connection === undefined) return;
        this.inAt = start + length;
      }
    } finally {
      this.processing = false;
    }
    if (this.inAt === this.inEnd) {
      this.inAt = 0;
      this.inEnd = 0;
    } else if (bytes.length - this.inEnd < RECORD_HEADER + MAX_FRAME && !this.#waiting) {
      bytes.copyWithin(0, this.inAt, this.inEnd);
      this.inEnd -= this.inAt;
      this.inAt = 0;
    }
    if (this.#waiting) this.updateInterest();
  }
}

function lookupAll(host: string, found: (error: Error | null, addresses: readonly string[]) => void): void {
  lookup(host, { all: true }, (error, all) =>
    found(error, error === null ? all.map(({ address }) => address) : []),
  );
}

/** There is no such place, or nobody listens there: ordinary, as long as the other end has not started. */
function isNobody(error: unknown): boolean {
  return (
    error instanceof PosixError &&
    (error.errno === errno.ENOENT || error.errno === constants.errno.ECONNREFUSED)
  );
}

function describe(address: StreamAddress): string {
  return address.type === 'unix' ? address.path : `${address.host}:${address.port}`;
}
