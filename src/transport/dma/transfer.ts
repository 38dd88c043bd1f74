import { command } from '../../vfio-user/constants.ts';
import { dmaAccess } from '../../vfio-user/structs.ts';

/** One call of a channel under way: what was asked for, and what has come of it. */
export interface Transfer {
  readonly command: number;
  readonly iova: number;
  readonly bytes: Uint8Array;
  readonly addresses: ArrayLike<number> | undefined;
  readonly results: Int32Array | undefined;
  inFlight: number;
  bytesInFlight: number;
  /** When the last reply came, or the call began; monotonic nanoseconds. */
  progress: number;
  failed: number;
  firstErrno: number;
  /** A reply that does not fit its request. */
  broken: string | undefined;
  /** A probe only: the reply was a success. */
  succeeded: boolean;
}

/** A call that nothing has been sent of yet. */
export function newTransfer(
  cmd: number,
  iova: number,
  bytes: Uint8Array,
  addresses?: ArrayLike<number>,
  results?: Int32Array,
): Transfer {
  return {
    command: cmd,
    iova,
    bytes,
    addresses,
    results,
    inFlight: 0,
    bytesInFlight: 0,
    progress: 0,
    failed: 0,
    firstErrno: 0,
    broken: undefined,
    succeeded: false,
  };
}

/** Why a reply's payload at `at` of `buffer` does not fit the request for `bytes` bytes at `offset`, or undefined. */
export function checkReply(
  transfer: Transfer,
  offset: number,
  bytes: number,
  buffer: Buffer,
  at: number,
  length: number,
): string | undefined {
  const write = transfer.command === command.DMA_WRITE;
  // QEMU 10 answers a write with the header alone.
  if (write && length === 0) return undefined;
  const expected = dmaAccess.size + (write ? 0 : bytes);
  // The specification draws the count of a write's reply 4 bytes wide.
  if (length !== expected && !(write && length === expected - 4)) {
    return `${length} bytes of payload instead of ${expected}`;
  }
  const address =
    transfer.addresses === undefined ? transfer.iova + offset : (transfer.addresses[offset] ?? 0);
  const low = buffer.readUInt32LE(at);
  const high = buffer.readUInt32LE(at + 4);
  if (high * 2 ** 32 + low !== address) return 'another address than was asked for';
  if (buffer.readUInt32LE(at + dmaAccess.offsets.count) !== bytes) return 'another count than was asked for';
  if (length === expected && buffer.readUInt32LE(at + dmaAccess.offsets.count + 4) !== 0) {
    return 'another count than was asked for';
  }
  return undefined;
}
