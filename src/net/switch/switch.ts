import { limitedLogger } from '../../limited-logger.ts';
import { Listener } from '../../loop/listener.ts';
import { closeFd, listenUnix, type RawArea, rawArea } from '../../posix/index.ts';
import { NetError, NetProtocolError } from '../errors.ts';
import { parseMac } from '../ethernet.ts';
import type { QueueLimits } from '../frame-queue.ts';
import type { HostPort, PortContext } from '../port.ts';
import { Fabric } from './fabric.ts';
import type { Member, MemberStats } from './member.ts';
import {
  decodeRequest,
  MAX_DATAGRAM,
  type PortState,
  PROTOCOL_VERSION,
  type Request,
  recordKinds,
} from './protocol.ts';
import { SocketMember } from './socket-member.ts';
import { Succession } from './succession.ts';
import { UplinkMember } from './uplink-member.ts';

export interface SwitchOptions extends PortContext {
  /** Where ports connect; no listening without. */
  readonly path?: string;
  /** What is kept for one parked port. Default: 1,024 frames, 4 MiB. */
  readonly parkLimits?: QueueLimits;
  /** What waits for one port that is slow. Default: 1,024 frames, 1 MiB. */
  readonly queueLimits?: QueueLimits;
  /** Seconds after which a silent address is forgotten. Default 300. */
  readonly ageSeconds?: number;
  /** Addresses in the forwarding table, and of these for one port. Default 8,192 and 2,048. */
  readonly addresses?: number;
  readonly addressesPerPort?: number;
  /** Ports at the same time, uplinks among them. Default 64. */
  readonly maxPorts?: number;
  /** Seconds that frames are kept for a parked port whose process is gone. Default 60. */
  readonly parkSeconds?: number;
  /** Seconds that a successor waits for a parking port that does not finish. Default 1. */
  readonly returnSeconds?: number;
}

export const defaultParkLimits: QueueLimits = { frames: 1024, bytes: 4 * 1024 * 1024 };
const defaultQueueLimits: QueueLimits = { frames: 1024, bytes: 1024 * 1024 };

export const defaultMaxPorts = 64;

/** Connections beside those of ports: tools that ask, and who has not said hello yet. */
const SPARE_CONNECTIONS = 16;

/** Pulled cables that are remembered; beyond, the one that was pulled first is forgotten. */
const MAX_PULLED = 1024;

/** One port as `stats` shows it. */
export interface SwitchPortStats extends MemberStats {
  readonly port: number;
  readonly name: string;
  readonly identity?: string;
  readonly state: PortState;
  readonly link: boolean;
  readonly queued: number;
}

export interface SwitchStats {
  readonly addresses: number;
  readonly ports: readonly SwitchPortStats[];
  /** The counters of ports that have left since, in one. */
  readonly departed: Pick<MemberStats, 'inFrames' | 'outFrames' | 'dropped' | 'parkDropped'>;
}

/** A learning switch: devices and peers join it over a UNIX socket; frames for a migrating one wait in it. */
export class Switch {
  readonly #options: SwitchOptions;
  readonly #fabric: Fabric;
  readonly #succession: Succession;
  readonly #area: RawArea = rawArea(MAX_DATAGRAM);
  /** Everybody connected, ports and tools alike, by number. */
  readonly #connected = new Map<number, Member>();
  /** Identities whose cable is pulled, present or not: a NIC that moves is not plugged in by that. */
  readonly #pulled = new Set<string>();
  readonly #listener: Listener | undefined;
  #closed = false;

