/** Step 6: what QEMU holds of the devices is told to the destination QEMU, as far as it has not been told yet. */
import { CompanionError, errno, errnoName } from '../../errors.ts';
import { migrationState } from '../../migration/state.ts';
import { command, planReplay, type ReplayEntry } from '../../pci/index.ts';
import type { DmaOperation } from '../device-peer.ts';
import { ecamWrites } from '../ecam-writes.ts';
import { ecamOffset, formatAddress } from '../pci-address.ts';
import { forgetTable, tableWrites } from './preset.ts';
import { commandOf, commandOffset, frozen, msixTableAddress, neededBits } from './registers.ts';
import type { DeviceRun, Run } from './run.ts';
import { otherServer } from './side-checks.ts';

/** A device whose QEMU is told what its registers were when its guest stopped. */
export type ReplayedDevice = Pick<
  DeviceRun,
  'id' | 'destination' | 'address' | 'told' | 'pristine' | 'frozen' | 'msixTable' | 'replayed' | 'replayPath'
>;

/** What a replay needs to know of its migration, which may have come from a file. */
export interface Replaying
  extends Pick<Run, 'timeline' | 'destinationPorts' | 'ecamBase' | 'cf8' | 'until' | 'all'> {
  readonly devices: readonly ReplayedDevice[];
}

/**
 * Lets a device run, held as it is, whose QEMU has been told all in advance: while it loads, for nothing that it loads
 * touches the device.
 */
export async function startTold(device: ReplayedDevice): Promise<void> {
  await device.destination.setState(migrationState.RUNNING);
  device.replayPath = 'early';
}

export async function replay(run: Replaying): Promise<void> {
  const rest = run.devices.filter(({ replayPath }) => replayPath !== 'early');
  await run.timeline.span('replay', async () => {
    const byPorts = rest.filter((device) => !viaEcam(run, device));
    const byEcam = rest.filter((device) => viaEcam(run, device));
    let usedPorts = false;
    for (const device of rest.filter(({ told, address }) => told === undefined && address.bus >= 0)) {
      usedPorts = true;
      await run.until(admit(run, device));
    }
    const answered = await run.all(byEcam.map((device) => replayByEcam(run, device)));
    // A guest that rebooted meanwhile has no ECAM window before its firmware has made it again.
    byPorts.push(...byEcam.filter((_device, index) => answered[index] === false));
    // Ports are one resource for all devices.
    for (const device of byPorts) {
      if (device.address.bus < 0) continue;
      usedPorts = true;
      await run.until(replayByPorts(run, device));
    }
    for (const device of byEcam) {
      // A sleeping function takes no other writes, and sleeps with Bus Master off: by ports, at the very end.
      if (device.replayPath !== 'ecam') continue;
      for (const { offset, size, value } of plan(device).power) {
        usedPorts = true;
        await run.until(run.destinationPorts.write(device.address, offset, size, value));
      }
    }
    await run.all([
      ...byPorts.map((device) => device.destination.setState(migrationState.RUNNING)),
      usedPorts ? run.destinationPorts.restore(run.cf8) : Promise.resolve(),
    ]);
  });
}

function viaEcam(run: Replaying, device: ReplayedDevice): boolean {
  return run.ecamBase !== undefined && device.address.bus >= 0;
}

/**
 * Lets a device behind a bridge do DMA, of which its QEMU could not be told anything before. With several, the server that is taken for its own
 * must be the one that can do some from then on: one that belongs to the next device still can't.
 */
async function admit(run: Replaying, device: ReplayedDevice): Promise<void> {
  const { address, destination, id } = device;
  const bits = viaEcam(run, device) ? neededBits(device) : command.master;
  await run.destinationPorts.write(address, commandOffset, 2, bits);
  if (run.devices.length === 1) return;
  const [result] = await destination.dma([{ read: 0, length: 4 }]);
  const code = result?.errno ?? errno.EIO;
  if (code === errno.ENODEV) throw otherServer(destination, id, 'destination');
  if (code !== 0) throw replayError(device, `refuses a read by DMA (${errnoName(code)})`);
}

/** Nothing has changed since the destination was told. */
export function isTold(device: ReplayedDevice): boolean {
  const { told } = device;
  if (told === undefined) return false;
  const { before, after, power } = plan(device);
  return (
    before.length + after.length + power.length === 0 &&
    commandOf(told.config) === commandOf(frozen(device).config) &&
    missingEntries(device).length + staleEntries(device).length === 0
  );
}

