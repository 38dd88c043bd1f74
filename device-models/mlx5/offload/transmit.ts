import type { FrameOffload, NetPort } from '../../../src/net/types.ts';
import type { Counters } from '../counters.ts';
import { add, sum } from '../frame/checksum.ts';
import {
  FrameInfo,
  ipProtocol,
  ipv6HeaderBytes,
  macHeaderBytes,
  parseSentFrame,
  uint16,
  uint32,
} from '../frame/parse.ts';
import {
  checksumOffset,
  finish,
  pseudoHeaderSum,
  storeIpv4Checksum,
  storeUint16,
  sumParts,
} from '../frame/transport-checksum.ts';
import { limits, maxHardMtu } from '../limits.ts';
import { cqeSyndrome, wqeOpcode } from '../prm/index.ts';
import type { SendWqe } from '../wqe.ts';
import { FrameHead } from './head.ts';

/** Shortest frame that goes on a wire, without FCS. */
const minFrameBytes = 60;
const maxIpLength = 0xffff;
/** Of the GRE header: the bit of its first byte, and where the checksum is that it tells of. */
const greChecksumPresent = 0x80;
const greChecksumOffset = 4;
/** `VIRTIO_NET_HDR_GSO_*`. */
const gso = { none: 0, tcp4: 1, tcp6: 4, udp: 5 } as const;

/** Where frames leave; the device implements it over its port. */
export interface TransmitSink {
  /** The port, or undefined while the link is down: frames are counted as discarded. */
  readonly port: NetPort | undefined;
  readonly counters: Counters;
  /** A frame with this head went to the port. */
  sent(head: Uint8Array): void;
  /** Whether a frame with this head comes back to this vport, and never sees a port. */
  comesBack(head: Uint8Array): boolean;
  /** Takes a frame that comes back. */
  loopback(parts: readonly Uint8Array[], length: number): void;
}

/**
 * Turns a gathered send WQE into frames: segmentation (TSO, USO), checksums, VLAN insertion. Payload stays where it
 * is, in guest memory; only headers are copied.
 */
