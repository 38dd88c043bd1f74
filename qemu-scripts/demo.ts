/** The demonstration: a guest under load moves from one stock QEMU to another, and everything is checked. */
import { resolve } from 'node:path';
import type { Testbed } from '../src/qemu/index.ts';
import { htmlReport } from '../src/report/html.ts';
import { summary } from '../src/report/summary.ts';
import type { MigrationReport } from '../src/report/types.ts';
import { writeWhole } from '../src/report/write.ts';
import { bootScene, checkGuest, progress, startLoad } from './scene.ts';

export interface DemoOptions {
  /** Where the HTML report goes. */
  readonly report: string;
}

const say = (line: string): void => void process.stdout.write(`${line}\n`);

/**
 * Runs the demonstration and says what it does. Throws when anything that it claims does not hold: a differing
 * page of RAM, a state or configuration that differs, a guest that finds its memory changed.
 */
export async function ramDemo(options: DemoOptions): Promise<void> {
  say('Booting a guest under QEMU, with a vfio-user device that this process serves …');
  const bed = await bootScene();
  try {
    say(`The guest runs Linux ${await bed.agent.check('uname -r')}.`);
    await startLoad(bed, { mib: 64, rate: 32, pages: 500, intervalUs: 200 });
    say('A program in it rewrites and checks 64 MiB; the device writes a ring of 500 pages by itself.\n');
    const report = await bed.migrate({
      verify: { ram: true, state: true, config: true },
      onProgress: progress.update,
    });
    progress.end();
    say(`\n${summary(report)}`);
    proveEqual(report);
    await afterwards(bed);
    const path = resolve(options.report);
    await writeWhole(path, await htmlReport(report));
    say(`Report: ${path}`);
  } finally {
    await bed.close();
  }
}

/** Throws unless everything was compared and nothing differs. */
export function proveEqual(report: MigrationReport): void {
  const { ram, devices } = report;
  if (ram === null) throw new Error('RAM was not compared');
  if (ram.differing > 0) throw new Error(`${ram.differing} of ${ram.pages} pages of RAM differ`);
  for (const device of devices) {
    if (device.stateEqual !== true) throw new Error(`${device.id}: the state was not found equal`);
    if (device.configDifferences.length > 0) throw new Error(`${device.id}: configuration differs`);
    if (device.msixTableEqual === false) throw new Error(`${device.id}: the MSI-X table differs`);
  }
}

async function afterwards(bed: Testbed): Promise<void> {
  const churn = (): Promise<string> => bed.agent.check('pcitool 1b36:11e1 read 0 0x70 4');
  const before = await churn();
  await new Promise((done) => setTimeout(done, 1000));
  if ((await churn()) === before) throw new Error('the device does not write any more at the destination');
  say(`The guest's own check: ${await checkGuest(bed)}. The device goes on writing at the destination.`);
}
