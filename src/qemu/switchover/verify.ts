/** Step 7, when asked for: the proof, between replay and `cont`, while both sides stand still. */
import { CompanionError } from '../../errors.ts';
import { migrationState } from '../../migration/state.ts';
import { compareConfigs } from '../../pci/index.ts';
import { ConfigPorts, type Monitor } from '../config-ports.ts';
import type { DevicePeer, DmaOperation } from '../device-peer.ts';
import { refusal } from '../errors.ts';
import { ecamOffset } from '../pci-address.ts';
import { comparableRam, foreignQemuHint, isForeignUnixSocket, verifyRamInTurns } from '../ram-proof.ts';
import { compareStates, type StateComparison } from './compare-state.ts';
import type { MigrationEnd } from './options.ts';
import { listenerAt } from './processes.ts';
import { frozen, msixTableAddress, needsBusMaster } from './registers.ts';
import type { DeviceRun, Run } from './run.ts';

/** What the ports reach, and all that a replay writes. */
const configBytes = 256;

/** Refuses, while nothing has been touched, a proof that can't be had. */
export function checkProof(run: Run): void {
  if (run.options.verify?.ram === true) comparableRam(...parties(run));
}

export async function verify(run: Run): Promise<void> {
  const wanted = run.options.verify ?? {};
  if (Object.values(wanted).every((each) => each !== true)) return;
  await run.timeline.span('verify', async () => {
    if (wanted.config === true) await verifyConfigs(run);
    if (wanted.state === true) await run.each((device) => verifyState(run, device));
    if (wanted.ram === true) await proveRam(run);
  });
}

function pidOf(run: Run, end: MigrationEnd, side: string): number {
  const pid = end.pid ?? listenerAt(run, end.qmp);
  if (pid !== undefined) return pid;
  if (typeof end.qmp === 'string' && isForeignUnixSocket(end.qmp))
    throw refusal('VC_RAM_PROOF', `the ${side} QEMU is a process of another user`, foreignQemuHint);
  throw refusal(
    'VC_RAM_PROOF',
    `can't tell which process on this machine the ${side} QEMU is`,
    'name its monitor by the path that QEMU was given, an absolute one; the library takes its process id, too',
  );
}

function parties(run: Run): [source: { pid: number }, destination: { pid: number }] {
  const { source, destination } = run.options;
  return [{ pid: pidOf(run, source, 'source') }, { pid: pidOf(run, destination, 'destination') }];
}

async function proveRam(run: Run): Promise<void> {
  const proof = await verifyRamInTurns(...parties(run), run.signal);
  run.ram = {
    pages: proof.pages,
    differing: proof.differing,
    milliseconds: proof.milliseconds,
    first: proof.first.map(({ region, offset }) => ({ region, offset })),
  };
  if (proof.differing > 0) {
    const where = proof.first.slice(0, 4).map(({ offset }) => `0x${offset.toString(16)}`);
    throw new CompanionError(
      'VC_RAM_DIFFERS',
      `${proof.differing} of ${proof.pages} pages of guest RAM differ (at ${where.join(', ')}${proof.differing > 4 ? ' …' : ''})`,
    );
  }
}

/**
 * Compares the registers of all devices, as the destination QEMU has them, with what they were.
 * Ports are one resource for all devices; what stands in 0xCF8 is the guest's.
 * @throws CompanionError (VC_CONFIG_DIFFERS)
 */
export async function verifyConfigs(run: Comparing): Promise<void> {
  const ports = new ConfigPorts(run.destination);
  if (run.ecamBase === undefined) await run.until(ports.save());
  await run.all(run.devices.map((device) => verifyConfig(run, device, ports)));
  await run.until(ports.restore());
}

/** Configuration space as the destination QEMU shows it: that of the server alone is what its state had it load. */
async function readByPorts(ports: ConfigPorts, { address }: ComparedDevice): Promise<Buffer> {
  const config = Buffer.alloc(configBytes);
  const offsets = Array.from({ length: configBytes / 4 }, (_, index) => 4 * index);
  const words = await Promise.all(offsets.map((offset) => ports.read(address, offset, 4)));
  for (const [index, word] of words.entries()) config.writeUInt32LE(word, 4 * index);
  return config;
}

