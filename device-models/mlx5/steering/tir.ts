import { type FrameInfo, ipProtocol } from '../frame/parse.ts';
import { limits } from '../limits.ts';
import { DeviceObject, ObjectTable } from '../objects.ts';
import { cqeRss } from '../prm/index.ts';
import { toeplitz, toeplitzInputBytes, toeplitzTable, xor8 } from './toeplitz.ts';

/** `tirc.disp_type`. */
export const dispatchType = { DIRECT: 0, INDIRECT: 1 } as const;
/** `tirc.rx_hash_fn`. */
export const hashFunction = { NONE: 0, XOR8: 1, TOEPLITZ: 2 } as const;
/** Bits of `rx_hash_field_select.selected_fields`. */
export const hashField = { SRC_IP: 1, DST_IP: 2, L4_SPORT: 4, L4_DPORT: 8, IPSEC_SPI: 16 } as const;
/** `tirc.self_lb_block` bits, as the driver sets them to let a queue hear its own vport. */
export const selfLoopback = { UNICAST: 1, MULTICAST: 2 } as const;

/** What CREATE_TIR and MODIFY_TIR set. */
export interface TirSettings {
  readonly dispType: number;
  readonly inlineRqn: number;
  readonly indirectTable: number;
  readonly rxHashFn: number;
  readonly symmetric: boolean;
  /** 40 bytes. */
  readonly key: Uint8Array;
  /** `rx_hash_field_selector_outer`. */
  readonly ipv6: boolean;
  readonly udp: boolean;
  readonly selectedFields: number;
  readonly selfLoopback: number;
  readonly transportDomain: number;
}

/** Transport interface receive: chooses a queue for a frame. */
export class Tir extends DeviceObject {
  settings: TirSettings;
  #table: Uint32Array | undefined;

  constructor(id: number, settings: TirSettings) {
    super(id);
    this.settings = settings;
  }

  change(settings: TirSettings): void {
    this.settings = settings;
    this.#table = undefined;
    this.touch();
  }

  get table(): Uint32Array {
    this.#table ??= toeplitzTable(this.settings.key);
    return this.#table;
  }
}

/** Receive queue table: an indirection table from hash to RQ. */
export class Rqt extends DeviceObject {
  readonly maxSize: number;
  rqns: readonly number[];

  constructor(id: number, maxSize: number, rqns: readonly number[]) {
    super(id);
    this.maxSize = maxSize;
    this.rqns = rqns;
  }

  change(rqns: readonly number[]): void {
    this.rqns = rqns;
    this.touch();
  }

  /** The RQ for a hash; its low bits choose. */
  select(hash: number): number {
    return this.rqns[hash % Math.max(1, this.rqns.length)] ?? 0;
  }
}

export function tirTable(): ObjectTable<Tir> {
  return new ObjectTable<Tir>('tir', 1, limits.tirs, 8 * limits.tirs);
}

export function rqtTable(): ObjectTable<Rqt> {
  return new ObjectTable<Rqt>('rqt', 1, limits.rqts, 8 * limits.rqts);
}

/** Hash and its kind for the CQE; reused. */
export class RssResult {
  hash = 0;
  type = 0;
}

const input = new Uint8Array(toeplitzInputBytes);

/**
 * Makes the hash the same for both directions of a flow: of a pair of equal fields, the first becomes their OR, the
 * second their XOR. The vendor's driver reports `rx_hash_symmetric` as `RXH_XFRM_SYM_OR_XOR` (en_ethtool.c), which is just
 * that by the comment in the kernel's ethtool.h.
 */
function makeSymmetric(start: number, width: number): void {
  for (let at = start; at < start + width; at++) {
    const source = input[at] ?? 0;
    const destination = input[at + width] ?? 0;
    input[at] = source | destination;
    input[at + width] = source ^ destination;
  }
}

/** Computes the hash of a frame as a TIR wants it; 0 when the frame has none of the fields. */
export function rssHash(tir: Tir, frame: Uint8Array, info: FrameInfo, result: RssResult): void {
  const { settings } = tir;
  result.hash = 0;
  result.type = 0;
  if (info.ip === 0 || settings.rxHashFn === hashFunction.NONE) return;
  if ((info.ip === 6) !== settings.ipv6) return;
  const selected = settings.selectedFields;
  const addressBytes = info.ip === 4 ? 4 : 16;
  let at = info.l3Offset + (info.ip === 4 ? 12 : 8);
  let length = 0;
  for (const bit of [hashField.SRC_IP, hashField.DST_IP]) {
    if ((selected & bit) !== 0) {
      for (let index = 0; index < addressBytes; index++) input[length++] = frame[at + index] ?? 0;
    }
    at += addressBytes;
  }
  if (settings.symmetric && length === 2 * addressBytes) makeSymmetric(0, addressBytes);
  if (length > 0) result.type |= info.ip === 4 ? cqeRss.ip.ipv4 : cqeRss.ip.ipv6;
  const ports = selected & (hashField.L4_SPORT | hashField.L4_DPORT);
  if (ports !== 0 && info.l4 === (settings.udp ? ipProtocol.udp : ipProtocol.tcp)) {
    at = info.l4Offset;
    const start = length;
    for (const bit of [hashField.L4_SPORT, hashField.L4_DPORT]) {
      if ((selected & bit) !== 0) {
        input[length++] = frame[at] ?? 0;
        input[length++] = frame[at + 1] ?? 0;
      }
      at += 2;
    }
    if (settings.symmetric && length === start + 4) makeSymmetric(start, 2);
    result.type |= settings.udp ? cqeRss.l4.udp : cqeRss.l4.tcp;
  } else if ((selected & hashField.IPSEC_SPI) !== 0 && info.l4Offset !== 0) {
    const spiAt = info.protocol === ipProtocol.ah ? 4 : 0;
    if (info.protocol === ipProtocol.esp || info.protocol === ipProtocol.ah) {
      for (let index = 0; index < 4; index++) input[length++] = frame[info.l4Offset + spiAt + index] ?? 0;
      result.type |= cqeRss.l4.ipsec;
    }
  }
  if (length === 0) return;
  result.hash =
    settings.rxHashFn === hashFunction.TOEPLITZ ? toeplitz(tir.table, input, length) : xor8(input, length);
}
