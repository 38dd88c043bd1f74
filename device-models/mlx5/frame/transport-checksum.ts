import { add, append, fold, subtract, sum } from './checksum.ts';
import { type FrameInfo, ipProtocol, uint16 } from './parse.ts';

/** Sum of the pseudo header (RFC 768, RFC 9293, RFC 8200 section 8.1) for `length` bytes of transport. */
export function pseudoHeaderSum(bytes: Uint8Array, info: FrameInfo, length: number): number {
  const at = info.l3Offset;
  const end = info.finalDestination;
  let addresses: number;
  if (info.ip === 4) addresses = sum(bytes, at + 12, at + 20);
  else if (end === 0) addresses = sum(bytes, at + 8, at + 40);
  else addresses = sum(bytes, at + 8, at + 24) + sum(bytes, end, end + 16);
  return fold(addresses + info.l4 + length);
}

/** Offset of the checksum inside the transport header. */
export function checksumOffset(l4: number): number {
  return l4 === ipProtocol.tcp ? 16 : 6;
}

/** What is stored for a folded sum: its complement, and never 0 for UDP, where that means "none". */
export function finish(total: number, l4: number): number {
  const checksum = ~total & 0xffff;
  return checksum === 0 && l4 === ipProtocol.udp ? 0xffff : checksum;
}

export function storeUint16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value & 0xff;
}

/** Recomputes the checksum of the IPv4 header at `l3Offset`, which is `headerLength` bytes long. */
export function storeIpv4Checksum(bytes: Uint8Array, l3Offset: number, headerLength: number): void {
  storeUint16(bytes, l3Offset + 10, 0);
  storeUint16(bytes, l3Offset + 10, ~sum(bytes, l3Offset, l3Offset + headerLength) & 0xffff);
}

/**
 * Sum of `parts` from byte `from` to byte `to` of the frame that they make up, its first byte being a high byte.
 */
export function sumParts(parts: readonly Uint8Array[], from: number, to: number): number {
  let total = 0;
  let start = 0;
  for (const part of parts) {
    const first = Math.max(from, start);
    const last = Math.min(to, start + part.length);
    if (first < last) total = append(total, sum(part, first - start, last - start), first - from);
    start += part.length;
    if (start >= to) break;
  }
  return total;
}

/** What a NIC says about the checksums of a received frame; reused. */
export class ReceiveChecksum {
  /** Sum from the first byte after the last Ethernet or VLAN header to the end of the frame; tags that stay are not in it. */
  full = 0;
  l3Ok = false;
  l4Ok = false;
}

/** Checks a received frame that lies in one piece. */
export function checkReceived(frame: Uint8Array, info: FrameInfo, result: ReceiveChecksum): void {
  const l3 = info.l3Offset;
  result.full = sum(frame, l3, frame.length);
  result.l3Ok = false;
  result.l4Ok = false;
  if (info.ip === 0) return;
  let beforeTransport = info.l4Offset === 0 ? 0 : sum(frame, l3, info.l4Offset);
  if (info.ip === 4) {
    const headerLength = ((frame[l3] ?? 0) & 0xf) * 4;
    const header = info.l4Offset === 0 ? sum(frame, l3, l3 + headerLength) : beforeTransport;
    result.l3Ok = header === 0xffff;
    beforeTransport = header;
  } else {
    result.l3Ok = true;
  }
  if (info.l4 === 0) return;
  const length = info.ipEnd - info.l4Offset;
  if (info.l4 === ipProtocol.udp) {
    const claimed = uint16(frame, info.l4Offset + 4);
    if (claimed < 8 || claimed > length) return;
    if (uint16(frame, info.l4Offset + 6) === 0) {
      // "No checksum" is a choice with IPv4, an error with IPv6.
      result.l4Ok = info.ip === 4;
      return;
    }
    if (claimed !== length) {
      const transport = sum(frame, info.l4Offset, info.l4Offset + claimed);
      result.l4Ok = add(transport, pseudoHeaderSum(frame, info, claimed)) === 0xffff;
      return;
    }
  }
  // The transport's sum is what the whole leaves when IP header and padding are taken out.
  let transport = subtract(result.full, beforeTransport);
  if (info.ipEnd < frame.length) {
    const padding = append(0, sum(frame, info.ipEnd, frame.length), info.ipEnd - l3);
    transport = subtract(transport, padding);
  }
  result.l4Ok = add(transport, pseudoHeaderSum(frame, info, length)) === 0xffff;
}
