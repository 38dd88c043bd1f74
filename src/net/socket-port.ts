import { ready, type Timer, type Watch } from '../loop/types.ts';
import { closeFd, pollFd, type RawArea, rawArea } from '../posix/index.ts';
import { ethernet, MAX_FRAME } from './ethernet.ts';
import { FrameQueue, type QueueLimits } from './frame-queue.ts';
import { BasePort, type PortContext } from './port.ts';

const NS_PER_MS = 1e6;

/** Bytes of the kernel's buffers: room for a burst while the other process does not run. */
export const SOCKET_BUFFER = 1024 * 1024;

export interface SocketPortLimits {
  /** Frames waiting for the other end to read; beyond, `send` refuses. */
  readonly send: QueueLimits;
  /** So much waiting is sent at once, not at the end of the turn. */
  readonly flushBytes: number;
  readonly receiveBytes: number;
  /** Milliseconds between attempts to reach an end that is not there; 0: none. */
  readonly reconnectMs: number;
}

/** A port whose other end is reached by a socket, which may go away and come back: queues, and the connection's life. */
export abstract class SocketPort extends BasePort {
  protected readonly out: FrameQueue;
  /** What has been received and not been handed over lies from `inAt` to `inEnd`. */
  protected readonly in: RawArea;
  protected inAt = 0;
  protected inEnd = 0;
  /** The handler is at work up the stack. */
  protected processing = false;
  protected connection: { readonly fd: number; readonly watch: Watch } | undefined;
  readonly #limits: SocketPortLimits;
  readonly #retry: Timer;
  #flushPlanned = false;
  #closed = false;

  constructor(context: PortContext, limits: SocketPortLimits) {
    super(context);
    this.#limits = limits;
    this.out = new FrameQueue(limits.send);
    this.in = rawArea(limits.receiveBytes);
    this.#retry = this.reactor.timer(() => this.reconnect());
  }

  /** Another attempt to reach the other end; not to throw because there is nobody. */
  protected abstract reconnect(): void;

  /** Sends some of `out`; returns the bytes that are gone, less than 0 when the socket is full. Throws `PosixError`. */
  protected abstract transmit(fd: number): number;

  /** Takes what has arrived, as long as the handler has room. */
  protected abstract readable(): void;

  /** After anything was sent or received: says what is waited for. */
  protected abstract updateInterest(): void;

  /** The connection is going to be ended, for `error` or, without, by the other end. */
  protected abstract aboutToLose(error: unknown): void;

  override send(parts: readonly Uint8Array[], length: number): boolean {
    const fits = length >= ethernet.headerLength && length <= MAX_FRAME;
    if (!fits || !this.sending) return this.counted(false, length);
    if (!this.out.push(parts, length)) {
      this.flush();
      // Flushing may have found the other end gone.
      if (!this.sending || !this.out.push(parts, length)) return this.counted(false, length);
    }
    if (this.out.length >= this.#limits.flushBytes) this.flush();
    else this.#planFlush();
    return this.counted(true, length);
  }

  override drain(timeoutMs: number): void {
    const deadline = this.reactor.now() + timeoutMs * NS_PER_MS;
    this.flush();
    while (this.out.length > 0 && this.connection !== undefined) {
      const left = (deadline - this.reactor.now()) / NS_PER_MS;
      if (left <= 0) return;
      pollFd(this.connection.fd, ready.write, Math.ceil(left));
      this.flush();
    }
  }

  override close(): void {
    this.#closed = true;
    this.flush();
    this.disconnect();
    this.#retry.close();
    super.close();
  }

  protected get closed(): boolean {
    return this.#closed;
  }

  /** Ends what a constructor that throws has begun. */
  protected giveUp(): void {
    this.#retry.close();
  }

  /** `fd` is the connection from now on, and the port's. */
  protected use(fd: number, interest: number): void {
    const watch = this.reactor.watch(fd, interest, (readiness) => this.onReady(readiness));
    this.connection = { fd, watch };
  }

  protected onReady(readiness: number): void {
    if ((readiness & ready.write) !== 0) this.flush();
    if ((readiness & (ready.read | ready.hangup)) !== 0) this.readable();
  }

  protected flush(): void {
    const { out } = this;
    while (out.length > 0 && this.connection !== undefined) {
      let sent: number;
      try {
        sent = this.transmit(this.connection.fd);
      } catch (error) {
        this.lost(error);
        return;
      }
      if (sent < 0) break;
      out.consume(sent);
    }
    this.updateInterest();
  }

  /** The other end is gone, or no longer to be talked to. */
  protected lost(error: unknown): void {
    if (this.connection === undefined) return;
    this.aboutToLose(error);
    this.disconnect();
    this.retryLater();
  }

  protected retryLater(): void {
    const { reconnectMs } = this.#limits;
    if (!this.#closed && reconnectMs > 0) this.#retry.arm(reconnectMs * NS_PER_MS);
  }

  /** Ends the connection; a frame that went out by half can't be finished on another one. */
  protected disconnect(): void {
    const { connection } = this;
    if (connection === undefined) return;
    this.connection = undefined;
    connection.watch.close();
    closeFd(connection.fd);
    this.stats.sendDropped += this.out.frames;
    this.out.clear();
    this.inAt = 0;
    this.inEnd = 0;
    this.setPeer(false);
  }

  #planFlush(): void {
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    this.reactor.defer(this.#plannedFlush);
  }

  readonly #plannedFlush = (): void => {
    this.#flushPlanned = false;
    this.flush();
  };
}
