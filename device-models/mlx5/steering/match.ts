import { type FrameInfo, ipProtocol, uint16, uint32 } from '../frame/parse.ts';
import { fteMatchSetLyr24 } from '../prm/index.ts';

/** Words of `fte_match_set_lyr_2_4`. */
export const matchWords = fteMatchSetLyr24.size / 4;

const fields = fteMatchSetLyr24.fields;
type MatchField = keyof typeof fields;

function wordOf(name: MatchField): number {
  return Math.floor(fields[name][0] / 32);
}

function shiftOf(name: MatchField): number {
  const [offset, width] = fields[name];
  return 32 - (offset % 32) - width;
}

const word = {
  smacHigh: wordOf('smac_47_16'),
  ethertype: wordOf('ethertype'),
  dmacHigh: wordOf('dmac_47_16'),
  dmacLow: wordOf('dmac_15_0'),
  protocol: wordOf('ip_protocol'),
  tcpPorts: wordOf('tcp_sport'),
  ttl: wordOf('ttl_hoplimit'),
  udpPorts: wordOf('udp_sport'),
  source: wordOf('src_ipv4_src_ipv6'),
  destination: wordOf('dst_ipv4_dst_ipv6'),
} as const;

const shift = {
  protocol: shiftOf('ip_protocol'),
  dscp: shiftOf('ip_dscp'),
  ecn: shiftOf('ip_ecn'),
  cvlan: shiftOf('cvlan_tag'),
  svlan: shiftOf('svlan_tag'),
  frag: shiftOf('frag'),
  ipVersion: shiftOf('ip_version'),
  tcpFlags: shiftOf('tcp_flags'),
  ihl: shiftOf('ipv4_ihl'),
  ttl: shiftOf('ttl_hoplimit'),
} as const;

const svlanType = 0x88a8;
/** Addresses are right-aligned in their 16 bytes: an IPv4 address is the last word. */
const ipv4Word = 3;

/**
 * Fills `target` with the outer header fields of a frame, laid out as `fte_match_set_lyr_2_4`, so that an entry matches
 * by comparing masked words.
 */
export function fillMatch(frame: Uint8Array, info: FrameInfo, target: Uint32Array): void {
  target.fill(0);
  target[word.dmacHigh] = uint32(frame, 0);
  // The PCP, CFI and VID of the first tag follow the destination address, in the order of the TCI.
  target[word.dmacLow] = ((uint16(frame, 4) << 16) | info.vlanTci) >>> 0;
  target[word.smacHigh] = uint32(frame, 6);
  target[word.ethertype] = ((uint16(frame, 10) << 16) | info.etherType) >>> 0;
  let bits = 0;
  if (info.vlanTags > 0) bits |= 1 << (info.vlanType === svlanType ? shift.svlan : shift.cvlan);
  const at = info.l3Offset;
  if (info.ip === 4) {
    const tos = frame[at + 1] ?? 0;
    bits |= (4 << shift.ipVersion) | ((tos >>> 2) << shift.dscp) | ((tos & 3) << shift.ecn);
    target[word.ttl] = (((frame[at] ?? 0) & 0xf) << shift.ihl) | ((frame[at + 8] ?? 0) << shift.ttl);
    target[word.source + ipv4Word] = uint32(frame, at + 12);
    target[word.destination + ipv4Word] = uint32(frame, at + 16);
  } else if (info.ip === 6) {
    const trafficClass = (uint16(frame, at) >>> 4) & 0xff;
    bits |= (6 << shift.ipVersion) | ((trafficClass >>> 2) << shift.dscp) | ((trafficClass & 3) << shift.ecn);
    target[word.ttl] = (frame[at + 7] ?? 0) << shift.ttl;
    for (let index = 0; index < 4; index++) {
      target[word.source + index] = uint32(frame, at + 8 + 4 * index);
      target[word.destination + index] = uint32(frame, at + 24 + 4 * index);
    }
  }
  if (info.ip !== 0) {
    bits |= info.protocol << shift.protocol;
    if (info.fragment) bits |= 1 << shift.frag;
  }
  if (info.l4 === ipProtocol.tcp) {
    target[word.tcpPorts] = uint32(frame, info.l4Offset);
    bits |= (uint16(frame, info.l4Offset + 12) & 0x1ff) << shift.tcpFlags;
  } else if (info.l4 === ipProtocol.udp) {
    target[word.udpPorts] = uint32(frame, info.l4Offset);
  }
  target[word.protocol] = bits >>> 0;
}

/** Knuth's multiplier: 2^32 divided by the golden ratio. */
const hashMultiplier = 0x9e3779b1;
const hashShift = 15;

/** Which words of a frame an entry looks at, and what it wants there. */
export class Matcher {
  readonly #indices: readonly number[];
  readonly #masks: readonly number[];
  readonly #values: readonly number[];
  /** `hashOf` every frame that matches. */
  readonly hash: number;

  /** Both as 16 words; the value counts under the mask only. */
  constructor(mask: Uint32Array, value: Uint32Array) {
    const indices: number[] = [];
    for (let index = 0; index < matchWords; index++) if ((mask[index] ?? 0) !== 0) indices.push(index);
    this.#indices = indices;
    this.#masks = indices.map((index) => (mask[index] ?? 0) | 0);
    this.#values = indices.map((index) => ((mask[index] ?? 0) & (value[index] ?? 0)) | 0);
    this.hash = this.hashOf(value);
  }

  /** A hash of the words of `packet` under the mask. */
  hashOf(packet: Uint32Array): number {
    const indices = this.#indices;
    let hash = 0;
    for (let at = 0; at < indices.length; at++) {
      const value = (packet[indices[at] ?? 0] ?? 0) & (this.#masks[at] ?? 0);
      hash = Math.imul(hash ^ value, hashMultiplier);
      hash ^= hash >>> hashShift;
    }
    return hash;
  }

  matches(packet: Uint32Array): boolean {
    const indices = this.#indices;
    for (let at = 0; at < indices.length; at++) {
      const value = packet[indices[at] ?? 0] ?? 0;
      if ((value & (this.#masks[at] ?? 0)) !== this.#values[at]) return false;
    }
    return true;
  }
}
