/** Moves device state from a source server to its destination. */
import type { DeviceRun } from './run.ts';

/** Bytes of one chunk: large enough that round trips vanish, small enough that a server stays responsive. */
const chunkBytes = 1024 * 1024;

/**
 * Moves what the source has to give now, at most `limit` bytes or until `until` is aborted, reading the next
 * chunk while one is written.
 * @returns bytes moved; fewer than `limit` when the source has nothing more (for now, or at the end)
 */
export async function pump(
  device: DeviceRun,
  limit = Number.POSITIVE_INFINITY,
  until?: AbortSignal,
): Promise<number> {
  const { source, destination } = device;
  const size = Math.min(chunkBytes, source.maxTransfer, destination.maxTransfer);
  const started = performance.now();
  let moved = 0;
  let chunk = await source.read(size);
  while (chunk.length > 0) {
    moved += chunk.length;
    const written = destination.write(chunk);
    if (moved >= limit || until?.aborted === true) {
      await written;
      break;
    }
    const next = source.read(size);
    // Both are waited for, so that a refusal of the destination is not left unhandled behind a read.
    const [read] = await Promise.all([next, written]);
    chunk = read;
  }
  device.sentBytes += moved;
  device.pumpMs += performance.now() - started;
  return moved;
}

/** Bytes a millisecond assumed before anything has been measured. */
const assumedRate = 200_000;
const measurableBytes = 256 * 1024;

/** How fast state has moved so far, bytes a millisecond. */
export function pumpRate(devices: readonly DeviceRun[]): number {
  let bytes = 0;
  let ms = 0;
  for (const device of devices) {
    bytes += device.sentBytes;
    ms += device.pumpMs;
  }
  return bytes < measurableBytes || ms === 0 ? assumedRate : bytes / ms;
}
