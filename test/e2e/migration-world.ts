/** What the migration tests share: a guest that checks its own memory, and a device that writes into it. */
import { expect } from 'vitest';
import type { Testbed, TestbedOptions } from '../../src/qemu/index.ts';
import { startTestbed } from './testbeds.ts';

/** Vendor and device of the `ram` model, as the guest's `pcitool` wants them. */
export const ramId = '1b36:11e1';
/** Guest RAM above this is not Linux's (`mem=` on its command line): the churn ring may write there. */
const linuxMemory = '192M';
export const ringAddress = 0xc40_0000;

/** Registers of BAR 0; device-models/ram/registers.ts. */
const churnRegister = { address: 0x60, pages: 0x68, interval: 0x6c, count: 0x70 } as const;

const oneRam: TestbedOptions['devices'] = [{ id: 'dev0', model: 'ram' }];
const open = new Set<Testbed>();

/** A guest with the given devices (default: one `ram`), booted. Ended by `closeAll`. */
export async function boot(options: Partial<TestbedOptions> = {}): Promise<Testbed> {
  const bed = await start({ ...options, vm: { append: `mem=${linuxMemory}`, ...options.vm } });
  await bed.agent.waitReady({ timeoutMs: 120_000 });
  return bed;
}

let shared: Testbed | undefined;

/**
 * The same guest for every test of a file that asks for it, at rest: booting is what takes such tests longest. `endOfTest` and
 * `closeGuest` (after all) end it.
 */
export async function sharedGuest(): Promise<Testbed> {
  if (shared === undefined) {
    shared = await startTestbed({ devices: oneRam, vm: { append: `mem=${linuxMemory}` } });
    await shared.agent.waitReady({ timeoutMs: 120_000 });
    await shared.agent.check(`pcitool ${ramId} enable`);
  } else await shared.current.vm.qmp.execute('cont');
  return shared;
}

/** Leaves the processors to other guests until it is asked for again. */
async function rest(bed: Testbed): Promise<void> {
  await stopWorkload(bed);
  await bed.agent.check(`pcitool ${ramId} enable && pcitool ${ramId} write 0 ${churnRegister.interval} 4 0`);
  await bed.current.vm.qmp.execute('stop');
}

async function running({ current }: Testbed): Promise<boolean> {
  const status = await current.vm.qmp.execute('query-status');
  return (status as { running?: boolean }).running === true;
}

/** For `afterEach`: ends what the test has started, and after a failure the shared guest, which may be in any state. */
export async function endOfTest({ task }: { task: { result?: { state?: string } } }): Promise<void> {
  await closeAll();
  if (task.result?.state === 'fail') return closeGuest();
  try {
    if (shared !== undefined && (await running(shared))) await rest(shared);
  } catch (error) {
    // One that does not come to rest is not for the next test.
    await closeGuest();
    throw error;
  }
}

export async function closeGuest(): Promise<void> {
  const bed = shared;
  shared = undefined;
  await bed?.close();
}

/** As `boot`, without a kernel: the firmware looks for something to boot. Quick. */
export async function bootNothing(options: Partial<TestbedOptions> = {}): Promise<Testbed> {
  return start({ ...options, vm: { boot: 'none', memoryMiB: 128, ...options.vm } });
}

/** As `boot`, and waits for nothing. */
export async function start(options: Partial<TestbedOptions>): Promise<Testbed> {
  const bed = await startTestbed({ devices: oneRam, ...options });
  open.add(bed);
  return bed;
}

export async function closeAll(): Promise<void> {
  const all = [...open];
  open.clear();
  await Promise.all(all.map((bed) => bed.close()));
}

/** Lets `device` write `pages` pages of guest memory round and round, one every `intervalUs`; from `address` on. */
export async function startChurn(
  bed: Testbed,
  pages: number,
  intervalUs = 300,
  device = ramId,
  address = ringAddress,
): Promise<void> {
  const pcitool = `pcitool ${device}`;
  const write = (offset: number, size: number, value: number): string =>
    `${pcitool} write 0 ${offset} ${size} ${value}`;
  await bed.agent.check(
    [
      `${pcitool} enable`,
      write(churnRegister.address, 8, address),
      write(churnRegister.pages, 4, pages),
      write(churnRegister.interval, 4, intervalUs),
    ].join(' && '),
  );
}

export async function churnCount(bed: Testbed, device = ramId): Promise<number> {
  return Number(await bed.agent.check(`pcitool ${device} read 0 ${churnRegister.count} 4`));
}

/** The device goes on writing where it left off. */
export async function expectChurn(
  bed: Testbed,
  atLeast: number,
  timeout = 20_000,
  device = ramId,
): Promise<void> {
  await expect.poll(() => churnCount(bed, device), { timeout }).toBeGreaterThan(atLeast);
}

/** Starts the guest's own memory checker in the background. */
export async function startWorkload(bed: Testbed, mib = 24, rate = 8): Promise<void> {
  await bed.agent.check(
    `rm -f /run/workload; workload --mib ${mib} --rate ${rate} >/run/workload.out 2>&1 & echo $! >/run/workload.pid; ` +
      'until [ -s /run/workload ]; do sleep 0.05; done',
  );
}

async function stopWorkload(bed: Testbed): Promise<void> {
  await bed.agent.check(
    'p=$(cat /run/workload.pid 2>/dev/null) && kill $p 2>/dev/null; while [ -e "/proc/$p/exe" ]; do sleep 0.05; done; rm -f /run/workload.pid',
  );
}

export interface WorkloadState {
  readonly rewrites: number;
  readonly errors: number;
}

export async function workload(bed: Testbed): Promise<WorkloadState> {
  const line = await bed.agent.check('cat /run/workload');
  const numberAfter = (word: string): number =>
    Number(new RegExp(`${word} (\\d+)`).exec(line)?.[1] ?? Number.NaN);
  return { rewrites: numberAfter('rewrites'), errors: numberAfter('errors') };
}

/** The checker has found nothing wrong and goes on. */
export async function expectWorkload(bed: Testbed): Promise<void> {
  const before = await workload(bed);
  expect(before.errors).toBe(0);
  await expect
    .poll(async () => (await workload(bed)).rewrites, { timeout: 20_000 })
    .toBeGreaterThan(before.rewrites);
  expect((await workload(bed)).errors).toBe(0);
}

/** Whether a process still exists. */
export function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** All comparisons. */
export const everything = { ram: true, state: true, config: true } as const;
/** Room for a machine on which other things run: these tests are not about the downtime. */
export const patient = { downtimeLimitMs: 5000 } as const;
