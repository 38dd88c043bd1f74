/** How a replay plan is carried out by DMA to the window through which a q35 machine's configuration space is reached. */
import type { ReplayEntry } from '../pci/index.ts';
import type { DmaOperation } from './device-peer.ts';

/** `entries` as DMA into the function's configuration space at `base`; neighbouring BARs in one write. */
export function ecamWrites(base: number, entries: readonly ReplayEntry[]): DmaOperation[] {
  const writes: { at: number; parts: Buffer[]; length: number }[] = [];
  for (const entry of entries) {
    const bytes = Buffer.alloc(entry.size);
    bytes.writeUIntLE(entry.value, 0, entry.size);
    const last = writes.at(-1);
    if (entry.role === 'bar' && last !== undefined && last.at + last.length === entry.offset) {
      last.parts.push(bytes);
      last.length += entry.size;
    } else {
      writes.push({ at: entry.offset, parts: [bytes], length: entry.size });
    }
  }
  return writes.map(({ at, parts }) => ({ write: base + at, bytes: Buffer.concat(parts) }));
}
