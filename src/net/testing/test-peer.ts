import { ethernet, etherType, MAC_LENGTH, parseMac } from '../ethernet.ts';
import type { NetPort } from '../types.ts';
import {
  arp,
  arpMessage,
  arpOperation,
  broadcastMac,
  type Ends,
  ethernetFrame,
  icmp,
  icmpEcho,
  icmpType,
  internetChecksum,
  ipProtocol,
  ipv4,
  ipv4Frame,
  parseIp,
  udp,
  udpDatagram,
} from './packets.ts';

const VLAN_TAG = 4;

export interface TestPeerOptions {
  readonly mac: string;
  readonly ip: string;
  /** UDP port whose datagrams go back. Default 7 (RFC 862). */
  readonly echoPort?: number;
}

/** What a peer has seen. */
export interface TestPeerEvents {
  /** An echo reply to one of our pings. */
  pong?(sequence: number, from: string): void;
  /** A datagram for another port than that of the echo. */
  datagram?(data: Uint8Array, from: { ip: string; port: number }, to: number): void;
}

/**
 * A host that needs no kernel: answers ARP, ping and UDP echo, and sends its own. Frames with a VLAN tag are
 * answered with the same tag. For tests where no tap can be made.
 */
export class TestPeer {
  readonly mac: Uint8Array;
  readonly ip: Uint8Array;
  /** Frames with a wrong IP, ICMP or UDP checksum; they are not answered. */
  badChecksums = 0;
  readonly #port: NetPort;
  readonly #echoPort: number;
  readonly #events: TestPeerEvents;
  readonly #neighbours = new Map<string, Uint8Array>();
  /** What waits for an address to be resolved. */
  readonly #waiting = new Map<string, ((mac: Uint8Array) => void)[]>();
  #tag: Buffer | undefined;

  constructor(port: NetPort, options: TestPeerOptions, events: TestPeerEvents = {}) {
    this.mac = parseMac(options.mac);
    this.ip = parseIp(options.ip);
    this.#port = port;
    this.#echoPort = options.echoPort ?? 7;
    this.#events = events;
    port.receive((frame) => {
      this.#frame(Buffer.from(frame.buffer, frame.byteOffset, frame.length));
      return true;
    });
  }

  ping(ip: string, sequence: number, data: Uint8Array = new Uint8Array(48)): void {
    this.#toIp(ip, ipProtocol.icmp, icmpEcho(icmpType.echo, 1, sequence, data));
  }

  sendDatagram(ip: string, from: number, to: number, data: Uint8Array): void {
    const ends = { source: this.ip, destination: parseIp(ip) };
    this.#toIp(ip, ipProtocol.udp, udpDatagram(ends, from, to, data));
  }

