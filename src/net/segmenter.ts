import { ethernet, etherType } from './ethernet.ts';
import { virtioGso } from './tun.ts';
import type { FrameOffload } from './types.ts';

/** Offsets in the headers that change from segment to segment: RFC 791, RFC 8200, RFC 9293. */
const ipv4 = { totalLength: 2, id: 4, checksum: 10, size: 20 } as const;
const ipv6 = { payloadLength: 4, size: 40 } as const;
const tcp = { sequence: 4, dataOffset: 12, flags: 13, checksum: 16, size: 20 } as const;
const tcpFlag = { FIN: 0x01, PSH: 0x08, CWR: 0x80 } as const;
const UDP_CHECKSUM_OFFSET = 6;
const VLAN_TAG = 4;
/** Longest headers: Ethernet with two tags, IPv6 with extensions, TCP with options. */
const MAX_HEADERS = 512;

/**
 * Does what a kernel leaves to a network card on the way in, for devices that can't: fills in checksums, and
 * cuts a long TCP segment into frames. In place: the headers of each frame are written over the end of the one
 * before it, which has been handed over by then. So one system call brings up to 64 KiB, and nothing is copied.
 */
export class Segmenter {
  readonly #bytes: Buffer;
  readonly #words: Uint16Array;
  readonly #longs: Uint32Array;
  readonly #header = Buffer.alloc(MAX_HEADERS);
  #network = 0;
  #isIpv4 = false;
  #transport = 0;
  #headers = 0;
  /** Sum of the pseudo header without the length. */
  #pseudo = 0;
  #gsoSize = 0;
  #index = 0;
  #position = 0;
  #end = 0;
  #at = 0;

  /** @param bytes where frames will lie; its memory has to begin at a multiple of 4 */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#words = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 1);
    this.#longs = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  }

  /** Where the frame begins whose length `next` has just returned. */
  get at(): number {
    return this.#at;
  }

