import { errno, errnoName } from '../../errors.ts';
import type { LimitedLog } from '../../limited-log.ts';
import type { Logger } from '../../log.ts';
import { ready, type Timer, type Watch } from '../../loop/types.ts';
import { closeFd, PosixError, pollFd, setSocketTimeout, shutdownSocket } from '../../posix/index.ts';
import { type Capabilities, defaultOffer, parseCapabilities } from '../../vfio-user/capabilities.ts';
import { command, headerFlags } from '../../vfio-user/constants.ts';
import { header } from '../../vfio-user/structs.ts';
import { DmaChannel } from '../dma/channel.ts';
import type { DmaPort } from '../dma/port.ts';
import { Linger } from '../linger.ts';
import type { ServedDevice } from '../served-device.ts';
import type { ConnectionOptions } from '../server-options.ts';
import type { VfuContext } from './context.ts';
import type { DeviceAdapter } from './device-adapter.ts';
import { capabilitiesOf, maxGreeting, withoutTwinSocket } from './greeting.ts';
import { found, Inbox } from './inbox.ts';
import { maxMessageSize } from './layout.ts';
import { RequestObserver } from './observer.ts';
import { Outbox } from './outbox.ts';

export interface SessionOptions extends ConnectionOptions {
  readonly fd: number;
  readonly context: VfuContext;
  readonly adapter: DeviceAdapter;
  readonly log: Logger;
  readonly limited: LimitedLog;
  /** Bounds everything that the library itself waits for. */
  readonly socketTimeoutMs: number;
  /** How long a message may take to arrive whole. */
  readonly messagePatienceMs: number;
  /** The session is over and nothing of it is on the stack. */
  readonly onEnd: (session: Session) => void;
}

const messagesPerTurn = 256;
const maxWaitDepth = 8;
const nsPerMs = 1e6;
/** How often a message that has not arrived whole is looked at again. */
const partDelayNs = 0.5 * nsPerMs;
/** The longest reply to a DMA message: the most data that is asked for at once, and its structures. */
const largestReply = defaultOffer.maxDataXferSize + 64;
/**
 * One client, served by the library. Every message is looked at before the library gets it, for what the library
 * does not tell its device: who asks for which eventfds, which file is behind a DMA region, when logging of writes
 * begins; and because only so can the device's own messages share the socket with requests. The library's
 * `vfu_sgl_read` takes whatever comes next for its reply.
 */
export class Session implements DmaPort {
  readonly #options: SessionOptions;
  readonly #inbox: Inbox;
  readonly #outbox: Outbox;
  readonly #watch: Watch;
  readonly #poller: Watch;
  readonly #timer: Timer;
  readonly #run: () => number;
  readonly #linger = new Linger();
  readonly #waitingHere = () => this.#inbox.ready;
  /** The last message was a read, after which nothing is left to do. */
  #answeredRead = false;
  #dma: DmaChannel | undefined;
  #observer: RequestObserver | undefined;
  #peer: Capabilities = parseCapabilities(Buffer.alloc(0));
  /** The client is gone, whether or not the library knows. */
  #gone = false;
  /** The library has been told, or never heard of the client. */
  #detached = true;
  #ended = false;
  #waits = 0;
  #serving = false;
  #interest: number = ready.read;
  /** Since when a message lacks its end; 0: none does. */
  #partSince = 0;
  #reason = 'the client left';

  constructor(options: SessionOptions) {
    this.#options = options;
    const { reactor, fd, context } = options;
    setSocketTimeout(fd, options.socketTimeoutMs);
    this.#inbox = new Inbox(fd, largestReply);
    this.#outbox = new Outbox(fd, (error) => this.#hangUp(error.message));
    this.#run = () => context.run();
    this.#timer = reactor.timer(() => this.#onTimer());
    this.#timer.arm(options.negotiationTimeoutMs * nsPerMs);
    this.#watch = reactor.watch(fd, ready.read, () => void this.#serve());
    this.#poller = reactor.poller(() => this.#waits === 0 && this.#partSince === 0 && this.#serve());
  }

  get open(): boolean {
    return !this.#gone;
  }

  get mayWait(): boolean {
    const { adapter } = this.#options;
    return this.open && this.#dma !== undefined && !adapter.inside && this.#waits < maxWaitDepth;
  }

  get blocked(): boolean {
    return this.#outbox.blocked;
  }

  now(): number {
    return this.#options.reactor.now();
  }

  /** Whether the client is still there; notices a disconnect that has not been reported yet. */
  checkAlive(): boolean {
    this.#serve();
    return this.open;
  }

