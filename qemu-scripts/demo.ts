/** The demonstration: a guest under load moves from one stock QEMU to another, and everything is checked. */
import { resolve } from 'node:path';
import { execa } from 'execa';
import { canUseTaps } from '../src/net/testnet.ts';
import { htmlReport } from '../src/report/html.ts';
import { summary } from '../src/report/summary.ts';
import { checkPlace, writeWhole } from '../src/report/write.ts';
import { locateQemu } from '../src/setup/index.ts';
import { networkScene } from './demo-network.ts';
import { ramScene } from './demo-ram.ts';
import { type DemoScene, type LimitedScene, say } from './demo-scene.ts';
import { interruptible, playScene } from './interruption.ts';

export interface DemoOptions {
  /** Where the HTML report goes. */
  readonly report: string;
  readonly device: keyof typeof scenes;
  /** Milliseconds. */
  readonly downtimeLimit: number;
}

export const scenes = { mlx5: networkScene, ram: ramScene } as const satisfies Record<string, LimitedScene>;

/** Tells a run inside a namespace that it is one. */
const inside = 'VFIO_COMPANION_DEMO_INSIDE';

/**
 * Runs the demonstration and says what it does. Throws when anything that it claims does not hold: a differing
 * page of RAM, a state or configuration that differs, a connection that lost or changed anything.
 */
export async function demo(options: DemoOptions): Promise<void> {
  const path = resolve(options.report);
  await checkPlace(path);
  if (options.device === 'mlx5' && (await runInNamespace())) return;
  const { version } = await locateQemu();
  say(`QEMU ${version}, Node ${process.version}; nothing is patched, and nothing is installed in the guest.`);
  const scene: DemoScene = (finish) => scenes[options.device](finish, options.downtimeLimit);
  const { report, proven } = await interruptible((interrupted) => playScene(scene, interrupted));
  say(`\n${summary(report)}\n\nProven:`);
  for (const line of proven) say(`  ${line}`);
  await writeWhole(path, await htmlReport(report, proven));
  say(`Report: ${path}`);
}

/** Where only a user namespace of our own can make taps: does it all again in one. False: go on here. */
async function runInNamespace(): Promise<boolean> {
  const able = canUseTaps();
  if (able.ok || able.wrapper === undefined || process.env[inside] !== undefined) return false;
  const [command = '', ...before] = able.wrapper;
  const args = [...before, process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const result = await interruptible((interrupted) => {
    const run = execa(command, args, {
      stdio: 'inherit',
      reject: false,
      env: { [inside]: '1' },
      // It takes the time that ending takes.
      forceKillAfterDelay: false,
    });
    interrupted.addEventListener('abort', () => run.kill('SIGTERM'));
    return run;
  });
  process.exitCode = result.exitCode ?? 1;
  return true;
}
