/**
 * Step 4, the first part of the blackout: the vCPUs have stopped, QEMU's main loop still runs. The devices
 * come to rest, the pages that they wrote are shown to QEMU, and what only QEMU knows is read.
 */
import { CompanionError, errno, errnoName } from '../../errors.ts';
import { migrationState } from '../../migration/state.ts';
import { command } from '../../pci/index.ts';
import { Timeline } from '../../report/timeline.ts';
import { formatAddress } from '../pci-address.ts';
import { addressOf, commandOf, commandOffset, msixTableAddress } from './check.ts';
import { moveState } from './final.ts';
import { msixTableBytes } from './preset.ts';
import { type DeviceRun, type Run, refusal } from './run.ts';
import { canP2p, canPreCopy } from './setup.ts';

export async function quiesce(run: Run): Promise<void> {
  const { timeline } = run;
  const seen = Timeline.now();
  if (timeline.zeroUs === undefined) timeline.zero(seen);
  timeline.add('detect', timeline.zeroUs ?? seen, seen);
  // 0xCF8 is guest state: it has to be known before we touch it, and while nothing else waits for QEMU.
  const cf8 = run.sourcePorts.save();
  cf8.catch(() => undefined);
  await timeline.span('quiesce', async () => {
    await run.each((device) => rest(device));
    await run.each((device) => device.fed);
    await run.each(async (device) => {
      if (device.address.bus !== 0) device.address = await addressOf(run.source, device.id);
    });
  });
  const borrowed = run.devices.filter((device) => needsBusMaster(device));
  if (borrowed.length > 0) await run.until(borrowBusMaster(run, borrowed));
  // All devices are in their P2P state by now; a device without P2P passes through STOP by itself.
  // Its state first: the destination loads it while pages are marked, and is free for its QEMU when RAM arrives.
  const steps = run.devices.map((device) => ({
    stopped: Promise.all([device.source.setState(migrationState.STOP_COPY), measureRest(device)]),
    moved: moveState(run, device),
    shown: Promise.all([markPages(run, device), readMsixTable(run, device)]),
  }));
  run.moved = Promise.all(steps.map(({ moved }) => moved));
  // Whatever is waited for, a state that is refused must end that wait.
  run.moved.catch((error) => run.fail(error));
  await run.all(steps.flatMap(({ stopped, shown }) => [stopped, shown]));
  if (run.giveBack !== undefined) await run.until(run.giveBack());
  run.cf8 = await run.until(cf8);
}

/** Parks the port, drains what QEMU has queued, and holds the device; requests go out without waiting. */
async function rest(device: DeviceRun): Promise<void> {
  const { source } = device;
  const p2p = canPreCopy(device) ? migrationState.PRE_COPY_P2P : migrationState.RUNNING_P2P;
  const [, , , , info] = await Promise.all([
    device.sourceInfo.hasNet ? source.park(true) : undefined,
    source.barrier(),
    source.hold(true),
    canP2p(device) ? source.setState(p2p) : undefined,
    source.info(),
  ]);
  device.frozen = info;
}

/** The configuration of a device as it was when the vCPUs stopped. */
export function frozen(device: DeviceRun): NonNullable<DeviceRun['frozen']> {
  if (device.frozen === undefined)
    throw new CompanionError('VC_MIGRATE', `device ${device.id} has not been stopped`);
  return device.frozen;
}

function needsBusMaster(device: DeviceRun): boolean {
  return (commandOf(frozen(device).config) & neededBits(device)) !== neededBits(device);
}

/** What the command register must have for the self-DMA: memory decoding only where there is a BAR to reach. */
export function neededBits(device: DeviceRun): number {
  const reach = msixTableAddress(frozen(device)) === undefined ? 0 : command.memory;
  return command.master | reach;
}

/**
 * A guest that boots, reboots or has unbound its driver has Bus Master off, and QEMU refuses all DMA of the
 * device then. It is switched on through port 0xCF8 and put back by `run.giveBack`.
 */
async function borrowBusMaster(run: Run, devices: readonly DeviceRun[]): Promise<void> {
  const ports = run.sourcePorts;
  await ports.save();
  run.giveBack = async () => {
    run.giveBack = undefined;
    for (const device of devices) {
      if (device.address.bus >= 0)
        await ports.write(device.address, commandOffset, 2, commandOf(frozen(device).config));
    }
    await ports.restore();
  };
  for (const device of devices) {
    if (device.address.bus < 0) continue;
    const value = commandOf(frozen(device).config) | neededBits(device);
    await ports.write(device.address, commandOffset, 2, value);
  }
}

/** How much state is left; asked last, when the device is at rest. */
async function measureRest(device: DeviceRun): Promise<void> {
  device.dataSize = await device.source.dataSize();
}

async function markPages(run: Run, device: DeviceRun): Promise<void> {
  if (run.options.markDirtyPages === false) {
    run.warn(`device ${device.id}: the pages that it wrote are not marked, as asked`);
    return;
  }
  const start = Timeline.now();
  const mark = await device.source.markDirty();
  device.mark = mark;
  run.timeline.add('marking', start, Timeline.now(), { device: device.id, note: `${mark.pages} pages` });
  if (mark.failed > 0)
    throw new CompanionError(
      'VC_MARKING',
      `${mark.failed} of ${mark.pages} pages that device ${device.id} wrote can't be shown to QEMU (${errnoName(mark.firstErrno)})`,
    );
}

async function readMsixTable(run: Run, device: DeviceRun): Promise<void> {
  const info = frozen(device);
  const address = msixTableAddress(info);
  if (info.msix === undefined || address === undefined) return;
  const start = Timeline.now();
  const [result] = await device.source.dma([{ read: address, length: msixTableBytes(info.msix.vectors) }]);
  run.timeline.add('msix-read', start, Timeline.now(), { device: device.id });
  if (result === undefined || result.errno !== 0 || result.bytes === undefined) {
    throw refusal(
      'VC_VIOMMU',
      `device ${device.id} at ${formatAddress(device.address)} can't reach its own MSI-X table (${errnoName(result?.errno ?? errno.EIO)})`,
      'is there a translating vIOMMU? boot the guest with iommu=pt',
    );
  }
  device.msixTable = Buffer.from(result.bytes);
}
