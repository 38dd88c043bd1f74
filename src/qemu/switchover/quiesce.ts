/**
 * Step 4, the first part of the blackout: the vCPUs have stopped, QEMU's main loop still runs. The devices
 * come to rest, the pages that they wrote are shown to QEMU, and what only QEMU knows is read.
 */
import { CompanionError, errno, errnoName } from '../../errors.ts';
import { migrationState } from '../../migration/state.ts';
import { Timeline } from '../../report/timeline.ts';
import { ConfigPorts } from '../config-ports.ts';
import type { BarrierResult } from '../device-peer.ts';
import { formatAddress } from '../pci-address.ts';
import { carry, pagesToCarry } from './carry.ts';
import { moveState } from './final.ts';
import { addressOf } from './place.ts';
import {
  commandOf,
  commandOffset,
  frozen,
  msixTableAddress,
  neededBits,
  needsBusMaster,
} from './registers.ts';
import { isTold } from './replay.ts';
import { type DeviceRun, type Run, refusal } from './run.ts';
import { canP2p, canPreCopy } from './setup.ts';

export async function quiesce(run: Run): Promise<void> {
  const { timeline } = run;
  const seen = Timeline.now();
  if (timeline.zeroUs === undefined) timeline.zero(seen);
  timeline.add('detect', timeline.zeroUs ?? seen, seen);
  const resting = run.devices.map((device) => rest(run, device));
  // All devices have to be in their P2P state before one leaves it, for they may write into each other. A
  // server serves in order what it is asked, so that a device that is alone need not be waited for.
  if (run.devices.length > 1) await run.all(resting);
  const steps = run.devices.map((device, index) => {
    const rested = resting[index] ?? Promise.resolve();
    return { rested, ...halt(run, device, rested) };
  });
  // They are waited for one after the other: the first that fails ends the migration, the others have been heard.
  for (const { stopped, marked } of steps) for (const each of [stopped, marked]) each.catch(() => undefined);
  rouse(run);
  run.moved = Promise.all(steps.map(({ moved }) => moved));
  // Whatever is waited for, a state that is refused must end that wait.
  run.moved.catch((error) => run.fail(error));
  await run.all(steps.map(({ rested }) => rested));
  const rested = Timeline.now();
  await run.each((device) => locate(run, device));
  await run.all(steps.map(({ stopped }) => stopped));
  const marking = await run.all(steps.map(({ marked }) => marked));
  timeline.add('quiesce', seen, Math.max(seen, Math.min(rested, ...marking)));
  const borrowed = run.devices.filter((device) => needsBusMaster(device));
  if (borrowed.length > 0) await run.until(showBorrowing(run, borrowed));
  for (const device of run.devices) checkShown(run, device);
  await run.until(run.settled);
  // 0xCF8 is guest state: it has to be known before we touch it, which only a replay does.
  if (!run.devices.every(isTold)) run.cf8 = await run.until(run.sourcePorts.save());
}

/**
 * What has slept for some milliseconds runs several times slower at first. A destination's server is woken while it is still waited
 * for nobody, so that it is awake when the state comes and its QEMU maps memory.
 */
function rouse(run: Run): void {
  for (const { destination } of run.devices) destination.state().catch(() => undefined);
}

/**
 * Brings a device to rest: its port parked, what QEMU has queued drained (which brings the MSI-X table), the device held
 * and in its P2P state. One request for all of it.
 */
async function rest(run: Run, device: DeviceRun): Promise<void> {
  const { source, sourceInfo } = device;
  const p2p = canPreCopy(device) ? migrationState.PRE_COPY_P2P : migrationState.RUNNING_P2P;
  const park = sourceInfo.hasNet;
  const start = Timeline.now();
  const rested = await source.rest(canP2p(device) ? { park, state: p2p } : { park });
  const { config, addresses, microseconds } = rested;
  run.timeline.add('msix-read', start, start + microseconds, { device: device.id });
  const bars = sourceInfo.bars.map((bar) => ({ ...bar, address: addresses[bar.index] ?? null }));
  device.frozen = { ...sourceInfo, config, bars };
  takeTable(device, rested);
}

/**
 * Has the device stopped, its pages marked and its state moved: all requests at once, carried out in this order. The pages come
 * first, for QEMU's last pass of RAM waits for them; the state moves beside that.
 */
