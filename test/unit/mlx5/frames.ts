/** Builds and checks frames independently of the model's own code: byte by byte, slow, plain. */

export interface FrameSpec {
  readonly dst?: Buffer;
  readonly src?: Buffer;
  readonly vlan?: { readonly type: number; readonly tci: number };
  readonly ip?: 4 | 6;
  readonly protocol?: 'tcp' | 'udp' | 'icmp';
  readonly srcIp?: readonly number[];
  readonly dstIp?: readonly number[];
  readonly sport?: number;
  readonly dport?: number;
  readonly flags?: number;
  readonly sequence?: number;
  readonly payload?: Buffer;
  readonly padTo?: number;
  readonly checksums?: boolean;
}

export const broadcast = Buffer.alloc(6, 0xff);

/** One's complement sum, the obvious way. */
export function naiveSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) {
    sum += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

const protocolNumber = { tcp: 6, udp: 17, icmp: 1 } as const;

function ipv4Address(bytes: readonly number[] | undefined, last: number): Buffer {
  return Buffer.from(bytes ?? [10, 0, 0, last]);
}

function ipv6Address(bytes: readonly number[] | undefined, last: number): Buffer {
  return Buffer.from(bytes ?? [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
}

export function buildFrame(spec: FrameSpec): Buffer {
  const payload = spec.payload ?? Buffer.alloc(0);
  const protocol = spec.protocol ?? 'udp';
  let l4: Buffer;
  if (protocol === 'tcp') {
    l4 = Buffer.alloc(20);
    l4.writeUInt16BE(spec.sport ?? 1000, 0);
    l4.writeUInt16BE(spec.dport ?? 2000, 2);
    l4.writeUInt32BE(spec.sequence ?? 1, 4);
    l4.writeUInt32BE(77, 8);
    l4[12] = 0x50;
    l4[13] = spec.flags ?? 0x18;
    l4.writeUInt16BE(512, 14);
  } else if (protocol === 'udp') {
    l4 = Buffer.alloc(8);
    l4.writeUInt16BE(spec.sport ?? 1000, 0);
    l4.writeUInt16BE(spec.dport ?? 2000, 2);
    l4.writeUInt16BE(8 + payload.length, 4);
  } else {
    l4 = Buffer.from([8, 0, 0, 0, 0, 1, 0, 1]);
  }
  const transport = Buffer.concat([l4, payload]);
  const version = spec.ip ?? 4;
  let ip: Buffer;
  let pseudo: Buffer;
  if (version === 4) {
    ip = Buffer.alloc(20);
    ip[0] = 0x45;
    ip.writeUInt16BE(20 + transport.length, 2);
    ip.writeUInt16BE(0x1234, 4);
    ip.writeUInt16BE(0x4000, 6);
    ip[8] = 64;
    ip[9] = protocolNumber[protocol];
    ipv4Address(spec.srcIp, 1).copy(ip, 12);
    ipv4Address(spec.dstIp, 2).copy(ip, 16);
    if (spec.checksums !== false) ip.writeUInt16BE(~naiveSum(ip) & 0xffff, 10);
    pseudo = Buffer.concat([ip.subarray(12, 20), Buffer.from([0, protocolNumber[protocol], 0, 0])]);
    pseudo.writeUInt16BE(transport.length, 10);
  } else {
    ip = Buffer.alloc(40);
    ip[0] = 0x60;
    ip.writeUInt16BE(transport.length, 4);
    ip[6] = protocolNumber[protocol];
    ip[7] = 64;
    ipv6Address(spec.srcIp, 1).copy(ip, 8);
    ipv6Address(spec.dstIp, 2).copy(ip, 24);
    pseudo = Buffer.concat([ip.subarray(8, 40), Buffer.alloc(8)]);
    pseudo.writeUInt32BE(transport.length, 32);
    pseudo[39] = protocolNumber[protocol];
  }
  if (spec.checksums !== false && protocol !== 'icmp') {
    const at = protocol === 'tcp' ? 16 : 6;
    const sum = ~naiveSum(Buffer.concat([pseudo, transport])) & 0xffff;
    transport.writeUInt16BE(sum === 0 && protocol === 'udp' ? 0xffff : sum, at);
  }
  const head = Buffer.concat([spec.dst ?? broadcast, spec.src ?? Buffer.from([2, 0, 0, 0, 0, 9])]);
  const type = Buffer.alloc(2);
  type.writeUInt16BE(version === 4 ? 0x0800 : 0x86dd);
  const tag = Buffer.alloc(spec.vlan === undefined ? 0 : 4);
  if (spec.vlan !== undefined) {
    tag.writeUInt16BE(spec.vlan.type, 0);
    tag.writeUInt16BE(spec.vlan.tci, 2);
  }
  const frame = Buffer.concat([head, tag, type, ip, transport]);
  const padTo = spec.padTo ?? 60;
  return frame.length >= padTo ? frame : Buffer.concat([frame, Buffer.alloc(padTo - frame.length)]);
}

/** An untagged frame with `count` MPLS labels in front of its IP header. */
export function withLabels(frame: Buffer, count: number, bottom = true): Buffer {
  const labels = Array.from({ length: count }, (_, index) => {
    const isLast = bottom && index === count - 1;
    return Buffer.from([0, index, 0x10 | (isLast ? 1 : 0), 64]);
  });
  return Buffer.concat([frame.subarray(0, 12), Buffer.from([0x88, 0x47]), ...labels, frame.subarray(14)]);
}

/** `via`: routing header of a segment list (RFC 8754), or of a home address (RFC 6275). */
export const routing = { home: 2, segments: 4 } as const;
const routingNextHeader = 43;

/** An untagged IPv6 frame that is to pass `via`, so often, before it gets to where its checksums say it goes. */
export function routedVia(frame: Buffer, via: Buffer, type: 2 | 4, left = 1, times = 1): Buffer {
  const destination = frame.subarray(38, 54);
  const list = type === routing.home ? [destination] : [destination, ...new Array<Buffer>(times).fill(via)];
  const head = Buffer.alloc(8);
  head[0] = frame[20] ?? 0;
  head[1] = 2 * list.length;
  head[2] = type;
  head[3] = left;
  const header = Buffer.concat([head, ...list]);
  const ip = Buffer.from(frame.subarray(0, 54));
  ip.writeUInt16BE(ip.readUInt16BE(18) + header.length, 18);
  ip[20] = routingNextHeader;
  if (left > 0) via.copy(ip, 38);
  return Buffer.concat([ip, header, frame.subarray(54)]);
}

/** Whether IP header and transport checksums of an untagged frame are right. */
export function checksumsRight(frame: Buffer): boolean {
  const version = (frame[14] ?? 0) >>> 4;
  const l4 = version === 4 ? 14 + 20 : 14 + 40;
  const end = version === 4 ? 14 + frame.readUInt16BE(16) : l4 + frame.readUInt16BE(18);
  if (version === 4 && naiveSum(frame.subarray(14, 34)) !== 0xffff) return false;
  const protocol = version === 4 ? (frame[23] ?? 0) : (frame[20] ?? 0);
  const transport = frame.subarray(l4, end);
  const pseudo = Buffer.alloc(version === 4 ? 12 : 40);
  if (version === 4) {
    frame.copy(pseudo, 0, 26, 34);
    pseudo[9] = protocol;
    pseudo.writeUInt16BE(transport.length, 10);
  } else {
    frame.copy(pseudo, 0, 22, 54);
    pseudo.writeUInt32BE(transport.length, 32);
    pseudo[39] = protocol;
  }
  return naiveSum(Buffer.concat([pseudo, transport])) === 0xffff;
}
