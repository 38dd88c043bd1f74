/** What these scripts have in common: a guest that checks its own memory, with a device that writes into it. */
import { Testbed, type TestbedOptions } from '../src/qemu/index.ts';
import { createProgressView } from '../src/report/progress.ts';

/** Guest RAM above this is not Linux's, so that the `ram` device's ring may write there. */
const linuxMemory = '192M';
const ringAddress = 0xc40_0000;
/** A ring of more pages would reach beyond the guest's 256 MiB, or what its firmware keeps at their end. */
export const mostRingPages = 15_000;
const device = 'pcitool 1b36:11e1';

/** How long a guest may take to boot, under software emulation on a busy machine. */
export const bootTimeoutMs = 120_000;

/** What a scene is made of, unless a script says otherwise. */
export const sceneOptions: TestbedOptions = {
  devices: [{ id: 'dev0', model: 'ram' }],
  vm: { append: `mem=${linuxMemory}` },
};

/** Starts to boot a guest. */
export async function startScene(options: Partial<TestbedOptions> = {}): Promise<Testbed> {
  const bed = await Testbed.start({ ...sceneOptions, ...options });
  console.log(`guest boots in ${bed.folder}`);
  return bed;
}

/** Boots a guest and waits until it is ready. */
export async function bootScene(options: Partial<TestbedOptions> = {}): Promise<Testbed> {
  const bed = await startScene(options);
  try {
    await bed.agent.waitReady({ timeoutMs: bootTimeoutMs });
    return bed;
  } catch (error) {
    await bed.close();
    throw error;
  }
}

/** Starts the checker in the guest and the device's writing of `pages` pages, one every `intervalUs`. */
export async function startLoad(
  bed: Testbed,
  load: { mib: number; rate: number; pages: number; intervalUs: number },
): Promise<void> {
  await bed.agent.check(`workload --mib ${load.mib} --rate ${load.rate} >/run/workload.out 2>&1 &`);
  if (load.pages === 0) return;
  const write = (offset: number, size: number, value: number): string =>
    `${device} write 0 ${offset} ${size} ${value}`;
  await bed.agent.check(
    [
      `${device} enable`,
      write(0x60, 8, ringAddress),
      write(0x68, 4, load.pages),
      write(0x6c, 4, load.intervalUs),
    ].join(' && '),
  );
}

/** What the guest's checker has found so far; fails if anything. */
export async function checkGuest(bed: Testbed): Promise<string> {
  const line = await bed.agent.check('cat /run/workload');
  if (!/errors 0\b/.test(line)) throw new Error(`the guest found its memory changed: ${line}`);
  return line.trim();
}

/** Runs `script` and ends the testbed however it goes; failures give exit status 1. */
export async function play(bed: Testbed, script: () => Promise<void>): Promise<void> {
  try {
    await script();
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  } finally {
    await bed.close();
  }
}

/** Live progress on standard error. */
export const progress = createProgressView(process.stderr);