/** A device whose registers are read back. */
export type ComparedDevice = Pick<
  DeviceRun,
  | 'id'
  | 'destination'
  | 'address'
  | 'frozen'
  | 'msixTable'
  | 'configCompared'
  | 'configDifferences'
  | 'msixTableEqual'
>;

/** What a comparison of registers has to know of its migration. */
export interface Comparing extends Pick<Run, 'ecamBase' | 'until' | 'all' | 'warn'> {
  readonly destination: Monitor;
  readonly devices: readonly ComparedDevice[];
}

/** Reads configuration and MSI-X table back from the destination QEMU. */
async function verifyConfig(run: Comparing, device: ComparedDevice, ports: ConfigPorts): Promise<void> {
  const { id, address, msixTable, destination } = device;
  const why = outOfReach(device);
  device.configCompared = why === undefined;
  if (why !== undefined) {
    run.warn(`device ${id}: ${why}, so its configuration and MSI-X table could not be compared`);
    return;
  }
  const info = frozen(device);
  const tableAt = msixTable === undefined ? undefined : msixTableAddress(info);
  const operations: DmaOperation[] = [];
  if (msixTable !== undefined && tableAt !== undefined)
    operations.push({ read: tableAt, length: msixTable.length });
  if (run.ecamBase !== undefined)
    operations.push({ read: run.ecamBase + ecamOffset(address), length: configBytes });
  const results = operations.length === 0 ? [] : await destination.dma(operations);
  if (tableAt !== undefined) device.msixTableEqual = same(msixTable, results[0]?.bytes);
  const config = run.ecamBase === undefined ? await readByPorts(ports, device) : results.at(-1)?.bytes;
  device.configDifferences = config === undefined ? ['unreadable'] : differences(info.config, config);
  const what = [...device.configDifferences, ...(device.msixTableEqual === false ? ['MSI-X table'] : [])];
  if (what.length > 0)
    throw new CompanionError(
      'VC_CONFIG_DIFFERS',
      `device ${id} differs at the destination: ${what.join(', ')}`,
    );
}

/** Why a device's own DMA does not reach its registers; undefined: it does. */
function outOfReach(device: ComparedDevice): string | undefined {
  if (device.address.bus < 0) return 'its bus has no number';
  return needsBusMaster(device) ? 'the guest has its memory or bus mastering switched off' : undefined;
}

function same(was: Buffer | undefined, bytes: Uint8Array | undefined): boolean {
  return was !== undefined && bytes !== undefined && was.equals(bytes);
}

function differences(was: Buffer, config: Uint8Array): string[] {
  return compareConfigs(was, Buffer.from(config)).map(
    ({ name, source, destination }) =>
      `${name}: 0x${source.toString(16)} became 0x${destination.toString(16)}`,
  );
}

/** Saves the device again on both sides, in full, and compares the two while they come. */
async function verifyState(run: Run, device: DeviceRun): Promise<void> {
  const { id, source, destination, sourceInfo, pristine } = device;
  if (sourceInfo.stateVersion !== pristine.stateVersion) {
    run.warn(
      `device ${id}: state versions ${sourceInfo.stateVersion} and ${pristine.stateVersion} can't be compared; its state was not`,
    );
    return;
  }
  await Promise.all([saveAgain(source), saveAgain(destination)]);
  const compared = await compareStates(source, destination);
  await destination.setState(migrationState.RUNNING);
  device.stateEqual = compared.difference === undefined;
  checkEqual(id, compared);
}

/** @throws CompanionError (VC_STATE_DIFFERS) unless the two states are the same */
export function checkEqual(id: string, compared: StateComparison): void {
  const { difference, sourceLength, destinationLength } = compared;
  if (difference !== undefined)
    throw new CompanionError(
      'VC_STATE_DIFFERS',
      `the state of device ${id} differs from byte ${difference} on: ${sourceLength} bytes at the source, ${destinationLength} at the destination`,
    );
}

/** Has a device that stands still give all of its state again. */
export async function saveAgain(peer: DevicePeer): Promise<void> {
  await peer.setState(migrationState.STOP);
  await peer.setState(migrationState.STOP_COPY);
}
