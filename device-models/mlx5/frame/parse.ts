/**
 * Finds the headers of an Ethernet frame: IEEE 802.3/802.1Q, RFC 3032, RFC 791, RFC 8200, RFC 9293, RFC 768. Written
 * for hostile bytes: a header that does not fit its surroundings is not there.
 */

export const etherType = {
  ipv4: 0x0800,
  arp: 0x0806,
  vlan: 0x8100,
  ipv6: 0x86dd,
  mpls: 0x8847,
  /** RFC 5332: the label was assigned upstream. */
  mplsUpstream: 0x8848,
  svlan: 0x88a8,
} as const;
export const ipProtocol = { tcp: 6, udp: 17, gre: 47, esp: 50, ah: 51, sctp: 132 } as const;

export const macHeaderBytes = 14;
export const macAddressesBytes = 12;
export const vlanTagBytes = 4;
export const ipv4HeaderBytes = 20;
export const ipv6HeaderBytes = 40;
export const tcpHeaderBytes = 20;
export const udpHeaderBytes = 8;
/** A card looks behind two tags of what it receives. What is sent has as many as the guest stacks VLANs: all want their checksums. */
const maxVlanTags = { received: 2, sent: 8 } as const;
const maxExtensionHeaders = 8;
const labelBytes = 4;
/** As many as Linux puts on a packet (`MAX_NEW_LABELS`). */
const maxLabels = 30;
/** In the third byte of a label. */
const bottomOfStack = 0x01;

/** Types of a routing header that list first where the packet ends (RFC 6275 section 6.4.1, RFC 8754 section 2). */
const routingType = { home: 2, segments: 4 } as const;
const routingHeaderBytes = 8;
const ipv6AddressBytes = 16;

/** Next-header values that are followed by another header (RFC 8200 section 4.1, RFC 4302). */
const extension = { hopByHop: 0, routing: 43, fragment: 44, authentication: 51, options: 60 } as const;

/** Where the headers of a frame are; reused for every frame. Offsets are from the first byte of the frame. */
export class FrameInfo {
  /** 0 unicast, 1 multicast, 2 broadcast. */
  cast: 0 | 1 | 2 = 0;
  /** EtherType of the outermost VLAN tag, 0 without one, and its TCI. */
  vlanType = 0;
  vlanTci = 0;
  vlanTags = 0;
  /** EtherType after all VLAN tags. */
  etherType = 0;
  /** MPLS labels in front of the IP header; only looked for in what a driver sends. */
  labels = 0;
  l3Offset = 0;
  /** 4, 6, or 0 when it is not IP or its header is malformed. */
  ip: 0 | 4 | 6 = 0;
  /** End of the IP packet; what follows up to the end of the frame is padding. */
  ipEnd = 0;
  /** Where an IPv6 packet ends that has more addresses to pass: what its checksums are of. 0: where its header says. */
  finalDestination = 0;
  /** Any fragment, the first included. */
  fragment = false;
  /** Last next-header value (IPv6) or the protocol (IPv4). */
  protocol = 0;
  /** Start of the transport header; 0 when it is not there or is not the whole datagram's. */
  l4Offset = 0;
  /** `ipProtocol.tcp` or `.udp` when that header is complete, else 0. */
  l4 = 0;
  /** Bytes of the transport header. */
  l4HeaderLength = 0;

  reset(): void {
    this.cast = 0;
    this.vlanType = 0;
    this.vlanTci = 0;
    this.vlanTags = 0;
    this.etherType = 0;
    this.labels = 0;
    this.l3Offset = macHeaderBytes;
    this.ip = 0;
    this.ipEnd = 0;
    this.finalDestination = 0;
    this.fragment = false;
    this.protocol = 0;
    this.l4Offset = 0;
    this.l4 = 0;
    this.l4HeaderLength = 0;
  }
}

export function uint16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

export function uint32(bytes: Uint8Array, at: number): number {
  return ((uint16(bytes, at) << 16) | uint16(bytes, at + 2)) >>> 0;
}

function castOf(bytes: Uint8Array): 0 | 1 | 2 {
  if (((bytes[0] ?? 0) & 1) === 0) return 0;
  for (let at = 0; at < 6; at++) if (bytes[at] !== 0xff) return 1;
  return 2;
}

function parseTransport(bytes: Uint8Array, available: number, info: FrameInfo, at: number): void {
  const room = Math.min(info.ipEnd, available) - at;
  info.l4Offset = at;
  if (info.protocol === ipProtocol.tcp && room >= tcpHeaderBytes) {
    const length = ((bytes[at + 12] ?? 0) >>> 4) * 4;
    if (length < tcpHeaderBytes || length > room) return;
    info.l4 = ipProtocol.tcp;
    info.l4HeaderLength = length;
  } else if (info.protocol === ipProtocol.udp && room >= udpHeaderBytes) {
    info.l4 = ipProtocol.udp;
    info.l4HeaderLength = udpHeaderBytes;
  }
}

