import { ready } from '../../loop/types.ts';
import { connectUnix, pollFd, recvBytes, sendArea, setSocketBuffers } from '../../posix/index.ts';
import { NetProtocolError, noSwitch } from '../errors.ts';
import { ethernet, formatMac, MAX_FRAME } from '../ethernet.ts';
import { type QueueLimits, RECORD_HEADER } from '../frame-queue.ts';
import type { PortContext } from '../port.ts';
import { SOCKET_BUFFER, SocketPort } from '../socket-port.ts';
import {
  decodeNotice,
  encodeControl,
  MAX_DATAGRAM,
  type PortState,
  PROTOCOL_VERSION,
  type Request,
  recordEnd,
  recordKinds,
} from './protocol.ts';

export interface SwitchPortOptions extends PortContext {
  readonly path: string;
  /**
   * Which NIC this is, the same at source and destination of a migration: a second port of the same identity
   * waits in stand-by. Without, only `announce` takes over, by MAC address.
   */
  readonly identity?: string;
  readonly name?: string;
  /** Milliseconds between attempts to reach a switch that went away. Default 250. */
  readonly reconnectMs?: number;
}

const sendLimits: QueueLimits = { frames: 4096, bytes: 1024 * 1024 };
/** Control messages and returned frames always find room: there are few of them. */
const controlLimits: QueueLimits = { frames: 65536, bytes: 8 * 1024 * 1024 };
const FLUSH_BYTES = 32 * 1024;
/** Most bytes in one datagram; the longest frame fits. */
const SEND_BYTES = RECORD_HEADER + MAX_FRAME + 2048;
const DATAGRAMS_PER_TURN = 16;
const NS_PER_MS = 1e6;
const closingMs = 1000;

/** A port of a switch in another process (or in this one). */
export class SwitchPort extends SocketPort {
  readonly kind = 'switch';
  readonly #options: SwitchPortOptions;
  #state: PortState = 'active';
  /** Between `park()` and the switch's answer: frames that still come go back. */
  #returning = false;
  #activateNext = false;
  /** Put in charge while there was no switch that had answered: the next one is told. */
  #claiming = false;
  /** The switch has answered the hello. Before, on a further attempt, the link stays down: it may be about to hang up. */
  #welcome = false;
  #refused = false;
  #away = false;

  /** @throws NetError when no switch is there */
  constructor(options: SwitchPortOptions) {
    super(options, {
      send: sendLimits,
      flushBytes: FLUSH_BYTES,
      receiveBytes: MAX_DATAGRAM,
      reconnectMs: options.reconnectMs ?? 250,
    });
    this.#options = options;
    try {
      this.#connect(false);
    } catch (error) {
      this.giveUp();
      throw noSwitch(options.path, error);
    }
  }

  /** What this port is to the switch, as far as is known here. */
  get state(): PortState {
    return this.#state;
  }

  /** Parked, a port still sends: its device finishes what its guest had begun. */
  protected override get sending(): boolean {
    return super.sending && this.#state !== 'standby';
  }

