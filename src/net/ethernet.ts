import { NetError } from './errors.ts';

/** Offsets and lengths of an Ethernet II header (IEEE 802.3 clause 3), in bytes; frames carry no FCS here. */
export const ethernet = {
  destination: 0,
  source: 6,
  type: 12,
  headerLength: 14,
  /** Shortest frame on a wire, without FCS; RARP frames are padded to it. */
  minimumLength: 60,
} as const;

/** EtherTypes (IEEE registration authority). */
export const etherType = {
  ipv4: 0x0800,
  arp: 0x0806,
  rarp: 0x8035,
  vlan: 0x8100,
  ipv6: 0x86dd,
  /** IEEE 802.1ad: the tag of a provider, in front of others. */
  serviceVlan: 0x88a8,
} as const;

/**
 * Longest frame that any port takes: an IP packet of 65,535 bytes with Ethernet header and two VLAN tags.
 * Longer than what a wire carries, because a port with offloads carries uncut segments.
 */
export const MAX_FRAME = 0xffff + ethernet.headerLength + 8;

export const MAC_LENGTH = 6;

const macPattern = /^[0-9a-f]{2}([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4}$/i;

/** Reads "52:54:00:12:34:56". @throws NetError for anything else */
export function parseMac(text: string): Uint8Array {
  if (!macPattern.test(text)) throw new NetError(`${JSON.stringify(text)} is no MAC address`);
  return Uint8Array.from(text.split(/[:-]/), (part) => Number.parseInt(part, 16));
}

export function formatMac(mac: Uint8Array): string {
  return Array.from(mac.subarray(0, MAC_LENGTH), (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** Two bytes of EtherType, two of priority and VLAN (IEEE 802.1Q). */
export const vlanTagLength = 4;

/** The tag of a VLAN, as it stands behind the addresses. */
export function vlanTag(vlan: number): Buffer {
  const tag = Buffer.alloc(vlanTagLength);
  tag.writeUInt16BE(etherType.vlan, 0);
  tag.writeUInt16BE(vlan, 2);
  return tag;
}

/** 01-80-C2-00-00-00 to -0F. */
const reserved = { high: 0x0180, low: 0xc2000000, lowMask: 0xfffffff0 } as const;

/**
 * Whether the frame at byte `at` is for the bridge at the other end of the cable (LACP, LLDP, STP, PAUSE): none forwards it (IEEE 802.1Q
 * 8.6.3). A bond whose cards hear each other's LACP takes it for a loop.
 */
export function isForBridge(bytes: Buffer, at: number): boolean {
  if (bytes.readUInt16BE(at) !== reserved.high) return false;
  return (bytes.readUInt32BE(at + 2) & reserved.lowMask) >>> 0 === reserved.low;
}

const RARP_REQUEST = 3;
const HARDWARE_ETHERNET = 1;

/**
 * A broadcast reverse ARP request from `mac` about itself (RFC 903): it asks for nothing that anybody answers,
 * but every switch that it crosses learns where `mac` is. The same frame that QEMU announces itself with,
 * in a VLAN if one is given.
 */
export function rarpFrame(mac: Uint8Array, vlan?: number): Buffer {
  const frame = Buffer.alloc(ethernet.minimumLength);
  frame.fill(0xff, 0, MAC_LENGTH);
  frame.set(mac, ethernet.source);
  let at: number = ethernet.type;
  for (const value of [etherType.rarp, HARDWARE_ETHERNET, etherType.ipv4])
    at = frame.writeUInt16BE(value, at);
  at = frame.writeUInt8(MAC_LENGTH, at);
  at = frame.writeUInt8(4, at);
  at = frame.writeUInt16BE(RARP_REQUEST, at);
  frame.set(mac, at);
  frame.set(mac, at + MAC_LENGTH + 4);
  if (vlan === undefined) return frame;
  return Buffer.concat([frame.subarray(0, ethernet.type), vlanTag(vlan), frame.subarray(ethernet.type)]);
}
