/** How state gets from one server to the other: through memory that both share, or through this process. */
import type { DevicePeer, SharedPlace } from '../device-peer.ts';
import { shareMemory } from './shared-memory.ts';

/** Bytes of one chunk: large enough that round trips vanish, small enough that a server stays responsive. */
const chunkBytes = 2 * 1024 * 1024;
/** One chunk is read while the one before is written. */
export const slots = 2;

/** Two places for a chunk each; a place must have been written before it is read into again. */
export interface StateChannel {
  /** Bytes that one place holds; fewer come only at the end, for now or for good. */
  readonly chunkBytes: number;
  /** Has the source put its next bytes into `slot`; how many, 0: nothing (for now, or at the end). */
  read(slot: number): Promise<number>;
  /** Has the destination load the first `length` bytes of `slot`. */
  write(slot: number, length: number): Promise<void>;
}

/** The fastest channel that both servers can use. */
export async function openChannel(source: DevicePeer, destination: DevicePeer): Promise<StateChannel> {
  return (await openWindow(source, destination)) ?? throughSockets(source, destination);
}

/** Undefined where memory can't be shared. */
async function openWindow(source: DevicePeer, destination: DevicePeer): Promise<StateChannel | undefined> {
  const from = source.shared;
  const to = destination.shared;
  if (from === undefined || to === undefined) return undefined;
  const openers = [from, to].map((peer) => (place: SharedPlace) => peer.open(place));
  if (!(await shareMemory('state-window', slots * chunkBytes, openers))) return undefined;
  return {
    chunkBytes,
    read: (slot) => from.read(slot * chunkBytes, chunkBytes),
    write: (slot, length) => to.write(slot * chunkBytes, length),
  };
}

function throughSockets(source: DevicePeer, destination: DevicePeer): StateChannel {
  const size = Math.min(chunkBytes, source.maxTransfer, destination.maxTransfer);
  const chunks: (Buffer | undefined)[] = Array.from({ length: slots });
  return {
    chunkBytes: size,
    async read(slot) {
      const chunk = await source.read(size);
      chunks[slot] = chunk;
      return chunk.length;
    },
    async write(slot, length) {
      const chunk = chunks[slot];
      chunks[slot] = undefined;
      if (chunk !== undefined) await destination.write(chunk.subarray(0, length));
    },
  };
}
