/**
 * What the destination QEMU can be told of a device while the guest still runs at the source. A device's registers change
 * rarely once its driver is up, so that mostly nothing is left for the blackout; `replay` sees to what has
 * changed since. QEMU does not migrate these registers, so what was told is still there when it has loaded.
 */
import { command, planReplay, type ReplayEntry } from '../../pci/index.ts';
import type { DmaOperation, PeerInfo } from '../device-peer.ts';
import { commandOf, commandOffset, msixTableAddress } from './registers.ts';
import type { DeviceRun, Run } from './run.ts';

/** What a destination QEMU holds of a device because we have told it. */
export interface Told {
  readonly config: Buffer;
  /** Undefined: its MSI-X table is as after power-on. */
  readonly table: { readonly address: number; readonly bytes: Buffer } | undefined;
}

const msixEntryBytes = 16;
/** Offset of an entry's Vector Control, and its Mask bit (PCI Local Bus 3.0, 6.8.2.9). */
const vectorControl = 12;
const masked = 1;
/** Message Control: MSI-X Enable. */
const msixEnable = 0x8000;
/** What the device's own DMA needs to reach the MSI-X table. */
const tableReach = command.memory | command.master;

/**
 * Brings the destination up to the source's registers as they are now. Only bus 0 can be reached before the
 * bridges' state is there. Bus Master is set in any case, for the replay to start by DMA at once: a held device
 * starts nothing, so that does no harm.
 */
export async function preset(run: Run, device: DeviceRun): Promise<void> {
  if (device.address.bus !== 0) return;
  const info = device.told === undefined ? device.sourceInfo : await device.source.info();
  const had = device.told?.config ?? device.pristine.config;
  const entries = planReplay(info.config, had).filter(({ role }) => role !== 'power');
  const wanted = commandOf(info.config) | command.master;
  if (device.told !== undefined && entries.length === 0 && commandOf(had) === wanted) return;
  const config = Buffer.from(had);
  const write = async (offset: number, size: 1 | 2 | 4, value: number): Promise<void> => {
    await run.destinationPorts.write(device.address, offset, size, value);
    config.writeUIntLE(value, offset, size);
  };
  const tell = async (which: (entry: ReplayEntry) => boolean): Promise<void> => {
    for (const entry of entries) if (which(entry)) await write(entry.offset, entry.size, entry.value);
  };
  const table = await readTable(device, info);
  const before = device.told?.table;
  if (table === undefined && before !== undefined) await device.destination.dma(forgetTable(before));
  // Addresses move with decoding off: each piece would have the memory tree built anew.
  await write(commandOffset, 2, command.master);
  await tell(({ role }) => role === 'bar' || role === 'plain' || role === 'msi');
  await write(commandOffset, 2, wanted);
  let written = table;
  if (table !== undefined) {
    const results = await device.destination.dma(tableWrites(table.address, table.bytes, before?.bytes));
    if (results.some((result) => result.errno !== 0)) written = undefined;
  }
  // Enabled before it has its table, MSI-X would have to be set up twice.
  await tell(
    ({ role, value }) =>
      role === 'msi-control' ||
      (role === 'msix-control' && (written !== undefined || (value & msixEnable) === 0)),
  );
  device.told = { config, table: written };
}

/** The source's MSI-X table as it is now; undefined where it can't be reached. */
async function readTable(device: DeviceRun, info: PeerInfo): Promise<Told['table']> {
  const address = msixTableAddress(info);
  if (address === undefined || info.msix === undefined) return undefined;
  if ((commandOf(info.config) & tableReach) !== tableReach) return undefined;
  const [result] = await device.source.dma([{ read: address, length: msixTableBytes(info.msix.vectors) }]);
  if (result?.errno !== 0 || result.bytes === undefined) return undefined;
  return { address, bytes: Buffer.from(result.bytes) };
}

/** Size of an MSI-X table. */
export function msixTableBytes(vectors: number): number {
  return vectors * msixEntryBytes;
}

/**
 * What makes the MSI-X table at `address` that holds `had` (undefined: power-on contents) into `table`. An entry that
 * may be in use is masked first: for a client with MSI-X enabled it is the unmasking that makes an entry valid.
 */
export function tableWrites(address: number, table: Buffer, had: Buffer | undefined): DmaOperation[] {
  if (had === undefined) return [{ write: address, bytes: table }];
  const writes: DmaOperation[] = [];
  for (let at = 0; at < table.length; at += msixEntryBytes) {
    const entry = table.subarray(at, at + msixEntryBytes);
    if (entry.equals(had.subarray(at, at + msixEntryBytes))) continue;
    writes.push({ write: address + at + vectorControl, bytes: Buffer.of(masked, 0, 0, 0) });
    writes.push({ write: address + at, bytes: entry });
  }
  return writes;
}

/** Puts a table back to its power-on contents, while it can still be reached where it was told. */
export function forgetTable({ address, bytes }: NonNullable<Told['table']>): DmaOperation[] {
  const empty = Buffer.alloc(bytes.length);
  for (let at = vectorControl; at < empty.length; at += msixEntryBytes) empty.writeUInt32LE(masked, at);
  return tableWrites(address, empty, bytes);
}