function halt(run: Run, device: DeviceRun, rested: Promise<unknown>) {
  // Without P2P a device passes through STOP by itself.
  const halted = device.source.halt().then((left) => {
    device.dataSize = left;
  });
  const stopped = Promise.all([rested, halted]);
  const marked = mark(run, device, stopped);
  // A piece that was under way when the CPUs stopped has its place in the channel still.
  const moved = device.feeding
    ? device.fed.then(() => moveState(run, device, stopped))
    : moveState(run, device, stopped);
  return { stopped, marked, moved };
}

/** Where the device sits, if that may have changed while the guest ran. */
async function locate(run: Run, device: DeviceRun): Promise<void> {
  if (device.address.bus !== 0) device.address = await addressOf(run.source, device.id);
}

/**
 * A guest that boots, reboots or has unbound its driver has Bus Master off, and QEMU refuses all DMA of the
 * device then. It is switched on through port 0xCF8 for a moment.
 */
async function showBorrowing(run: Run, devices: readonly DeviceRun[]): Promise<void> {
  const ports = run.sourcePorts;
  const cf8 = await ports.save();
  const back = new ConfigPorts(run.unfenced);
  const restore = async (): Promise<void> => {
    for (const device of devices) {
      if (device.address.bus >= 0)
        await back.write(device.address, commandOffset, 2, commandOf(frozen(device).config));
    }
    await back.restore(cf8);
  };
  let given: Promise<void> | undefined;
  // A rollback that begins in the midst of it waits for the same.
  run.giveBack = () => {
    given ??= restore();
    return given;
  };
  for (const device of devices) {
    if (device.address.bus < 0) continue;
    const value = commandOf(frozen(device).config) | neededBits(device);
    await ports.write(device.address, commandOffset, 2, value);
  }
  // The servers hear of it on their device sockets: the barrier is answered behind that.
  await Promise.all(
    devices.map(async (device) => {
      const barrier = device.source.barrier();
      await Promise.all([
        mark(run, device, barrier),
        barrier.then(({ msixTable }) => (device.msixTable = msixTable)),
      ]);
    }),
  );
  await run.giveBack?.();
}

/**
 * Has the pages marked that the device wrote.
 * @param before what the server was asked just before
 * @returns when that began; see `Timeline.now`
 */
async function mark(run: Run, device: DeviceRun, before: Promise<unknown>): Promise<number> {
  if (run.options.markDirtyPages === false) return Number.POSITIVE_INFINITY;
  const marked = device.source.markDirty(pagesToCarry(device));
  marked.catch(() => undefined);
  await before;
  device.mark = await marked;
  carry(run, device);
  // The replies to all requests come together: how long this one took only the server knows.
  const end = Timeline.now();
  const start = end - device.mark.microseconds;
  run.timeline.add('marking', start, end, { device: device.id, note: `${device.mark.pages} pages` });
  return start;
}

/** Takes the MSI-X table as QEMU holds it from what a barrier brought. */
function takeTable(device: DeviceRun, { errno: code, msixTable }: BarrierResult): void {
  device.msixTable = msixTable;
  if (msixTable !== undefined || msixTableAddress(frozen(device)) === undefined || needsBusMaster(device))
    return;
  throw refusal(
    'VC_VIOMMU',
    `device ${device.id} at ${formatAddress(device.address)} can't reach its own MSI-X table (${errnoName(code === 0 ? errno.EIO : code)})`,
    'is there a translating vIOMMU? boot the guest with iommu=pt',
  );
}

function checkShown(run: Run, device: DeviceRun): void {
  const { id, mark } = device;
  if (run.options.markDirtyPages === false) {
    run.warn(`device ${id}: the pages that it wrote are not marked, as asked`);
    return;
  }
  if (mark === undefined || mark.deferred)
    throw new CompanionError(
      'VC_MARKING',
      `the pages that device ${id} wrote can't be shown to QEMU while its Bus Master is off`,
    );
  if (mark.failed > 0)
    throw new CompanionError(
      'VC_MARKING',
      `${mark.failed} of ${mark.pages} pages that device ${id} wrote can't be shown to QEMU (${errnoName(mark.firstErrno)})`,
    );
}
