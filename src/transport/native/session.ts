import { LimitedLog } from '../../limited-log.ts';
import type { Logger } from '../../log.ts';
import { ready, type Timer, type Watch } from '../../loop/types.ts';
import { pollFd } from '../../posix/index.ts';
import type { OfferedCapabilities } from '../../vfio-user/capabilities.ts';
import { stateBuffers } from '../../vfio-user/constants.ts';
import { FramedSocket } from '../../vfio-user/framed-socket.ts';
import type { DmaPort } from '../dma/port.ts';
import { Linger } from '../linger.ts';
import type { ConnectionOptions } from '../server-options.ts';
import { Dispatcher } from './dispatcher.ts';
import type { Role, ServeCompanion } from './handler.ts';
import { QueuedRequests } from './queued-requests.ts';

/** What a session is made of; see `NativeServerOptions` for the meaning of the limits. */
export interface SessionOptions extends ConnectionOptions {
  readonly fd: number;
  readonly role: Role;
  readonly log: Logger;
  readonly offer: OfferedCapabilities;
  readonly companion: ServeCompanion | undefined;
  readonly outputTimeoutMs: number;
  /** The session is over and nothing of it is on the stack. */
  readonly onEnd: (session: Session) => void;
}

/** Room in a message beside its data: headers, structures, the ranges of DMA_LOGGING_START. */
const messageOverhead = 4096;
/** Output that may wait for a client: one reply of the largest kind and some. */
const maxQueuedOutput = 40 * 1024 * 1024;
/** Messages served in one turn of the loop, so that timers and other descriptors get theirs. */
const messagesPerTurn = 256;
/** Waits for DMA inside one another: a config write served during a wait may need DMA itself. */
const maxWaitDepth = 8;
const nsPerMs = 1e6;

/**
 * The life of one connection, from `accept` to `detach`: when it is read, when it waits for its client or for a reply to
 * the device's DMA, when it ends. A wait for a DMA reply goes on serving what must not wait and queues the rest.
 */
export class Session implements DmaPort {
  readonly #options: SessionOptions;
  readonly #socket: FramedSocket;
  readonly #logger: Logger;
  readonly #dispatcher: Dispatcher;
  readonly #queue = new QueuedRequests();
  readonly #linger = new Linger();
  readonly #receive: () => boolean;
  readonly #watch: Watch;
  readonly #poller: Watch | undefined;
  readonly #outputTimer: Timer;
  readonly #negotiationTimer: Timer;
  #waits = 0;
  #serving = false;
  #interest: number = ready.read;
  #ended = false;

  constructor(options: SessionOptions) {
    this.#options = options;
    const { reactor } = options;
    const largest = options.offer.maxDataXferSize;
    this.#socket = new FramedSocket(options.fd, {
      maxMessage: largest + messageOverhead,
      maxQueued: maxQueuedOutput,
      ...(options.role === 'migration' && { kernelBuffers: stateBuffers }),
    });
    const { device, role, offer, companion, dma } = options;
    this.#logger = options.log;
    this.#dispatcher = new Dispatcher({
      device,
      role,
      offer,
      companion,
      socket: this.#socket,
      log: new LimitedLog(options.log, () => reactor.now()),
      logger: options.log,
      dmaPort: this,
      dma,
      enqueue: (bytes, run) => this.#enqueue(bytes, run),
      negotiated: () => this.#negotiationTimer.cancel(),
      settle: () => this.#resume(),
      waiting: () => this.#waits > 0,
      drop: (why) => this.drop(why),
    });
    const socket = this.#socket;
    this.#receive = () => socket.receive();
    this.#outputTimer = reactor.timer(() => this.drop('it does not read what it is sent'));
    this.#negotiationTimer = reactor.timer(() => this.drop('it did not send VERSION in time'));
    this.#negotiationTimer.arm(options.negotiationTimeoutMs * nsPerMs);
    this.#watch = reactor.watch(options.fd, ready.read, (readiness) => this.#onReady(readiness));
    this.#poller = role === 'device' ? reactor.poller(() => this.#poll()) : undefined;
  }

  get open(): boolean {
    return !this.#socket.closed;
  }

  get blocked(): boolean {
    return this.#socket.blocked;
  }

  get mayWait(): boolean {
    const { negotiated, unanswered } = this.#dispatcher;
    return this.open && negotiated && !unanswered && this.#waits < maxWaitDepth;
  }

  now(): number {
    return this.#options.reactor.now();
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
    // The client may do nothing before it has the replies that are kept.
    this.#socket.uncork();
    // What is being served stays where it is in the buffer while more arrives behind it.
    this.#socket.pin();
  }

  endWait(): void {
    this.#socket.unpin();
    this.#waits -= 1;
    if (this.#waits > 0 || this.#serving) return;
    // The wait began outside of any request (a timer, another socket): serve what was left once that is over, before anybody
    // could stop the device and save a state in which it is missing.
    this.#options.reactor.follow(() => this.#resume());
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
    while (this.open && !this.#dispatcher.unwinding && this.#dispatcher.serveNext(true)) served = true;
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
    // An orchestrator sends several requests at a time and is woken once for all replies; a client waits for each.
    if (this.#options.role === 'migration') this.#socket.cork();
    try {
      this.#queue.drain();
      do {
        while (this.open && !this.blocked && left > 0 && this.#dispatcher.serveNext(false)) {
          left -= 1;
          found = true;
          this.#gatherOfMaps();
          if (this.#queue.length > 0) this.#queue.drain();
        }
      } while (left > 0 && !this.blocked && this.#receiveMore(found));
    } catch (error) {
      // Ours, not the device's, whose errors have been answered: this client can't be trusted to be in step.
      this.#logger.error({ err: error }, 'the server failed');
      this.#socket.close('the server failed');
    } finally {
      this.#serving = false;
      this.#socket.uncork();
    }
    if (left === 0 && this.open && this.#socket.pending) this.#options.reactor.defer(() => this.#resume());
    return found;
  }

  /** QEMU changes many mappings at once, and is woken for each reply although it waits for the last one alone. */
  #gatherOfMaps(): void {
    if (this.#options.role !== 'device') return;
    if (this.#dispatcher.answeredMap) this.#socket.cork();
    else this.#socket.uncork();
  }

  /** After anything that may have closed the socket or filled its output: adjusts what is waited for. */
  #settle(): void {
    if (!this.open) {
      if (this.#ended || this.#waits > 0 || this.#serving || this.#queue.draining) return;
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
    if (!served || this.#dispatcher.answeredMap) return this.#socket.receive();
    if (!this.#dispatcher.answeredRead) return false;
    return this.#linger.for(this.#receive);
  }

  #end(): void {
    this.#ended = true;
    this.#watch.close();
    this.#poller?.close();
    this.#outputTimer.close();
    this.#negotiationTimer.close();
    this.#queue.clear();
    const { device, role } = this.#options;
    if (this.#dispatcher.negotiated && role === 'device') {
      try {
        device.detach();
      } catch (error) {
        this.#logger.error({ err: error }, 'the device failed when its client left');
      }
    }
    this.#logger.info({ reason: this.#socket.reason }, 'client gone');
    this.#socket.release();
    this.#options.onEnd(this);
  }

  #enqueue(bytes: number, run: () => void): void {
    if (!this.#queue.add(bytes, run)) this.drop('it floods the device while that waits for a DMA reply');
  }
}
