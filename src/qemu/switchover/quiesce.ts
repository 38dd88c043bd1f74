/**
 * Step 4, the first part of the blackout: the vCPUs have stopped, QEMU's main loop still runs. The devices
 * come to rest, the pages that they wrote are shown to QEMU, and what only QEMU knows is read.
 */
import { CompanionError, errnoName } from '../../errors.ts';
import { Timeline } from '../../report/timeline.ts';
import { ConfigPorts } from '../config-ports.ts';
import { bringToRest, takeTable } from './at-rest.ts';
import { borrowBusMaster } from './borrow.ts';
import { carry, pagesToCarry } from './carry.ts';
import { moveState } from './final.ts';
import { addressOf } from './place.ts';
import { needsBusMaster } from './registers.ts';
import { isTold } from './replay.ts';
import type { DeviceRun, Run } from './run.ts';
import { canPreCopy } from './setup.ts';

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

async function rest(run: Run, device: DeviceRun): Promise<void> {
  const start = Timeline.now();
  const rested = await bringToRest(device.source, device.sourceInfo, device.flags, canPreCopy(device));
  run.timeline.add('msix-read', start, start + rested.microseconds, { device: device.id });
  device.frozen = rested.frozen;
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

/** Marks the pages, and reads the tables, of devices whose Bus Master the guest has off. */
async function showBorrowing(run: Run, devices: readonly DeviceRun[]): Promise<void> {
  const ports = { ports: run.sourcePorts, back: new ConfigPorts(run.unfenced) };
  const note = (giveBack: () => Promise<void>): void => {
    run.giveBack = giveBack;
  };
  // The servers hear of it on their device sockets: the barrier is answered behind that.
  const show = async (device: DeviceRun): Promise<void> => {
    const barrier = device.source.barrier();
    await Promise.all([
      mark(run, device, barrier),
      barrier.then(({ msixTable }) => (device.msixTable = msixTable)),
    ]);
  };
  await borrowBusMaster(ports, devices, note, () => Promise.all(devices.map(show)));
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
