/** What the scenes of the demonstration share. */
import type { Testbed } from '../src/qemu/index.ts';
import type { MigrationReport } from '../src/report/types.ts';
import { progress } from './scene.ts';

/** What a migration came to, and what was found to hold; a scene throws when anything does not. */
export interface DemoResult {
  readonly report: MigrationReport;
  readonly proven: string[];
}

/** Sets a stage, migrates, checks. `finish` takes what must be ended afterwards, however it goes. */
export type DemoScene = (finish: (end: () => Promise<void>) => void) => Promise<DemoResult>;

/** The same, which is to be told how long a blackout to aim at, ms. */
export type LimitedScene = (
  finish: Parameters<DemoScene>[0],
  downtimeLimitMs: number,
) => ReturnType<DemoScene>;

export const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** Migrates with every comparison and live progress. @throws Error unless everything was compared and is equal */
export async function migrateAndProve(
  bed: Pick<Testbed, 'migrate'>,
  downtimeLimitMs: number,
): Promise<DemoResult> {
  const report = await bed.migrate({
    downtimeLimitMs,
    verify: { ram: true, state: true, config: true },
    onProgress: progress.update,
  });
  progress.end();
  return { report, proven: proveEqual(report) };
}

/** @throws Error unless everything was compared and nothing differs */
export function proveEqual(report: Pick<MigrationReport, 'ram' | 'devices'>): string[] {
  const { ram, devices } = report;
  if (ram === null) throw new Error('RAM was not compared');
  if (ram.differing > 0) throw new Error(`${ram.differing} of ${ram.pages} pages of RAM differ`);
  const proven = [`RAM: ${ram.differing} of ${ram.pages} pages differ`];
  for (const device of devices) {
    if (device.stateEqual !== true) throw new Error(`${device.id}: the state was not found equal`);
    if (device.configCompared !== true) throw new Error(`${device.id}: the configuration was not compared`);
    if (device.configDifferences.length > 0) throw new Error(`${device.id}: configuration differs`);
    if (device.msixTableEqual === false) throw new Error(`${device.id}: the MSI-X table differs`);
    const equal =
      device.msixTableEqual === null
        ? 'state and PCI configuration'
        : 'state, PCI configuration and MSI-X table';
    proven.push(`${device.id}: ${equal} are equal on both sides`);
  }
  return proven;
}