  #toIp(ip: string, protocol: number, payload: Uint8Array): void {
    const send = (mac: Uint8Array) => this.#send(ipv4Frame(this.#ends(mac, parseIp(ip)), protocol, payload));
    const known = this.#neighbours.get(ip);
    if (known !== undefined) {
      send(known);
      return;
    }
    this.#waiting.set(ip, [...(this.#waiting.get(ip) ?? []), send]);
    const question = arpMessage(
      arpOperation.request,
      { mac: this.mac, ip: this.ip },
      { mac: new Uint8Array(MAC_LENGTH), ip: parseIp(ip) },
    );
    this.#send(ethernetFrame(broadcastMac, this.mac, etherType.arp, question));
  }

  #ends(mac: Uint8Array, ip: Uint8Array): Ends {
    return { sourceMac: this.mac, destinationMac: mac, source: this.ip, destination: ip };
  }

  #send(frame: Buffer): void {
    const tagged =
      this.#tag === undefined
        ? frame
        : Buffer.concat([frame.subarray(0, ethernet.type), this.#tag, frame.subarray(ethernet.type)]);
    this.#port.send([tagged], tagged.length);
  }

  #frame(frame: Buffer): void {
    const mine = this.mac.every((byte, index) => frame[index] === byte);
    if (!mine && ((frame[0] ?? 0) & 1) === 0) return;
    const isTagged = frame.readUInt16BE(ethernet.type) === etherType.vlan;
    const start = ethernet.headerLength + (isTagged ? VLAN_TAG : 0);
    if (frame.length < start) return;
    this.#tag = isTagged ? Buffer.from(frame.subarray(ethernet.type, ethernet.type + VLAN_TAG)) : undefined;
    try {
      const type = frame.readUInt16BE(start - 2);
      if (type === etherType.arp) this.#arp(frame.subarray(start));
      else if (type === etherType.ipv4) this.#ipv4(frame.subarray(start), frame);
    } finally {
      this.#tag = undefined;
    }
  }

  #arp(message: Buffer): void {
    if (message.length < arp.size) return;
    const ip = dotted(message.subarray(arp.senderIp));
    const mac = Buffer.from(message.subarray(arp.senderMac, arp.senderMac + MAC_LENGTH));
    this.#neighbours.set(ip, mac);
    for (const send of this.#waiting.get(ip) ?? []) send(mac);
    this.#waiting.delete(ip);
    const forUs = message.subarray(arp.targetIp, arp.targetIp + 4).equals(this.ip);
    if (!forUs || message.readUInt16BE(arp.operation) !== arpOperation.request) return;
    const reply = arpMessage(
      arpOperation.reply,
      { mac: this.mac, ip: this.ip },
      { mac, ip: message.subarray(arp.senderIp, arp.senderIp + 4) },
    );
    this.#send(ethernetFrame(mac, this.mac, etherType.arp, reply));
  }

  #ipv4(packet: Buffer, frame: Buffer): void {
    if (packet.length < ipv4.size || packet[0] !== 0x45) return;
    const total = packet.readUInt16BE(ipv4.totalLength);
    if (total < ipv4.size || total > packet.length) return;
    if (!packet.subarray(ipv4.destination, ipv4.destination + 4).equals(this.ip)) return;
    if (internetChecksum(packet.subarray(0, ipv4.size)) !== 0) {
      this.badChecksums++;
      return;
    }
    const payload = packet.subarray(ipv4.size, total);
    const mac = Buffer.from(frame.subarray(ethernet.source, ethernet.source + MAC_LENGTH));
    const source = Buffer.from(packet.subarray(ipv4.source, ipv4.source + 4));
    const protocol = packet.readUInt8(ipv4.protocol);
    if (protocol === ipProtocol.icmp) this.#icmp(payload, mac, source);
    else if (protocol === ipProtocol.udp) this.#udp(payload, mac, source);
  }

  #icmp(message: Buffer, mac: Uint8Array, source: Uint8Array): void {
    if (message.length < icmp.size) return;
    if (internetChecksum(message) !== 0) {
      this.badChecksums++;
      return;
    }
    const sequence = message.readUInt16BE(icmp.sequence);
    const type = message.readUInt8(icmp.type);
    if (type === icmpType.echoReply) this.#events.pong?.(sequence, dotted(source));
    if (type !== icmpType.echo) return;
    const data = message.subarray(icmp.size);
    const reply = icmpEcho(icmpType.echoReply, message.readUInt16BE(icmp.id), sequence, data);
    this.#send(ipv4Frame(this.#ends(mac, source), ipProtocol.icmp, reply));
  }

  #udp(datagram: Buffer, mac: Uint8Array, source: Uint8Array): void {
    if (datagram.length < udp.size) return;
    const from = datagram.readUInt16BE(udp.source);
    const to = datagram.readUInt16BE(udp.destination);
    const data = datagram.subarray(udp.size);
    if (datagram.readUInt16BE(udp.checksum) !== 0) {
      const again = udpDatagram({ source, destination: this.ip }, from, to, data);
      if (again.readUInt16BE(udp.checksum) !== datagram.readUInt16BE(udp.checksum)) {
        this.badChecksums++;
        return;
      }
    }
    if (to !== this.#echoPort) {
      this.#events.datagram?.(data, { ip: dotted(source), port: from }, to);
      return;
    }
    const ends = this.#ends(mac, source);
    this.#send(ipv4Frame(ends, ipProtocol.udp, udpDatagram(ends, to, from, data)));
  }
}

function dotted(ip: Uint8Array): string {
  return Array.from(ip.subarray(0, 4)).join('.');
}
