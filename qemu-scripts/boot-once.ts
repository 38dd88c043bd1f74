/** Boots a guest once and saves it; then starts it from there, as each test of a suite would, and shows that each start is the same guest. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Testbed, type TestbedOptions } from '../src/qemu/index.ts';
import { temporaryFolder } from '../src/temporary-folder.ts';
import { countFrom, fromCommandLine } from './arguments.ts';
import { bootScene, checkGuest, play, sceneOptions, startLoad } from './scene.ts';

const times = fromCommandLine('boot-once [TIMES]', (args, usage) => countFrom(args, usage, 3));
const folder = temporaryFolder();
const saved = join(folder, 'vm');

/** Does `work` and says what it took. */
async function timed<T>(what: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  const result = await work();
  console.log(`${what}: ${((performance.now() - started) / 1000).toFixed(2)} s`);
  return result;
}

/** One start from what was saved. The guest's checker runs on, and what the run before this has left is not there. */
async function startOnce(options: TestbedOptions): Promise<void> {
  const bed = await timed('started from there', () => Testbed.start(options));
  await play(bed, async () => {
    const { status } = await bed.agent.run('test -e /run/been-here && exit 9; touch /run/been-here');
    if (status !== 0) throw new Error('this guest has been started before');
    console.log(`the guest's own check: ${await checkGuest(bed)}`);
  });
}

try {
  const bed = await timed('booted', bootScene);
  await play(bed, async () => {
    await startLoad(bed, { mib: 32, rate: 8, pages: 200, intervalUs: 500 });
    await timed('saved', () => bed.save(saved));
  });
  if (process.exitCode === undefined)
    for (let count = 0; count < times; count += 1) await startOnce({ ...sceneOptions, saved });
} finally {
  rmSync(folder, { recursive: true, force: true });
}
