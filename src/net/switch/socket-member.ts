import { errno, errnoOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { type Reactor, ready, type Watch } from '../../loop/types.ts';
import { closeFd, type RawArea, rawArea, recvBytes, sendArea, setSocketBuffers } from '../../posix/index.ts';
import { MAX_FRAME } from '../ethernet.ts';
import { FrameQueue, type QueueLimits, RECORD_HEADER, recordLength } from '../frame-queue.ts';
import { Member } from './member.ts';
import { encodeControl, MAX_DATAGRAM, type Notice, recordKinds } from './protocol.ts';

/** Datagrams taken from one port before the others have their turn. */
const DATAGRAMS_PER_TURN = 16;
/** More than fit into a socket's buffers: who goes on sending while it is read must not keep the switch there. */
const MAX_PENDING = 4096;
/** A peer that lets this much of what the switch has to tell it pile up is not reading. */
const CONTROL_LIMITS: QueueLimits = { frames: 64, bytes: 64 * 1024 };
const SOCKET_BUFFER = 1024 * 1024;
/** A datagram that is as long gets no further frame; with one less it may get the longest. */
const SEND_BYTES = MAX_DATAGRAM - RECORD_HEADER - MAX_FRAME;

export interface SocketMemberEvents {
  /** A datagram lies in `area`; may throw to have the port disconnected. */
  datagram(member: SocketMember, area: RawArea, length: number): void;
  closed(member: SocketMember): void;
}

/** A port whose other end is a process, on a seqpacket socket. */
export class SocketMember extends Member {
  readonly #fd: number;
  readonly #watch: Watch;
  readonly #control = new FrameQueue(CONTROL_LIMITS);
  readonly #area: RawArea;
  readonly #events: SocketMemberEvents;
  readonly #log: Logger;
  /** Has said hello, so it is a port and not just a tool that asks. */
  joined = false;
  #wantsRoom = false;
  /** Datagrams of this port are being looked at. */
  #receiving = false;
  /** Sent what it must not; to be disconnected. */
  #broken = false;
  /** The other end is gone and can be told nothing more. What it had sent before is taken all the same. */
  #deaf = false;
  /** The kernel has told that the other end left something unread. */
  #reset = false;

  /** @param area where datagrams are received; shared, as they are handled one at a time */
  constructor(
    number: number,
    fd: number,
    limits: QueueLimits,
    area: RawArea,
    context: { reactor: Reactor; log: Logger; events: SocketMemberEvents },
  ) {
    super(number, `port ${number}`, limits);
    // Until the hello it is no port: what it sends as one is dropped.
    this.state = 'standby';
    this.#fd = fd;
    this.#area = area;
    this.#events = context.events;
    this.#log = context.log;
    setSocketBuffers(fd, SOCKET_BUFFER);
    this.#watch = context.reactor.watch(fd, ready.read, (readiness) => this.#ready(readiness));
  }

  override notify(notice: Notice): void {
    if (this.gone || this.#deaf) return;
    const body = encodeControl(notice);
    if (!this.#control.push([body], body.length, recordKinds.control)) {
      this.#log.warn({ port: this.name }, 'port does not read what the switch tells it: disconnected');
      this.disconnect();
      return;
    }
    this.#flush();
  }

  override disconnect(): void {
    if (this.gone) return;
    this.gone = true;
    this.#watch.close();
    closeFd(this.#fd);
    this.#events.closed(this);
  }

  override receivePending(): void {
    // From within one of its own datagrams there is no other order than the one they are in.
    if (this.#receiving || this.gone) return;
    // The shared area holds the datagram that this is called from.
    const area = rawArea(MAX_DATAGRAM);
    try {
      this.#receive(area, MAX_PENDING);
    } catch (error) {
      // Called in the middle of somebody else's affairs: the connection ends when it is its own turn.
      this.#log.warn({ port: this.name, err: error }, 'port sent what is no datagram of this protocol');
      this.#broken = true;
    }
  }

  protected override transmit(area: RawArea, start: number, end: number): number {
    if (this.gone) return 0;
    // Notices go first: they are about what follows.
    if (this.#control.length > 0 && !this.#sendControl()) return 0;
    let at = start;
    while (at < end) {
      let stop = end;
      if (end - at > SEND_BYTES) {
        stop = at;
        do stop += RECORD_HEADER + recordLength(area.bytes, stop);
        while (stop < end && stop - at < SEND_BYTES);
      }
      if (this.#send(area, at, stop - at) <= 0) break;
      at = stop;
    }
    this.countOut(area.bytes, start, at);
    return at - start;
  }

  protected override wantRoom(on: boolean): void {
    this.#wantsRoom = on;
    this.#update();
  }

  #ready(readiness: number): void {
    if ((readiness & ready.write) !== 0) this.#flush();
    if ((readiness & (ready.read | ready.hangup)) === 0) return;
    try {
      if (this.#broken || this.#receive(this.#area, DATAGRAMS_PER_TURN)) this.disconnect();
    } catch (error) {
      this.#log.warn({ port: this.name, err: error }, 'port disconnected');
      this.disconnect();
    }
  }

  /** Looks at up to `most` datagrams; true when the other end has hung up. */
  #receive(area: RawArea, most: number): boolean {
    this.#receiving = true;
    try {
      for (let count = 0; count < most && !this.gone; count++) {
        const length = this.#next(area);
        if (length < 0) return false;
        if (length === 0) return true;
        this.#events.datagram(this, area, length);
      }
      return false;
    } finally {
      this.#receiving = false;
    }
  }

  /** Length of the next datagram, 0 at the end, below 0 when there is none now. */
  #next(area: RawArea): number {
    try {
      return recvBytes(this.#fd, area.bytes, 0, MAX_DATAGRAM, false);
    } catch (error) {
      // It went without having read everything. The kernel tells that once, before what it had sent.
      if (this.#reset || errnoOf(error) !== errno.ECONNRESET) throw error;
      this.#reset = true;
      this.#deaf = true;
      return recvBytes(this.#fd, area.bytes, 0, MAX_DATAGRAM, false);
    }
  }

  #flush(): void {
    if (this.#control.length > 0) this.#sendControl();
    if (!this.gone && this.#control.length === 0) this.drain();
    this.#update();
  }

  #sendControl(): boolean {
    const queue = this.#control;
    if (this.#send(queue.area, queue.head, queue.length) > 0) queue.clear();
    return queue.length === 0;
  }

  #send(area: RawArea, at: number, length: number): number {
    if (this.gone || this.#deaf) return 0;
    try {
      return sendArea(this.#fd, area, at, length);
    } catch (error) {
      this.#log.debug({ port: this.name, err: error }, 'port gone');
      const code = errnoOf(error);
      const hungUp = code === errno.EPIPE || code === errno.ECONNRESET;
      // The connection ends when it has been read to its end: its guest's last frames lie there.
      if (hungUp) this.#deaf = true;
      else this.disconnect();
      return 0;
    }
  }

  #update(): void {
    if (this.gone) return;
    const more = !this.#deaf && (this.#wantsRoom || this.#control.length > 0);
    this.#watch.modify(more ? ready.read | ready.write : ready.read);
  }
}
