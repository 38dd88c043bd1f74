import { ethernet, etherType, MAC_LENGTH } from '../ethernet.ts';

/** Offsets in an IPv4 header without options (RFC 791). */
export const ipv4 = {
  totalLength: 2,
  id: 4,
  ttl: 8,
  protocol: 9,
  checksum: 10,
  source: 12,
  destination: 16,
  size: 20,
};
/** RFC 768 */
export const udp = { source: 0, destination: 2, length: 4, checksum: 6, size: 8 };
/** Echo messages of RFC 792. */
export const icmp = { type: 0, code: 1, checksum: 2, id: 4, sequence: 6, size: 8 };
/** RFC 826, for Ethernet and IPv4. */
export const arp = {
  hardware: 0,
  protocol: 2,
  operation: 6,
  senderMac: 8,
  senderIp: 14,
  targetMac: 18,
  targetIp: 24,
  size: 28,
};
export const ipProtocol = { icmp: 1, tcp: 6, udp: 17 } as const;
export const icmpType = { echoReply: 0, echo: 8 } as const;
export const arpOperation = { request: 1, reply: 2 } as const;
export const broadcastMac: Uint8Array = new Uint8Array(MAC_LENGTH).fill(0xff);

/** The internet checksum (RFC 1071) of `bytes`, started with `sum`. */
export function internetChecksum(bytes: Uint8Array, sum = 0): number {
  let total = sum;
  for (let at = 0; at + 1 < bytes.length; at += 2) total += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  if (bytes.length % 2 === 1) total += (bytes[bytes.length - 1] ?? 0) << 8;
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return ~total & 0xffff;
}

export function parseIp(text: string): Uint8Array {
  return Uint8Array.from(text.split('.'), Number);
}

/** Ends of a conversation. */
export interface Ends {
  readonly sourceMac: Uint8Array;
  readonly destinationMac: Uint8Array;
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
}

export function ethernetFrame(
  destination: Uint8Array,
  source: Uint8Array,
  type: number,
  payload: Uint8Array,
): Buffer {
  const frame = Buffer.alloc(Math.max(ethernet.headerLength + payload.length, ethernet.minimumLength));
  frame.set(destination, ethernet.destination);
  frame.set(source, ethernet.source);
  frame.writeUInt16BE(type, ethernet.type);
  frame.set(payload, ethernet.headerLength);
  return frame;
}

export function ipv4Frame(ends: Ends, protocol: number, payload: Uint8Array): Buffer {
  const packet = Buffer.alloc(ipv4.size + payload.length);
  packet.writeUInt8(0x45, 0);
  packet.writeUInt16BE(packet.length, ipv4.totalLength);
  packet.writeUInt8(64, ipv4.ttl);
  packet.writeUInt8(protocol, ipv4.protocol);
  packet.set(ends.source, ipv4.source);
  packet.set(ends.destination, ipv4.destination);
  packet.writeUInt16BE(internetChecksum(packet.subarray(0, ipv4.size)), ipv4.checksum);
  packet.set(payload, ipv4.size);
  return ethernetFrame(ends.destinationMac, ends.sourceMac, etherType.ipv4, packet);
}

export function icmpEcho(type: number, id: number, sequence: number, data: Uint8Array): Buffer {
  const message = Buffer.alloc(icmp.size + data.length);
  message.writeUInt8(type, icmp.type);
  message.writeUInt16BE(id, icmp.id);
  message.writeUInt16BE(sequence, icmp.sequence);
  message.set(data, icmp.size);
  message.writeUInt16BE(internetChecksum(message), icmp.checksum);
  return message;
}

/** A UDP datagram with its checksum over the pseudo-header. */
export function udpDatagram(
  ends: Pick<Ends, 'source' | 'destination'>,
  from: number,
  to: number,
  data: Uint8Array,
): Buffer {
  const datagram = Buffer.alloc(udp.size + data.length);
  datagram.writeUInt16BE(from, udp.source);
  datagram.writeUInt16BE(to, udp.destination);
  datagram.writeUInt16BE(datagram.length, udp.length);
  datagram.set(data, udp.size);
  const pseudo = Buffer.concat([ends.source, ends.destination, Buffer.alloc(4)]);
  pseudo.writeUInt8(ipProtocol.udp, 9);
  pseudo.writeUInt16BE(datagram.length, 10);
  const sum = internetChecksum(datagram, ~internetChecksum(pseudo) & 0xffff);
  datagram.writeUInt16BE(sum === 0 ? 0xffff : sum, udp.checksum);
  return datagram;
}

export function arpMessage(
  operation: number,
  sender: { mac: Uint8Array; ip: Uint8Array },
  target: { mac: Uint8Array; ip: Uint8Array },
): Buffer {
  const message = Buffer.alloc(arp.size);
  message.writeUInt16BE(1, arp.hardware);
  message.writeUInt16BE(etherType.ipv4, arp.protocol);
  message.writeUInt8(MAC_LENGTH, 4);
  message.writeUInt8(4, 5);
  message.writeUInt16BE(operation, arp.operation);
  message.set(sender.mac, arp.senderMac);
  message.set(sender.ip, arp.senderIp);
  message.set(target.mac, arp.targetMac);
  message.set(target.ip, arp.targetIp);
  return message;
}
