/** Moves device state from a source server to its destination. */
import type { DeviceRun } from './run.ts';
import { openChannel, slots } from './state-channel.ts';

/**
 * Moves what the source has to give now, at most `limit` bytes or until `until` says so, reading the next
 * chunk while one is written. A short chunk is the last one, for now or for good (decision 22).
 * @returns bytes moved; fewer than `limit` when the source has nothing more (for now, or at the end)
 */
export async function pump(
  device: DeviceRun,
  limit = Number.POSITIVE_INFINITY,
  until: () => boolean = () => false,
): Promise<number> {
  const { bytes, written } = await pumpRest(device, limit, until);
  await written;
  return bytes;
}

/** As `pump`, up to the last chunk's being on its way: what is asked of the destination now comes after it. */
export async function pumpRest(
  device: DeviceRun,
  limit = Number.POSITIVE_INFINITY,
  until: () => boolean = () => false,
): Promise<{ bytes: number; written: Promise<void> }> {
  device.channel ??= await openChannel(device.source, device.destination);
  const { channel } = device;
  const started = performance.now();
  let moved = 0;
  let slot = 0;
  let length = await channel.read(slot);
  let written: Promise<void> = Promise.resolve();
  while (length > 0) {
    moved += length;
    written = channel.write(slot, length);
    // Whoever gets it in the end waits for it; a refusal meanwhile is not unhandled.
    written.catch(() => undefined);
    const last = length < channel.chunkBytes;
    if (last || moved >= limit || until()) break;
    slot = (slot + 1) % slots;
    const [read] = await Promise.all([channel.read(slot), written]);
    length = read;
  }
  const bytes = moved;
  const noted = written.then(() => {
    device.sentBytes += bytes;
    device.pumpMs += performance.now() - started;
  });
  noted.catch(() => undefined);
  return { bytes, written: noted };
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