function parseIpv4(
  bytes: Uint8Array,
  available: number,
  frameLength: number,
  info: FrameInfo,
  template: boolean,
): void {
  const at = info.l3Offset;
  if (available < at + ipv4HeaderBytes) return;
  const first = bytes[at] ?? 0;
  const headerLength = (first & 0xf) * 4;
  if (first >>> 4 !== 4 || headerLength < ipv4HeaderBytes || available < at + headerLength) return;
  const end = template ? frameLength : at + uint16(bytes, at + 2);
  if (end < at + headerLength || end > frameLength) return;
  info.ip = 4;
  info.ipEnd = end;
  info.protocol = bytes[at + 9] ?? 0;
  const fragmentField = uint16(bytes, at + 6);
  info.fragment = (fragmentField & 0x3fff) !== 0;
  if (!info.fragment) parseTransport(bytes, available, info, at + headerLength);
}

/** Where the last address is in the routing header at `at` whose way is not yet at its end; else 0. */
function endOfRoute(bytes: Uint8Array, at: number, length: number): number {
  const type = bytes[at + 2];
  const isKnown = type === routingType.home || type === routingType.segments;
  const isOver = bytes[at + 3] === 0;
  return isKnown && !isOver && length >= routingHeaderBytes + ipv6AddressBytes ? at + routingHeaderBytes : 0;
}

function parseIpv6(
  bytes: Uint8Array,
  available: number,
  frameLength: number,
  info: FrameInfo,
  template: boolean,
): void {
  const start = info.l3Offset;
  if (available < start + ipv6HeaderBytes || (bytes[start] ?? 0) >>> 4 !== 6) return;
  const end = template ? frameLength : start + ipv6HeaderBytes + uint16(bytes, start + 4);
  if (end > frameLength) return;
  info.ip = 6;
  info.ipEnd = end;
  let next = bytes[start + 6] ?? 0;
  let at = start + ipv6HeaderBytes;
  for (let count = 0; count < maxExtensionHeaders; count++) {
    const isExtension =
      next === extension.hopByHop ||
      next === extension.routing ||
      next === extension.fragment ||
      next === extension.options;
    if (!isExtension || at + 8 > Math.min(end, available)) break;
    if (next === extension.fragment) info.fragment = true;
    const length = next === extension.fragment ? 8 : ((bytes[at + 1] ?? 0) + 1) * 8;
    if (next === extension.routing && at + length <= Math.min(end, available)) {
      // A second header comes into play at the end of the first one's way.
      info.finalDestination = endOfRoute(bytes, at, length) || info.finalDestination;
    }
    next = bytes[at] ?? 0;
    at += length;
  }
  info.protocol = next;
  if (!info.fragment && at <= end) parseTransport(bytes, available, info, at);
}

/** The EtherType behind all VLAN tags, or 0; `l3Offset` is behind it. */
function parseEthernet(bytes: Uint8Array, available: number, info: FrameInfo, maxTags: number): number {
  info.reset();
  if (available < macHeaderBytes) return 0;
  info.cast = castOf(bytes);
  let at = macAddressesBytes;
  let type = uint16(bytes, at);
  while (
    (type === etherType.vlan || type === etherType.svlan) &&
    info.vlanTags < maxTags &&
    available >= at + vlanTagBytes + 2
  ) {
    if (info.vlanTags === 0) {
      info.vlanType = type;
      info.vlanTci = uint16(bytes, at + 2);
    }
    info.vlanTags++;
    at += vlanTagBytes;
    type = uint16(bytes, at);
  }
  info.etherType = type;
  info.l3Offset = at + 2;
  return type;
}

/**
 * Moves `l3Offset` behind a stack of labels. They do not say what follows the last one: its version nibble does.
 * @returns EtherType of the IP packet there, or 0
 */
function skipLabels(bytes: Uint8Array, available: number, info: FrameInfo): number {
  while (info.labels < maxLabels && available > info.l3Offset + labelBytes) {
    const label = info.l3Offset;
    info.labels++;
    info.l3Offset += labelBytes;
    if (((bytes[label + 2] ?? 0) & bottomOfStack) === 0) continue;
    const version = (bytes[info.l3Offset] ?? 0) >>> 4;
    if (version === 4) return etherType.ipv4;
    return version === 6 ? etherType.ipv6 : 0;
  }
  return 0;
}

/** Parses a frame of `length` bytes that came from the network into `info`. */
export function parseFrame(bytes: Uint8Array, length: number, info: FrameInfo): void {
  const type = parseEthernet(bytes, length, info, maxVlanTags.received);
  if (type === etherType.ipv4) parseIpv4(bytes, length, length, info, false);
  else if (type === etherType.ipv6) parseIpv6(bytes, length, length, info, false);
}

/**
 * Parses the first `available` bytes of a frame of `frameLength` bytes that a driver sends. Linux' wants the offloads
 * behind MPLS labels as well (`mpls_features`), and nothing in a WQE tells where a header starts.
 * @param template the headers are to be cut into segments: their length fields say nothing yet
 */
export function parseSentFrame(
  bytes: Uint8Array,
  available: number,
  frameLength: number,
  info: FrameInfo,
  template: boolean,
): void {
  let type = parseEthernet(bytes, available, info, maxVlanTags.sent);
  if (type === etherType.mpls || type === etherType.mplsUpstream) type = skipLabels(bytes, available, info);
  if (type === etherType.ipv4) parseIpv4(bytes, available, frameLength, info, template);
  else if (type === etherType.ipv6) parseIpv6(bytes, available, frameLength, info, template);
}