export class Transmitter {
  readonly head = new FrameHead();
  /** Payload behind the head, in `pieces[0, pieceCount)`. */
  readonly pieces: Uint8Array[] = [];
  readonly #sink: TransmitSink;
  readonly #info = new FrameInfo();
  readonly #parts: Uint8Array[] = [];
  readonly #offload: FrameOffload = {
    gsoType: gso.none,
    headerLength: 0,
    gsoSize: 0,
    checksumStart: 0,
    checksumOffset: 0,
  };

  constructor(sink: TransmitSink) {
    this.#sink = sink;
  }

  /** Forgets guest memory: views are valid for one callback only. */
  release(): void {
    this.pieces.length = 0;
    this.#parts.length = 0;
  }

  /**
   * Sends what `head` and `pieces` hold.
   * @param payload bytes in `pieces`
   * @returns 0, or a `cqeSyndrome`
   */
  send(wqe: SendWqe, payload: number): number {
    const { head } = this;
    const length = head.length + payload;
    if (length < macHeaderBytes) return cqeSyndrome.LOCAL_LENGTH_ERR;
    if (wqe.opcode === wqeOpcode.LSO) return this.#sendSegments(wqe, payload);
    if (length > maxHardMtu) return cqeSyndrome.LOCAL_LENGTH_ERR;
    const info = this.#info;
    parseSentFrame(head.bytes, head.length, length, info, false);
    if (wqe.checksumL4 && info.l4 === 0 && payload > 0) {
      this.#pullMore();
      parseSentFrame(head.bytes, head.length, length, info, false);
    }
    if (wqe.checksumL3 && info.ip === 4) this.#storeIpv4Checksum();
    let offload: FrameOffload | undefined;
    const wantsChecksum = wqe.checksumL4 && info.l4 !== 0 && this.#transportInHead();
    if (wantsChecksum) {
      if (this.#portCanFinish() && info.ipEnd === length) offload = this.#partialChecksum(wqe);
      else this.#storeTransportChecksum();
    }
    if (wqe.checksumL4 && info.protocol === ipProtocol.gre) this.#storeGreChecksum();
    if (length < minFrameBytes) head.pad(minFrameBytes);
    if (wqe.insertVlan !== 0) head.insertVlan(wqe.insertVlan, wqe.vlanTci);
    const parts = this.#parts;
    parts.length = 0;
    parts.push(head.view());
    for (const piece of this.pieces) parts.push(piece);
    this.#emit(Math.max(length, minFrameBytes) + head.inserted, offload);
    return 0;
  }

  /** The transport header is not among what is copied of every frame: it is looked for behind long ones (SRv6 with many segments). */
  #pullMore(): void {
    const { head, pieces } = this;
    while (head.room > 0) {
      const [piece] = pieces;
      if (piece === undefined) return;
      const count = Math.min(head.room, piece.length);
      head.append(piece, 0, count);
      if (count === piece.length) pieces.shift();
      else pieces[0] = piece.subarray(count);
    }
  }

  /**
   * Whether the port takes work over. Behind labels it can't: a kernel would have to know where the inner header is. Nor of
   * a frame that it does not get.
   */
  #portCanFinish(): boolean {
    const { port } = this.#sink;
    return port?.offloads === true && this.#info.labels === 0 && !this.#sink.comesBack(this.head.bytes);
  }

  /** Whether that includes segmentation: older kernels know it of TCP only. */
  #portCuts(): boolean {
    return this.#info.l4 !== ipProtocol.udp || this.#sink.port?.segmentsUdp === true;
  }

  #transportInHead(): boolean {
    return this.#info.l4Offset + this.#info.l4HeaderLength <= this.head.length;
  }

  #storeIpv4Checksum(): void {
    const { bytes } = this.head;
    const l3 = this.#info.l3Offset;
    storeIpv4Checksum(bytes, l3, ((bytes[l3] ?? 0) & 0xf) * 4);
  }

  /** Head and pieces, without a tag that is to be inserted. */
  #wholeFrame(): readonly Uint8Array[] {
    const parts = this.#parts;
    parts.length = 0;
    parts.push(this.head.plainView());
    for (const piece of this.pieces) parts.push(piece);
    return parts;
  }

  /** The whole transport checksum, from scratch: what the guest left in the field does not matter. */
  #storeTransportChecksum(): void {
    const info = this.#info;
    const { bytes } = this.head;
    const at = info.l4Offset + checksumOffset(info.l4);
    storeUint16(bytes, at, 0);
    const transport = sumParts(this.#wholeFrame(), info.l4Offset, info.ipEnd);
    const pseudo = pseudoHeaderSum(bytes, info, info.ipEnd - info.l4Offset);
    storeUint16(bytes, at, finish(add(transport, pseudo), info.l4));
  }

  /**
   * The checksum of a GRE header that has one (RFC 2784): of a card that claims any checksum (`NETIF_F_HW_CSUM`), as the driver has this
   * one do, Linux expects it.
   */
  #storeGreChecksum(): void {
    const { l4Offset, ipEnd } = this.#info;
    const { bytes } = this.head;
    const at = l4Offset + greChecksumOffset;
    if (l4Offset === 0 || at + 2 > this.head.length || ((bytes[l4Offset] ?? 0) & greChecksumPresent) === 0)
      return;
    storeUint16(bytes, at, 0);
    storeUint16(bytes, at, ~sumParts(this.#wholeFrame(), l4Offset, ipEnd) & 0xffff);
  }

  /** Leaves the transport checksum to the port: the pseudo header's sum goes into the field. */
  #partialChecksum(wqe: SendWqe): FrameOffload {
    const info = this.#info;
    const { bytes } = this.head;
    const inserted = wqe.insertVlan === 0 ? 0 : 4;
    const pseudo = pseudoHeaderSum(bytes, info, info.ipEnd - info.l4Offset);
    storeUint16(bytes, info.l4Offset + checksumOffset(info.l4), pseudo);
    const offload = this.#offload;
    offload.gsoType = gso.none;
    offload.headerLength = 0;
    offload.gsoSize = 0;
    offload.checksumStart = info.l4Offset + inserted;
    offload.checksumOffset = checksumOffset(info.l4);
    return offload;
  }

  /** @param segments frames that the port makes of it */
  #emit(length: number, offload: FrameOffload | undefined, segments = 1): void {
    const { port, counters } = this.#sink;
    const parts = this.#parts;
    const cast = this.#info.cast;
    if (this.#sink.comesBack(this.head.view())) {
      this.#sink.loopback(parts, length);
      counters.sent(cast, length);
      return;
    }
    if (port?.send(parts, length, offload) !== true) {
      counters.count('txDiscards', segments);
      return;
    }
    this.#sink.sent(this.head.view());
    const headers = segments === 1 ? 0 : (segments - 1) * (offload?.headerLength ?? 0);
    counters.sent(cast, length + headers, segments);
  }

  /**
   * LSO: the head is the template of every segment's headers. No tag is inserted here: a WQE has either inline headers, which LSO
   * can't do without, or a tag to insert (mlx5_ifc has both in one field), so that drivers put the tag into the headers.
   */
  #sendSegments(wqe: SendWqe, payload: number): number {
    const { head } = this;
    const info = this.#info;
    parseSentFrame(head.bytes, head.length, head.length + payload, info, true);
    if (info.l4 === 0 || info.l4Offset + info.l4HeaderLength !== head.length)
      return cqeSyndrome.LOCAL_QP_OP_ERR;
    if (head.length + wqe.mss > maxHardMtu) return cqeSyndrome.LOCAL_LENGTH_ERR;
    const segments = Math.max(1, Math.ceil(payload / wqe.mss));
    if (segments > limits.lsoSegments) return cqeSyndrome.LOCAL_LENGTH_ERR;
    const whole = head.length - info.l3Offset + payload;
    if (this.#portCanFinish() && this.#portCuts() && segments > 1 && whole <= maxIpLength) {
      this.#handOverWhole(wqe, payload, segments);
      return 0;
    }
    this.#cut(wqe.mss, payload, segments);
    return 0;
  }

  /** One large frame for a port that cuts it itself. */
  #handOverWhole(wqe: SendWqe, payload: number, segments: number): void {
    const info = this.#info;
    const { head } = this;
    const { bytes } = head;
    this.#storeLengths(payload);
    if (info.ip === 4) this.#storeIpv4Checksum();
    const transportLength = head.length - info.l4Offset + payload;
    const pseudo = pseudoHeaderSum(bytes, info, transportLength);
    storeUint16(bytes, info.l4Offset + checksumOffset(info.l4), pseudo);
    const offload = this.#offload;
    if (info.l4 === ipProtocol.udp) offload.gsoType = gso.udp;
    else offload.gsoType = info.ip === 4 ? gso.tcp4 : gso.tcp6;
    offload.headerLength = head.length;
    offload.gsoSize = wqe.mss;
    offload.checksumStart = info.l4Offset;
    offload.checksumOffset = checksumOffset(info.l4);
    const parts = this.#parts;
    parts.length = 0;
    parts.push(head.view());
    for (const piece of this.pieces) parts.push(piece);
    this.#emit(head.length + payload, offload, segments);
  }

  /** IP and UDP length fields for a segment with `payload` bytes behind the head. */
  #storeLengths(payload: number): void {
    const info = this.#info;
    const { bytes, length } = this.head;
    const l3 = info.l3Offset;
    if (info.ip === 4) storeUint16(bytes, l3 + 2, length - l3 + payload);
    else storeUint16(bytes, l3 + 4, length - l3 - ipv6HeaderBytes + payload);
    if (info.l4 === ipProtocol.udp) storeUint16(bytes, info.l4Offset + 4, length - info.l4Offset + payload);
  }

  #cut(mss: number, payload: number, segments: number): void {
    const info = this.#info;
    const { head } = this;
    const { bytes } = head;
    const l4 = info.l4Offset;
    const isTcp = info.l4 === ipProtocol.tcp;
    const sequence = isTcp ? uint32(bytes, l4 + 4) : 0;
    const flags = isTcp ? (bytes[l4 + 13] ?? 0) : 0;
    const identification = info.ip === 4 ? uint16(bytes, info.l3Offset + 4) : 0;
    const checksumAt = l4 + checksumOffset(info.l4);
    const parts = this.#parts;
    let piece = 0;
    let pieceAt = 0;
    for (let segment = 0; segment < segments; segment++) {
      const size = Math.min(mss, payload - segment * mss);
      this.#storeLengths(size);
      if (info.ip === 4) {
        storeUint16(bytes, info.l3Offset + 4, (identification + segment) & 0xffff);
        this.#storeIpv4Checksum();
      }
      if (isTcp) {
        const position = (sequence + segment * mss) >>> 0;
        storeUint16(bytes, l4 + 4, position >>> 16);
        storeUint16(bytes, l4 + 6, position & 0xffff);
        bytes[l4 + 13] = segmentFlags(flags, segment === 0, segment === segments - 1);
      }
      storeUint16(bytes, checksumAt, 0);
      parts.length = 0;
      parts.push(head.view());
      let left = size;
      while (left > 0) {
        const source = this.pieces[piece];
        if (source === undefined) break;
        const take = Math.min(left, source.length - pieceAt);
        parts.push(take === source.length ? source : source.subarray(pieceAt, pieceAt + take));
        left -= take;
        pieceAt += take;
        if (pieceAt === source.length) {
          piece++;
          pieceAt = 0;
        }
      }
      let transport = sum(bytes, l4, head.length);
      // The transport header is a multiple of two bytes, so that the payload starts on a high byte.
      transport = add(transport, sumParts(parts, head.length, head.length + size));
      const pseudo = pseudoHeaderSum(bytes, info, head.length - l4 + size);
      storeUint16(bytes, checksumAt, finish(add(transport, pseudo), info.l4));
      this.#emit(this.#padded(head.length + size), undefined);
    }
  }

  /** A short last segment is padded on the wire. */
  #padded(length: number): number {
    if (length >= minFrameBytes) return length;
    this.#parts.push(padding.subarray(0, minFrameBytes - length));
    return minFrameBytes;
  }
}

const padding = new Uint8Array(minFrameBytes);

const tcpFlag = { fin: 0x01, psh: 0x08, cwr: 0x80 } as const;

/** FIN and PSH belong to the last segment, CWR to the first. */
export function segmentFlags(flags: number, first: boolean, last: boolean): number {
  let result = flags;
  if (!last) result &= ~(tcpFlag.fin | tcpFlag.psh);
  if (!first) result &= ~tcpFlag.cwr;
  return result & 0xff;
}