  override ready(): void {
    if (this.processing || this.inAt === this.inEnd) return;
    try {
      if (!this.#process()) return;
    } catch (error) {
      this.lost(error);
      return;
    }
    this.readable();
  }

  override park(): boolean {
    super.park();
    this.#claiming = false;
    if (this.connection === undefined || this.#state !== 'active') return false;
    this.#activateNext = false;
    if (this.#returning) return true;
    this.#control({ op: 'park' });
    this.#returning = true;
    this.ready();
    return true;
  }

  override standby(): void {
    super.standby();
    this.#claiming = false;
    this.#activateNext = false;
    this.#state = 'standby';
    this.#control({ op: 'standby' });
    this.ready();
  }

  override activate(): void {
    super.activate();
    if (this.#returning && this.connection !== undefined) {
      this.#activateNext = true;
      return;
    }
    this.#state = 'active';
    this.#claiming = !this.#welcome;
    this.#control({ op: 'activate' });
  }

  override announce(mac: Uint8Array, vlan?: number): void {
    super.activate();
    if (!this.#returning) this.#state = 'active';
    this.#control({ op: 'announce', mac: formatMac(mac) });
    // And for bridges behind the switch, which has one table for all VLANs itself:
    super.announce(mac, vlan);
  }

  /**
   * A port that is being parked first gives back what the switch had sent it before it knew, and sends what it has: both would be lost with
   * it. A switch that does not answer is waited for `closingMs`.
   */
  override close(): void {
    const deadline = this.reactor.now() + closingMs * NS_PER_MS;
    const leftMs = (): number => Math.ceil((deadline - this.reactor.now()) / NS_PER_MS);
    while (this.#returning && this.connection !== undefined && leftMs() > 0) {
      const writing = this.out.length > 0 ? ready.write : 0;
      pollFd(this.connection.fd, ready.read | writing, leftMs());
      this.flush();
      this.readable();
    }
    this.drain(Math.max(0, leftMs()));
    super.close();
  }

  #connect(again: boolean): void {
    // A guest is being served meanwhile: it can't wait for a switch that accepts nobody.
    const fd = connectUnix(this.#options.path, 'seqpacket', { nonBlocking: again });
    setSocketBuffers(fd, SOCKET_BUFFER);
    this.use(fd, ready.read);
    this.#returning = false;
    const { identity, name } = this.#options;
    this.#control({
      op: 'hello',
      version: PROTOCOL_VERSION,
      ...(identity === undefined ? {} : { identity }),
      ...(name === undefined ? {} : { name }),
    });
    if (this.#state === 'standby') this.#control({ op: 'standby' });
    else this.#state = 'active';
    if (this.#claiming) this.#control({ op: 'activate' });
    if (!again) this.setPeer(true);
  }

  protected override reconnect(): void {
    try {
      this.#connect(true);
    } catch {
      this.retryLater();
    }
  }

  protected override aboutToLose(error: unknown): void {
    const about = { path: this.#options.path, err: error };
    if (this.#welcome) this.log.warn(about, 'switch is gone');
    else if (!this.#refused)
      this.log.warn(about, 'the switch refuses this port: has it as many as it takes (switch --max-ports)?');
    this.#refused = !this.#welcome;
    this.#welcome = false;
    this.#away = true;
  }

  #control(request: Request): void {
    if (this.connection === undefined) return;
    this.#pushAlways(encodeControl(request), recordKinds.control);
    this.flush();
  }

  #pushAlways(body: Uint8Array, kind: number): void {
    this.out.limits = controlLimits;
    if (!this.out.push([body], body.length, kind)) this.stats.receiveDropped++;
    this.out.limits = sendLimits;
  }

  protected override transmit(fd: number): number {
    const { out } = this;
    return sendArea(fd, out.area, out.head, out.run(SEND_BYTES));
  }

  /** Reads unless the handler has no room: then what comes waits in the socket, and in the switch. */
  protected override updateInterest(): void {
    const reading = this.inAt === this.inEnd ? ready.read : 0;
    const writing = this.out.length > 0 ? ready.write : 0;
    this.connection?.watch.modify(reading | writing);
  }

  protected override readable(): void {
    try {
      for (let turn = 0; turn < DATAGRAMS_PER_TURN; turn++) {
        const connection = this.connection;
        if (connection === undefined || this.inAt !== this.inEnd) return;
        const length = recvBytes(connection.fd, this.in.bytes, 0, MAX_DATAGRAM, false);
        if (length < 0) break;
        if (length === 0) {
          this.lost(undefined);
          return;
        }
        this.inAt = 0;
        this.inEnd = length;
        if (!this.#process()) return;
      }
    } catch (error) {
      this.lost(error);
      return;
    }
    this.updateInterest();
  }

  /** Hands over what was received; false when the handler has no room, or the connection is gone. */
  #process(): boolean {
    this.processing = true;
    try {
      while (this.inAt < this.inEnd) {
        const start = this.inAt + RECORD_HEADER;
        const end = recordEnd(this.in.bytes, this.inAt, this.inEnd);
        const kind = this.in.bytes.readUInt8(this.inAt);
        const body = this.in.bytes.subarray(start, end);
        if (kind === recordKinds.control) this.#notice(body);
        else if (kind !== recordKinds.frame)
          throw new NetProtocolError(`record of kind ${kind} from the switch`);
        else if (!this.#frame(body)) {
          this.updateInterest();
          return false;
        }
        if (this.connection === undefined) return false;
        this.inAt = end;
      }
      return true;
    } finally {
      this.processing = false;
    }
  }

  #frame(frame: Uint8Array): boolean {
    if (this.#returning) this.#pushAlways(frame, recordKinds.returned);
    else if (!this.receiving || this.#state === 'standby' || frame.length < ethernet.headerLength)
      this.stats.receiveDropped++;
    else return this.deliver(frame);
    return true;
  }

  #notice(body: Uint8Array): void {
    const notice = decodeNotice(body);
    switch (notice.op) {
      case 'welcome':
        this.#welcome = true;
        this.#claiming = false;
        if (this.#away) this.log.info({ path: this.#options.path }, 'switch is back');
        this.#away = false;
        this.#state = notice.state;
        this.setPeer(notice.link);
        return;
      case 'link':
        this.setPeer(notice.up);
        return;
      case 'parked':
        this.#returning = false;
        this.#state = 'parked';
        this.#control({ op: 'returned' });
        if (this.#activateNext) this.activate();
        return;
      case 'state':
        if (this.#returning && notice.state !== 'standby') return;
        this.#state = notice.state;
        if (!this.#returning) return;
        // Another was in charge before the switch had read that this one is to be parked: it will not answer that.
        this.#returning = false;
        if (this.#activateNext) this.activate();
        return;
      case 'done':
      case 'stats':
        return;
    }
  }
}
