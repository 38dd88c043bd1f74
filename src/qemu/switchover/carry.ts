/**
 * Pages that a device wrote may go to the destination without QEMU: from server to server, through memory that both share. With
 * thousands of them that is several times as fast as marking, after which QEMU still has to send them.
 *
 * QEMU at the destination has older bytes of these pages, and may be writing them yet, until it has loaded all of
 * RAM: they are put into place after that, and before the guest starts.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { CompanionError } from '../../errors.ts';
import { Timeline } from '../../report/timeline.ts';
import { pageWindow, pageWindowSize } from '../../vfio-user/page-window.ts';
import { within } from '../deadline.ts';
import type { SharedPages, SharedPlace } from '../device-peer.ts';
import type { DeviceRun, Run } from './run.ts';
import { shareMemory } from './shared-memory.ts';

/**
 * With fewer pages than this marking is faster: a destination that has to be given pages can't be told to start while it
 * loads, which costs some milliseconds.
 */
const worthCarrying = 1000;
/** Room for more than there were when the window was made. */
const spare = 1.25;
/** Pages of one look: each may be a page fault or two, and the device is served by the same thread. */
const pagesOfALook = 128;
/** So many more dirty pages than were looked at, and they are looked at again. */
const growth = 1.1;
const pollMs = 50;

/** What is known of a device's pages that may be carried. */
export interface Carrying {
  readonly slots: number;
  /** Pages that both servers have touched: so many are carried. 0: not yet. */
  ready: number;
  /** What a page was seen to cost when it had been touched before. */
  microsecondsPerPage: number | undefined;
}

/**
 * Gets a device with many dirty pages ready to have them carried, and keeps it so, until the vCPUs stop. Where memory can't be
 * shared they are marked.
 */
export async function prepareCarrying(run: Run, device: DeviceRun): Promise<void> {
  const { source, destination } = device;
  if (source.pages === undefined || destination.pages === undefined) return;
  if (run.options.markDirtyPages === false || run.options.carryPages === false) return;
  const stopped = (): boolean => run.progressed.stopped || run.signal.aborted;
  while (!stopped()) {
    // More than fit are marked.
    const dirty = Math.min(device.dirtyPages, pageWindow.maxSlots);
    if (dirty >= worthCarrying) {
      if (dirty > (device.carrying?.slots ?? 0)) {
        const slots = Math.min(pageWindow.maxSlots, Math.ceil(dirty * spare));
        device.carrying = undefined;
        if (!(await openPages(slots, source.pages, destination.pages))) return;
        device.carrying = { slots, ready: 0, microsecondsPerPage: undefined };
      }
      const { carrying } = device;
      const again = carrying?.microsecondsPerPage === undefined || dirty > carrying.ready * growth;
      if (carrying !== undefined && again) await lookOver(carrying, source.pages, destination.pages, stopped);
    }
    await delay(pollMs);
  }
}

function openPages(slots: number, source: SharedPages, destination: SharedPages): Promise<boolean> {
  const openers = [source, destination].map(
    (pages) => (place: SharedPlace) => pages.open({ ...place, slots }),
  );
  return shareMemory('page-window', pageWindowSize(slots), openers);
}

/** Has both servers touch the pages that are dirty now. */
async function lookOver(
  carrying: Carrying,
  source: SharedPages,
  destination: SharedPages,
  stopped: () => boolean,
): Promise<void> {
  const known = carrying.ready;
  let slot = 0;
  let from = 0;
  let microseconds = 0;
  while (!stopped()) {
    const limit = Math.min(pagesOfALook, carrying.slots - slot);
    const look =
      limit === 0 ? { pages: 0, next: from, microseconds: 0 } : await source.look(from, slot, limit);
    if (look.next === from) {
      carrying.ready = Math.max(known, slot);
      if (known > 0 && slot > 0) carrying.microsecondsPerPage = microseconds / slot;
      return;
    }
    if (look.pages > 0) await destination.touch(slot, look.pages);
    slot += look.pages;
    from = look.next;
    microseconds += look.microseconds;
  }
}

/** How many pages of a device are kept from being marked. */
export function pagesToCarry({ carrying, dirtyPages }: DeviceRun): number {
  return dirtyPages >= worthCarrying ? (carrying?.ready ?? 0) : 0;
}

/** Has the source's server copy the pages that it has kept, beside QEMU's last pass of RAM. */
export function carry(run: Run, device: DeviceRun): void {
  const kept = device.mark?.kept ?? 0;
  const pages = device.source.pages;
  if (kept === 0 || pages === undefined) return;
  const start = Timeline.now();
  device.carried = pages.carry().then((carried) => {
    if (carried !== kept) throw lostPages(device, carried, kept);
    run.timeline.add('carry', start, Timeline.now(), { device: device.id, note: `${kept} pages` });
    return kept;
  });
  device.carried.catch((error) => run.fail(error));
}

/** Puts the pages that were carried where they belong, when the destination QEMU has loaded RAM. */
export async function placePages(run: Run): Promise<void> {
  await run.each(async (device) => {
    const kept = await within(run.timeouts.final, 'the pages that are carried', device.carried);
    const { pages } = device.destination;
    if (kept === 0 || pages === undefined) return;
    const start = Timeline.now();
    await pages.place(kept);
    device.carriedPages = kept;
    run.timeline.add('place', start, Timeline.now(), { device: device.id, note: `${kept} pages` });
  });
}

function lostPages(device: DeviceRun, carried: number, kept: number): CompanionError {
  return new CompanionError(
    'VC_MARKING',
    `${carried} of ${kept} pages that device ${device.id} wrote were carried by its server`,
  );
}