  /** A frame of `length` bytes lies at `start`. False when `offload` does not fit it: drop it. */
  begin(start: number, length: number, offload: FrameOffload): boolean {
    this.#position = 0;
    this.#end = 0;
    if (offload.gsoType === virtioGso.NONE) return this.#complete(start, length, offload);
    if (!this.#parse(start, length, offload)) return false;
    this.#bytes.copy(this.#header, 0, start, start + this.#headers);
    this.#gsoSize = offload.gsoSize;
    this.#index = 0;
    this.#position = start + this.#headers;
    this.#end = start + length;
    return true;
  }

  /** Makes the next frame; returns its length, 0 after the last one. */
  next(): number {
    if (this.#position >= this.#end) return 0;
    if (this.#gsoSize === 0) {
      const length = this.#end - this.#position;
      this.#at = this.#position;
      this.#position = this.#end;
      return length;
    }
    const payload = Math.min(this.#gsoSize, this.#end - this.#position);
    const at = this.#position - this.#headers;
    this.#at = at;
    if (this.#index > 0) this.#header.copy(this.#bytes, at, 0, this.#headers);
    this.#position += payload;
    this.#writeHeaders(at, payload, this.#position === this.#end);
    this.#index++;
    return this.#headers + payload;
  }

  /** One frame whose transport checksum is missing. */
  #complete(start: number, length: number, offload: FrameOffload): boolean {
    const from = start + offload.checksumStart;
    const field = from + offload.checksumOffset;
    if (offload.checksumStart < ethernet.headerLength || field + 2 > start + length) return false;
    const sum = ~this.#sum(from, start + length, 0) & 0xffff;
    // In UDP 0 means "no checksum" (RFC 768).
    this.#bytes.writeUInt16BE(
      sum === 0 && offload.checksumOffset === UDP_CHECKSUM_OFFSET ? 0xffff : sum,
      field,
    );
    this.#gsoSize = 0;
    this.#position = start;
    this.#end = start + length;
    return true;
  }

  #parse(start: number, length: number, offload: FrameOffload): boolean {
    const bytes = this.#bytes;
    this.#isIpv4 = offload.gsoType === virtioGso.TCPV4;
    if (!this.#isIpv4 && offload.gsoType !== virtioGso.TCPV6) return false;
    let network: number = ethernet.headerLength;
    while (network <= ethernet.headerLength + VLAN_TAG && isTag(bytes.readUInt16BE(start + network - 2)))
      network += VLAN_TAG;
    const { checksumStart: transport } = offload;
    if (transport < network + (this.#isIpv4 ? ipv4.size : ipv6.size) || transport + tcp.size > length)
      return false;
    const headers = transport + (bytes.readUInt8(start + transport + tcp.dataOffset) >>> 4) * 4;
    if (headers < transport + tcp.size || headers > Math.min(length, MAX_HEADERS) || offload.gsoSize === 0)
      return false;
    this.#network = network;
    this.#transport = transport;
    this.#headers = headers;
    // The kernel has left the sum in the field. Its addresses need not be those of the IP header: behind a routing header the
    // last one counts. The length is taken out (in one's complement: its inverse added), for each frame has its own.
    const left = bytes.readUInt16BE(start + transport + tcp.checksum);
    this.#pseudo = left + (0xffff - fold(length - transport));
    return true;
  }

  #writeHeaders(at: number, payload: number, last: boolean): void {
    const bytes = this.#bytes;
    const network = at + this.#network;
    const transport = at + this.#transport;
    const end = at + this.#headers + payload;
    if (this.#isIpv4) {
      bytes.writeUInt16BE(end - network, network + ipv4.totalLength);
      const id = this.#header.readUInt16BE(this.#network + ipv4.id);
      bytes.writeUInt16BE((id + this.#index) & 0xffff, network + ipv4.id);
      bytes.writeUInt16BE(0, network + ipv4.checksum);
      bytes.writeUInt16BE(~this.#sum(network, transport, 0) & 0xffff, network + ipv4.checksum);
    } else bytes.writeUInt16BE(end - network - ipv6.size, network + ipv6.payloadLength);
    const sequence = this.#header.readUInt32BE(this.#transport + tcp.sequence);
    bytes.writeUInt32BE((sequence + this.#index * this.#gsoSize) >>> 0, transport + tcp.sequence);
    let flags = this.#header.readUInt8(this.#transport + tcp.flags);
    if (!last) flags &= ~(tcpFlag.FIN | tcpFlag.PSH);
    if (this.#index > 0) flags &= ~tcpFlag.CWR;
    bytes.writeUInt8(flags, transport + tcp.flags);
    bytes.writeUInt16BE(0, transport + tcp.checksum);
    const pseudo = this.#pseudo + end - transport;
    bytes.writeUInt16BE(~this.#sum(transport, end, pseudo) & 0xffff, transport + tcp.checksum);
  }

  /** Folded one's complement sum (RFC 1071) of the bytes, big-endian, on top of `sum`. */
  #sum(from: number, to: number, sum: number): number {
    if ((from & 1) !== 0) return this.#slowSum(from, to, sum);
    const words = this.#words;
    const longs = this.#longs;
    let total = 0;
    let at = from;
    if ((at & 2) !== 0 && at + 1 < to) {
      total += words[at >>> 1] ?? 0;
      at += 2;
    }
    // A sum of 32-bit words folds to that of their halves.
    const last = to >>> 2;
    let second = 0;
    let index = at >>> 2;
    for (; index + 3 < last; index += 4) {
      total += (longs[index] ?? 0) + (longs[index + 1] ?? 0);
      second += (longs[index + 2] ?? 0) + (longs[index + 3] ?? 0);
    }
    for (; index < last; index++) total += longs[index] ?? 0;
    total += second;
    for (at = Math.max(at, last << 2); at + 1 < to; at += 2) total += words[at >>> 1] ?? 0;
    // The sum of swapped words is the swapped sum: words are read in the machine's order, little-endian.
    if ((to & 1) !== 0) total += this.#bytes.readUInt8(to - 1);
    total = fold(total);
    return fold((((total & 0xff) << 8) | (total >>> 8)) + sum);
  }

  #slowSum(from: number, to: number, sum: number): number {
    let total = sum;
    let at = from;
    for (; at + 1 < to; at += 2) total += this.#bytes.readUInt16BE(at);
    if (at < to) total += this.#bytes.readUInt8(at) << 8;
    return fold(total);
  }
}

function isTag(type: number): boolean {
  return type === etherType.vlan || type === etherType.serviceVlan;
}

function fold(sum: number): number {
  let total = sum;
  while (total > 0xffff) total = (total % 0x10000) + Math.floor(total / 0x10000);
  return total;
}