/** The plan of a device, cut where the MSI-X table has to be written: after the addresses, before its enable bit. */
function plan(device: ReplayedDevice): { before: ReplayEntry[]; after: ReplayEntry[]; power: ReplayEntry[] } {
  const entries = planReplay(frozen(device).config, (device.told ?? device.pristine).config);
  device.replayed = entries.length;
  const early = (entry: ReplayEntry): boolean => ['bar', 'plain', 'msi'].includes(entry.role);
  const power = (entry: ReplayEntry): boolean => entry.role === 'power';
  return {
    before: entries.filter(early),
    after: entries.filter((entry) => !early(entry) && !power(entry)),
    power: entries.filter(power),
  };
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  return bytes;
}

/** What is still to be written into the destination's MSI-X table. */
function missingEntries(device: ReplayedDevice): DmaOperation[] {
  const address = msixTableAddress(frozen(device));
  const { msixTable, told } = device;
  if (address === undefined || msixTable === undefined) return [];
  return tableWrites(address, msixTable, told?.table?.bytes);
}

/** The guest has reset the device since its table was told. */
function staleEntries({ told, msixTable }: ReplayedDevice): DmaOperation[] {
  return told?.table === undefined || msixTable !== undefined ? [] : forgetTable(told.table);
}

/**
 * All in one batch, carried out in order: registers by DMA to the ECAM window, the table by DMA to the BAR.
 * @returns false when the function is not to be found in the window
 */
async function replayByEcam(run: Replaying, device: ReplayedDevice): Promise<boolean> {
  const info = frozen(device);
  const base = (run.ecamBase ?? 0) + ecamOffset(device.address);
  const { before, after } = plan(device);
  const saved = commandOf(info.config);
  const open = saved | neededBits(device);
  const operations: DmaOperation[] = [];
  let now = device.told === undefined ? neededBits(device) : commandOf(device.told.config);
  const setCommand = (value: number): void => {
    if (value !== now) operations.push({ write: base + commandOffset, bytes: word(value) });
    now = value;
  };
  operations.push(...staleEntries(device));
  // Addresses move with decoding off: each piece would have the memory tree built anew.
  if (before.some(({ role }) => role === 'bar')) setCommand(command.master);
  operations.push(...ecamWrites(base, before));
  setCommand(open);
  operations.push(...missingEntries(device), ...ecamWrites(base, after));
  // Last: with Bus Master off no further DMA of ours would be let through.
  setCommand(saved);
  const identity = { read: base, length: 4 };
  // The state machine is to run after the batch; the device is still held and starts nothing before `cont`.
  const [[first, ...results]] = await Promise.all([
    device.destination.dma([identity, ...operations]),
    device.destination.setState(migrationState.RUNNING),
  ]);
  const wanted = info.config.readUInt32LE(0);
  const found =
    first?.bytes === undefined || first.errno !== 0 ? undefined : Buffer.from(first.bytes).readUInt32LE(0);
  if (found !== wanted) return false;
  const failed = results.findIndex((result) => result.errno !== 0);
  if (failed >= 0)
    throw replayError(device, `refuses write ${failed + 1} (${errnoName(results[failed]?.errno ?? 0)})`);
  device.replayPath = 'ecam';
  return true;
}

async function replayByPorts(run: Replaying, device: ReplayedDevice): Promise<void> {
  const ports = run.destinationPorts;
  const info = frozen(device);
  const { before, after, power } = plan(device);
  const saved = commandOf(info.config);
  const open = saved | neededBits(device);
  const write = (entry: { offset: number; size: 1 | 2 | 4; value: number }): Promise<void> =>
    ports.write(device.address, entry.offset, entry.size, entry.value);
  const setCommand = (value: number): Promise<void> => write({ offset: commandOffset, size: 2, value });
  const dma = async (operations: DmaOperation[]): Promise<void> => {
    if (operations.length === 0) return;
    const results = await device.destination.dma(operations);
    const refused = results.find((result) => result.errno !== 0);
    if (refused !== undefined)
      throw replayError(device, `refuses its MSI-X table (${errnoName(refused.errno)})`);
  };
  await dma(staleEntries(device));
  await Promise.all([setCommand(command.master), ...before.map(write), setCommand(open)]);
  await dma(missingEntries(device));
  await Promise.all(after.map(write));
  if (open !== saved) await setCommand(saved);
  await Promise.all(power.map(write));
  device.replayPath = 'ports';
}

function replayError(device: ReplayedDevice, what: string): CompanionError {
  return new CompanionError(
    'VC_REPLAY',
    `device ${device.id} at ${formatAddress(device.address)} of the destination ${what}`,
  );
}