  close(why = 'the server is closing'): void {
    if (this.#ended) return;
    this.#hangUp(why);
    this.#settle();
  }

  // ---- DmaPort

  send(bytes: Buffer, length: number, payload?: Uint8Array): void {
    if (!this.#gone) this.#outbox.send(bytes, length, payload);
  }

  serveWhileWaiting(timeoutMs: number): boolean {
    if (this.#serveNested()) return true;
    const { whileWaiting, fd } = this.#options;
    if (whileWaiting !== undefined) {
      whileWaiting();
      if (this.#serveNested()) return true;
    }
    if (timeoutMs === 0 || this.#gone) return false;
    const interest = this.blocked ? ready.read | ready.write : ready.read;
    pollFd(fd, interest, whileWaiting === undefined ? timeoutMs : 1);
    return this.#serveNested();
  }

  beginWait(): void {
    this.#waits += 1;
    this.#options.adapter.waiting = true;
  }

  endWait(): void {
    this.#waits -= 1;
    if (this.#waits > 0) return;
    this.#options.adapter.waiting = false;
    if (!this.#serving) this.#options.reactor.follow(() => void this.#serve());
  }

  // ---- the loop

  #serve(): boolean {
    if (this.#serving || this.#waits > 0 || this.#ended) return false;
    this.#serving = true;
    let served = false;
    try {
      this.#flush();
      this.#options.adapter.drain();
      for (let left = messagesPerTurn; left > 0 && !this.#gone; left--) {
        this.#answeredRead = false;
        if (!this.#step()) break;
        served = true;
        if (this.#answeredRead && !this.#linger.for(this.#waitingHere)) break;
      }
    } catch (error) {
      this.#serverFailed(error);
    } finally {
      this.#serving = false;
    }
    this.#settle();
    return served;
  }

  #serveNested(): boolean {
    let served = false;
    try {
      this.#flush();
      // Not all that a client might have: who waits has to look at the time.
      for (let left = messagesPerTurn; left > 0; left--) {
        if (this.#gone || this.#dma?.cancelled === true || !this.#step()) break;
        served = true;
      }
    } catch (error) {
      this.#serverFailed(error);
    }
    return served;
  }

  /** Ours, not the device's: the message that it failed at is still there, and would fail again for ever. */
  #serverFailed(error: unknown): void {
    this.#options.log.error({ err: error }, 'the server failed');
    this.#hangUp('the server failed');
  }

  /** One message, if one is there. */
  #step(): boolean {
    const inbox = this.#inbox;
    if (inbox.taking) return this.#takeReply();
    const state = inbox.look(this.#dma === undefined ? maxGreeting : maxMessageSize);
    if (state === found.nothing) return false;
    if (state === found.end) {
      this.#hangUp(this.#reason);
      return false;
    }
    if (state === found.part && this.#mayBecomeWhole()) return false;
    this.#partSince = 0;
    const flags = inbox.bytes.readUInt32LE(header.offsets.flags);
    if (this.#dma === undefined) {
      this.#greet();
      return true;
    }
    if ((flags & headerFlags.typeMask) === headerFlags.typeReply) return this.#takeReply();
    // Replies of the library must not get into the middle of a message of the device.
    if (this.blocked) return false;
    this.#request(inbox.bytes.readUInt16LE(header.offsets.cmd));
    return true;
  }

  /**
   * The library reads a message's body with one recv that is not told to wait for all of it: until it is all
   * there, the library is kept away. A message that never gets whole is the library's in the end.
   */
  #mayBecomeWhole(): boolean {
    const { fd, messagePatienceMs } = this.#options;
    if ((pollFd(fd, ready.read, 0) & ready.hangup) !== 0) {
      this.#hangUp('the client left in the middle of a message');
      return true;
    }
    const now = this.now();
    if (this.#partSince === 0) this.#partSince = now;
    if (this.#dma !== undefined && now - this.#partSince > messagePatienceMs * nsPerMs) return false;
    if (this.#dma !== undefined) this.#timer.arm(partDelayNs);
    return true;
  }

  #onTimer(): void {
    if (this.#dma === undefined) {
      this.#options.log.warn({ why: 'it did not send VERSION in time' }, 'client dropped');
      this.close('it did not send VERSION in time');
    } else void this.#serve();
  }

  #request(cmd: number): void {
    const { adapter } = this.#options;
    this.#observer?.before(cmd);
    const result = adapter.enter(this.#run);
    this.#answeredRead = cmd === command.REGION_READ;
    this.#observer?.after();
    if (result < 0 && result !== -errno.ENOTCONN) this.#failed(-result);
    else if (result === 0 && (pollFd(this.#options.fd, ready.write, 0) & ready.write) === 0) {
      // Each refusal would wait for the socket's timeout.
      this.#hangUp('it does not read its refusals');
    }
    if (adapter.takeLost()) {
      this.#detached = true;
      this.#hangUp(this.#reason);
    }
    adapter.drain();
  }

  /** The library is out of step with its client, or worse. */
  #failed(value: number): void {
    this.#options.log.warn({ errno: value }, `libvfio-user: vfu_run_ctx failed: ${errnoName(value)}`);
    this.#hangUp(`the library failed with ${errnoName(value)}`);
  }

  // ---- negotiation

  #greet(): void {
    const { fd, context, device, log } = this.#options;
    if (this.#inbox.size > maxGreeting) {
      this.close(`its first message claims ${this.#inbox.size} bytes`);
      return;
    }
    const fds: number[] = [];
    try {
      const message = withoutTwinSocket(this.#inbox.take(fds));
      const { attached, reply } = context.attach(fd, message, fds);
      if (attached) this.#accept(message, device);
      if (reply.length > 0) this.send(reply, reply.length);
      if (!attached) this.#hangUp('negotiation failed');
      else log.info({ capabilities: [...this.#peer.proposed] }, 'client connected');
    } catch (error) {
      log.error({ err: error }, 'libvfio-user: negotiation failed');
      this.#hangUp('negotiation failed');
    } finally {
      for (const other of fds) closeFd(other);
    }
  }

  #accept(message: Buffer, device: ServedDevice): void {
    const { adapter, context, dma } = this.#options;
    this.#detached = false;
    try {
      this.#peer = parseCapabilities(capabilitiesOf(message));
    } catch {
      // The library is less strict: what it took is taken, with defaults where it makes no sense.
    }
    const { proposed, maxDataXferSize } = this.#peer;
    const chunk = Math.min(maxDataXferSize, defaultOffer.maxDataXferSize);
    const probe = proposed.has('pgsizes') && proposed.has('max_dma_maps');
    const out = Buffer.allocUnsafeSlow(DmaChannel.outputSize);
    const channel = new DmaChannel(this, out, { ...dma, chunk, probe });
    this.#dma = channel;
    this.#timer.cancel();
    const observer = new RequestObserver(this.#inbox, adapter, device, this.#peer);
    this.#observer = observer;
    const dirty = {
      mark: (iova: number, length: number) => {
        if (observer.logging) context.markDirty(iova, length);
      },
    };
    const unwind = (reset: () => void): boolean => {
      if (this.#waits === 0) return false;
      adapter.postpone(() => {
        channel.allow();
        reset();
      });
      channel.cancel();
      return true;
    };
    adapter.unwind = unwind;
    device.attach({ dma: channel, dirty, settle: () => void this.#serve(), unwind });
  }

  // ---- the device's own messages

  #takeReply(): boolean {
    let reply: Buffer | undefined | false;
    try {
      reply = this.#inbox.takeReply();
    } catch (error) {
      if (!(error instanceof PosixError)) throw error;
      reply = false;
    }
    if (reply === false) {
      this.#hangUp('a reply of it is malformed');
      return false;
    }
    if (reply === undefined) return false;
    const { offsets, size } = header;
    const id = reply.readUInt16LE(offsets.msg_id);
    const cmd = reply.readUInt16LE(offsets.cmd);
    const flags = reply.readUInt32LE(offsets.flags);
    const error = reply.readUInt32LE(offsets.error_no);
    const problem = this.#dma?.onReply(id, cmd, flags, error, reply, size, reply.length - size);
    if (problem !== undefined) this.#options.limited.warn({ id, cmd }, `unexpected reply: ${problem}`);
    return true;
  }

  #flush(): void {
    if (this.blocked && !this.#gone) this.#outbox.flush();
  }

  // ---- the end

  /** From now on nothing is served. What belongs to the end happens once the device is not on the stack. */
  #hangUp(why: string): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#reason = why;
    shutdownSocket(this.#options.fd);
  }

  #settle(): void {
    if (this.#gone) {
      if (!this.#ended && this.#waits === 0 && !this.#serving) this.#end();
      return;
    }
    const partial = this.#partSince !== 0 && this.#dma !== undefined;
    const interest = partial ? 0 : this.blocked ? ready.read | ready.write : ready.read;
    if (interest === this.#interest) return;
    this.#interest = interest;
    this.#watch.modify(interest);
  }

  #end(): void {
    const { fd, adapter, device, log } = this.#options;
    this.#ended = true;
    this.#watch.close();
    this.#poller.close();
    this.#timer.close();
    adapter.clear();
    // The library would carry out what waits on the socket, a message each time, before it comes to the end.
    this.#inbox.discard();
    // Now it notices that the socket is shut, and gives its regions and descriptors back.
    for (let tries = 0; !this.#detached && tries < messagesPerTurn; tries++) {
      const result = adapter.enter(this.#run);
      if (adapter.takeLost() || result === -errno.ENOTCONN) this.#detached = true;
    }
    adapter.clear();
    if (this.#dma !== undefined) {
      try {
        device.detach();
      } catch (error) {
        log.error({ err: error }, 'the device failed when its client left');
      }
    }
    log.info({ reason: this.#reason }, 'client gone');
    closeFd(fd);
    this.#options.onEnd(this);
  }
}