  constructor(options: SwitchOptions) {
    const log = limitedLogger(options.log, () => options.reactor.now());
    this.#options = { ...options, log };
    this.#fabric = new Fabric(
      {
        entries: options.addresses ?? 8192,
        ageSeconds: options.ageSeconds ?? 300,
        perPort: options.addressesPerPort ?? 2048,
      },
      () => this.#seconds(),
    );
    this.#succession = new Succession({
      reactor: options.reactor,
      log,
      fabric: this.#fabric,
      parkLimits: options.parkLimits ?? defaultParkLimits,
      parkSeconds: options.parkSeconds ?? 60,
      maxAbandoned: this.#maxPorts,
      returnSeconds: options.returnSeconds ?? 1,
    });
    const { path, reactor } = options;
    if (path === undefined) return;
    const accepted = (fd: number): void => this.#accept(fd);
    this.#listener = new Listener(listenUnix(path, { type: 'seqpacket' }), { reactor, log, path, accepted });
  }

  get stats(): SwitchStats {
    const ports = this.#fabric.ports.map((member) => ({
      port: member.number,
      name: member.name,
      ...(member.identity === undefined ? {} : { identity: member.identity }),
      state: member.state,
      link: member.link,
      queued: member.queue.frames + (member.returned?.frames ?? 0),
      ...member.stats,
    }));
    return { addresses: this.#fabric.table.size, ports, departed: { ...this.#fabric.departed } };
  }

  /** Joins another port (a tap, a stream) to the switch, which owns it from then on. */
  addUplink(port: HostPort, name: string): void {
    const member = new UplinkMember(this.#freeNumber(), name, this.#queueLimits, port, (from, area, length) =>
      this.#fabric.receive(from, area, length, () => {}),
    );
    this.#connected.set(member.number, member);
    this.#fabric.add(member);
  }

  /**
   * Pulls or plugs the cable of every port with this identity, name or number. The cable is the NIC's: all ports of
   * the same identity have one, those in stand-by, too, and those that join later, as long as this switch lives.
   * The cable of a port that says no identity goes with it.
   *
   * @throws NetError when there is none
   */
  setLink(name: string, up: boolean): void {
    const { ports } = this.#fabric;
    const named = ports.filter(
      (port) => port.identity === name || port.name === name || String(port.number) === name,
    );
    const identities = new Set(named.map((port) => port.identity));
    identities.delete(undefined);
    // Maybe nobody is there who has it; it can be plugged in all the same.
    if (this.#pulled.has(name)) identities.add(name);
    if (named.length === 0 && identities.size === 0) throw new NetError(`the switch has no port "${name}"`);
    for (const identity of identities) if (identity !== undefined) this.#remember(identity, up);
    for (const port of ports) {
      if (!named.includes(port) && !identities.has(port.identity)) continue;
      port.link = up;
      port.notify({ op: 'link', up });
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const member of [...this.#connected.values()]) member.disconnect();
    this.#succession.close();
    this.#listener?.close();
  }

  #remember(identity: string, up: boolean): void {
    this.#pulled.delete(identity);
    if (up) return;
    this.#pulled.add(identity);
    const [oldest] = this.#pulled;
    // Clients make identities up; without a bound they could fill the memory with them.
    if (this.#pulled.size > MAX_PULLED && oldest !== undefined) this.#pulled.delete(oldest);
  }

  get #maxPorts(): number {
    return this.#options.maxPorts ?? defaultMaxPorts;
  }

  /** How many are connected. */
  get #ports(): number {
    let ports = 0;
    for (const member of this.#connected.values())
      if (!(member instanceof SocketMember) || member.joined) ports += 1;
    return ports;
  }

  get #queueLimits(): QueueLimits {
    return this.#options.queueLimits ?? defaultQueueLimits;
  }

  #seconds(): number {
    return this.#options.reactor.now() / 1e9;
  }

  #freeNumber(): number {
    let number = 0;
    // A parked port whose process is gone is not connected but keeps its number.
    while (this.#connected.has(number) || this.#fabric.at(number) !== undefined) number++;
    return number;
  }

  #accept(fd: number): void {
    const { log, reactor } = this.#options;
    if (this.#connected.size >= this.#maxPorts + SPARE_CONNECTIONS) {
      log.warn('too many connections: one is refused');
      closeFd(fd);
      return;
    }
    const member = new SocketMember(this.#freeNumber(), fd, this.#queueLimits, this.#area, {
      reactor,
      log,
      events: {
        datagram: (from, area, length) => this.#datagram(from, area, length),
        closed: (from) => this.#disconnected(from),
      },
    });
    this.#connected.set(member.number, member);
  }

  #disconnected(member: SocketMember): void {
    this.#connected.delete(member.number);
    if (!member.joined) return;
    this.#options.log.info({ port: member.name }, 'port left');
    if (this.#closed) this.#fabric.remove(member);
    else this.#succession.gone(member);
  }

  #datagram(from: SocketMember, area: RawArea, length: number): void {
    if (!from.joined && area.bytes.readUInt8(0) !== recordKinds.control)
      throw new NetProtocolError('frames before the hello');
    this.#fabric.receive(from, area, length, this.#other);
  }

  readonly #other = (from: Member, kind: number, bytes: Buffer, start: number, end: number): void => {
    if (!(from instanceof SocketMember)) return;
    if (kind === recordKinds.control) {
      this.#request(from, decodeRequest(bytes.subarray(start, end)));
      return;
    }
    if (from.returned === undefined) {
      // Comes too late: the successor's deadline is over.
      if (from.state === 'active' || !from.joined)
        throw new NetProtocolError('frames returned by a port in use');
      from.stats.parkDropped++;
    } else if (!from.returned.push([bytes.subarray(start, end)], end - start)) from.stats.parkDropped++;
  };

  #request(from: SocketMember, request: Request): void {
    if (request.op === 'hello') this.#hello(from, request);
    else if (request.op === 'setLink') this.#answer(from, () => this.setLink(request.port, request.up));
    else if (request.op === 'stats') from.notify({ op: 'stats', stats: this.stats });
    else if (!from.joined) throw new NetProtocolError(`${request.op} before the hello`);
    else if (request.op === 'park') this.#succession.park(from);
    else if (request.op === 'returned') this.#succession.returnComplete(from);
    else if (request.op === 'activate') this.#succession.activate(from);
    else if (request.op === 'standby') this.#succession.standby(from);
    else {
      const mac = Buffer.from(parseMac(request.mac));
      this.#succession.announce(from, mac.readUInt16BE(0), mac.readUInt32BE(2), this.#seconds());
    }
  }

  #answer(to: SocketMember, action: () => void): void {
    try {
      action();
      to.notify({ op: 'done', ok: true });
    } catch (error) {
      if (!(error instanceof NetError)) throw error;
      to.notify({ op: 'done', ok: false, reason: error.message });
    }
  }

  #hello(from: SocketMember, hello: Request & { op: 'hello' }): void {
    if (from.joined) throw new NetProtocolError('a second hello');
    if (hello.version !== PROTOCOL_VERSION)
      throw new NetProtocolError(`protocol version ${hello.version}, this switch speaks ${PROTOCOL_VERSION}`);
    const { log } = this.#options;
    const ports = this.#ports;
    if (ports >= this.#maxPorts) {
      log.warn({ port: hello.name ?? hello.identity, ports }, 'too many ports: one is refused (--max-ports)');
      from.disconnect();
      return;
    }
    from.joined = true;
    from.identity = hello.identity;
    from.link = hello.identity === undefined || !this.#pulled.has(hello.identity);
    from.name = hello.name ?? hello.identity ?? from.name;
    from.state = this.#succession.initialState(from);
    this.#fabric.add(from);
    log.info({ port: from.name, number: from.number, state: from.state }, 'port joined');
    from.notify({ op: 'welcome', port: from.number, state: from.state, link: from.link });
  }
}
