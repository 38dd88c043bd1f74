/** Memory that this process shares with device servers on the same machine. */
import { randomBytes } from 'node:crypto';
import { CompanionError } from '../../errors.ts';
import { closeFd, memfdCreate, sealSize, write } from '../../posix/index.ts';
import type { SharedPlace } from '../device-peer.ts';

const tokenBytes = 16;

/**
 * Makes `size` bytes of memory and has every one of `openers` map it.
 *
 * @returns false where it can't be had: servers that don't know it, that can't look into this process, no memory. A lost
 *   connection shows at the next request
 */
export async function shareMemory(
  name: string,
  size: number,
  openers: readonly ((place: SharedPlace) => Promise<void>)[],
): Promise<boolean> {
  let fd: number;
  try {
    fd = memfdCreate(name, size);
  } catch (error) {
    // No memory, or a limit on the size of files, which this is one of.
    if (error instanceof CompanionError) return false;
    throw error;
  }
  try {
    sealSize(fd);
    const token = randomBytes(tokenBytes);
    write(fd, token);
    const place = { pid: process.pid, fd, size, token };
    const opened = await Promise.allSettled(openers.map((open) => open(place)));
    for (const each of opened) {
      if (each.status === 'fulfilled') continue;
      if (!(each.reason instanceof CompanionError)) throw each.reason;
      return false;
    }
    return true;
  } finally {
    // All have it open, or none needs it.
    closeFd(fd);
  }
}
