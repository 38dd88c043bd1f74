import {
  byteCountFlag,
  byteCountMask,
  cqeSyndrome,
  ethernetChecksum,
  segmentBytes,
  vlanInsert,
  wqeControl,
  wqeControlBits,
  wqeData,
  wqeEthernet,
  wqeOpcode,
} from './prm/index.ts';

const maxSegments = 64;
const ethernetSegment = segmentBytes;
const opcodeWord = wqeControl.byte('opmod_idx_opcode');
const dsWord = wqeControl.byte('qpn_ds');
const flagsByte = wqeControl.byte('fm_ce_se');
const checksumByte = ethernetSegment + wqeEthernet.byte('cs_flags');
const mssByte = ethernetSegment + wqeEthernet.byte('mss');
const inlineSizeByte = ethernetSegment + wqeEthernet.byte('inline_hdr.sz');
const inlineDataByte = ethernetSegment + wqeEthernet.byte('inline_hdr.start');
const dataLkeyByte = wqeData.byte('lkey');
const dataAddressByte = wqeData.byte('addr');
const segmentsStart = 2 * segmentBytes;
/** Inline header bytes that fit in the Ethernet segment itself. */
const inlineInSegment = segmentsStart - inlineDataByte;
const inlineSizeMask = 0x3ff;
/** Where inline data starts in an inline data segment: after its byte count. */
const inlineDataOffset = 4;

/** A send WQE, taken apart; reused. Offsets are into the WQE's bytes. */
export class SendWqe {
  opcode = 0;
  qpn = 0;
  basicBlocks = 1;
  /** Bytes of the WQE: `ds` units. */
  length = 0;
  signalled = false;
  /** Its completion is one that a CQ tells of which is armed for solicited ones only. */
  solicited = false;
  checksumL3 = false;
  checksumL4 = false;
  mss = 0;
  /** EtherType of the tag to insert, 0 for none. */
  insertVlan = 0;
  vlanTci = 0;
  inlineAt = 0;
  inlineLength = 0;
  segments = 0;
  readonly segmentLength = new Uint32Array(maxSegments);
  readonly segmentLkey = new Uint32Array(maxSegments);
  /** Guest address; or, for inline data, minus the offset of the data in the WQE. */
  readonly segmentAddress = new Float64Array(maxSegments);
  payloadLength = 0;

  /** As long as nothing is known of the next one: a block that does nothing. */
  forget(): void {
    this.opcode = wqeOpcode.NOP;
    this.basicBlocks = 1;
    this.payloadLength = 0;
  }
}

/** Reads the control segment. */
export function parseControl(bytes: Buffer, wqe: SendWqe): void {
  const ds = bytes.readUInt32BE(dsWord) & wqeControlBits.dsMask;
  wqe.opcode = bytes.readUInt32BE(opcodeWord) & 0xff;
  wqe.qpn = bytes.readUInt32BE(dsWord) >>> 8;
  wqe.length = ds * segmentBytes;
  wqe.basicBlocks = Math.max(1, Math.ceil(ds / 4));
  const completion = (bytes[flagsByte] ?? 0) & wqeControlBits.ceMask;
  wqe.solicited = completion === wqeControlBits.cqUpdateAndEqe;
  wqe.signalled = wqe.solicited || completion === wqeControlBits.cqUpdate;
}

/**
 * Reads what follows the control segment of a SEND or LSO whose `length` bytes are in `bytes`.
 * @param maxPayload most bytes that data segments may name together
 * @returns 0, or the `cqeSyndrome` of what is wrong
 */
export function parseSend(bytes: Buffer, wqe: SendWqe, maxPayload: number): number {
  if (wqe.length < segmentsStart) return cqeSyndrome.LOCAL_QP_OP_ERR;
  const checksum = bytes[checksumByte] ?? 0;
  wqe.checksumL3 = (checksum & ethernetChecksum.L3) !== 0;
  wqe.checksumL4 = (checksum & ethernetChecksum.L4) !== 0;
  wqe.mss = bytes.readUInt16BE(mssByte);
  const inlineSize = bytes.readUInt16BE(inlineSizeByte);
  wqe.inlineAt = inlineDataByte;
  let at = segmentsStart;
  if ((inlineSize & vlanInsert.enable) !== 0) {
    wqe.insertVlan = (inlineSize & vlanInsert.svlan) !== 0 ? 0x88a8 : 0x8100;
    wqe.vlanTci = bytes.readUInt16BE(inlineDataByte);
    wqe.inlineLength = 0;
  } else {
    wqe.insertVlan = 0;
    wqe.inlineLength = inlineSize & inlineSizeMask;
    if (wqe.inlineLength > inlineInSegment) {
      at += Math.ceil((wqe.inlineLength - inlineInSegment) / segmentBytes) * segmentBytes;
    }
  }
  if (at > wqe.length) return cqeSyndrome.LOCAL_LENGTH_ERR;
  wqe.segments = 0;
  wqe.payloadLength = 0;
  while (at < wqe.length) {
    const index = wqe.segments;
    const count = bytes.readUInt32BE(at);
    const size = count & byteCountMask;
    let advance: number = segmentBytes;
    if ((count & byteCountFlag) !== 0) {
      if (size === 0 || at + inlineDataOffset + size > wqe.length) return cqeSyndrome.LOCAL_LENGTH_ERR;
      wqe.segmentAddress[index] = -(at + inlineDataOffset);
      advance = Math.ceil((inlineDataOffset + size) / segmentBytes) * segmentBytes;
    } else {
      const high = bytes.readUInt32BE(at + dataAddressByte);
      const address = high * 2 ** 32 + bytes.readUInt32BE(at + dataAddressByte + 4);
      // A byte count of 0 means 2 GiB, which no frame has.
      if (size === 0) return cqeSyndrome.LOCAL_LENGTH_ERR;
      if (!Number.isSafeInteger(address + size)) return cqeSyndrome.LOCAL_PROT_ERR;
      wqe.segmentAddress[index] = address;
      wqe.segmentLkey[index] = bytes.readUInt32BE(at + dataLkeyByte);
    }
    wqe.segmentLength[index] = size;
    wqe.payloadLength += size;
    if (wqe.payloadLength > maxPayload) return cqeSyndrome.LOCAL_LENGTH_ERR;
    wqe.segments++;
    at += advance;
  }
  if (wqe.opcode === wqeOpcode.LSO && (wqe.mss === 0 || wqe.inlineLength === 0)) {
    return cqeSyndrome.LOCAL_QP_OP_ERR;
  }
  return 0;
}
