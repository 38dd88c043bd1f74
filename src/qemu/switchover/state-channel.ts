/** How state gets from one server to the other: through memory that both share, or through this process. */
import { randomBytes } from 'node:crypto';
import { CompanionError } from '../../errors.ts';
import { closeFd, memfdCreate, sealSize, write } from '../../posix/index.ts';
import type { DevicePeer, SharedState } from '../device-peer.ts';

/** Bytes of one chunk: large enough that round trips vanish, small enough that a server stays responsive. */
const chunkBytes = 2 * 1024 * 1024;
/** One chunk is read while the one before is written. */
export const slots = 2;
const tokenBytes = 16;

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

/**
 * Undefined where it can't be had: servers that don't know it, or that can't look into this process. A lost
 * connection shows at the next request.
 */
async function openWindow(source: DevicePeer, destination: DevicePeer): Promise<StateChannel | undefined> {
  const from = source.shared;
  const to = destination.shared;
  if (from === undefined || to === undefined) return undefined;
  const size = slots * chunkBytes;
  let fd: number;
  try {
    fd = memfdCreate('state-window', size);
  } catch (error) {
    // No memory, or a limit on the size of files, which this is one of: sockets will do.
    if (error instanceof CompanionError) return undefined;
    throw error;
  }
  try {
    sealSize(fd);
    const token = randomBytes(tokenBytes);
    write(fd, token);
    const place: Parameters<SharedState['open']>[0] = { pid: process.pid, fd, size, token };
    const opened = await Promise.allSettled([from.open(place), to.open(place)]);
    for (const each of opened) {
      if (each.status === 'fulfilled') continue;
      if (!(each.reason instanceof CompanionError)) throw each.reason;
      return undefined;
    }
  } finally {
    // Both servers have it open, or neither needs it.
    closeFd(fd);
  }
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
