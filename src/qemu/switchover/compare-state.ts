/** Two streams of saved state, compared while they are read. */
import type { DevicePeer } from '../device-peer.ts';

/** Bytes asked for at a time; of each side, no more than what one such read gave is kept. */
const window = 1024 * 1024;

export type StateReader = Pick<DevicePeer, 'read' | 'maxTransfer'>;

export interface StateComparison {
  /** Bytes of each state. */
  readonly sourceLength: number;
  readonly destinationLength: number;
  /** Offset of the first byte that differs or that only one of them has; undefined: they are equal. */
  readonly difference: number | undefined;
}

class Side {
  /** Bytes that the other side has not been compared with yet. */
  pending: Buffer = Buffer.alloc(0);
  length = 0;
  ended = false;
  readonly #reader: StateReader;

  constructor(reader: StateReader) {
    this.#reader = reader;
  }

  /** Reads on if nothing is pending. */
  async fill(): Promise<void> {
    if (this.ended || this.pending.length > 0) return;
    this.pending = await this.#reader.read(Math.min(window, this.#reader.maxTransfer));
    this.length += this.pending.length;
    this.ended = this.pending.length === 0;
  }

  drop(bytes: number): void {
    this.pending = this.pending.subarray(bytes);
  }
}

/** Offset of the first byte in which two buffers of equal length differ. */
function firstDifference(one: Buffer, other: Buffer): number | undefined {
  if (one.equals(other)) return undefined;
  return one.findIndex((byte, index) => byte !== other[index]);
}

/**
 * Reads both states to their ends, side by side, and compares them; memory is bounded whatever their size. Behind
 * the first difference bytes are only counted.
 */
export async function compareStates(source: StateReader, destination: StateReader): Promise<StateComparison> {
  const [one, other] = [new Side(source), new Side(destination)];
  let difference: number | undefined;
  for (let at = 0; ; ) {
    await Promise.all([one.fill(), other.fill()]);
    if (one.ended && other.ended) break;
    const shared = Math.min(one.pending.length, other.pending.length);
    if (difference === undefined) {
      const within = firstDifference(one.pending.subarray(0, shared), other.pending.subarray(0, shared));
      if (within !== undefined) difference = at + within;
      else if (one.ended || other.ended) difference = at;
    }
    at += shared;
    const counting = difference !== undefined;
    one.drop(counting ? one.pending.length : shared);
    other.drop(counting ? other.pending.length : shared);
  }
  return { sourceLength: one.length, destinationLength: other.length, difference };
}
