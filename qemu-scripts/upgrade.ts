/**
 * Moves a guest to a newer version of its device while it is in use, and tries the way back, which is refused
 * before anything is touched.
 *
 *   upgrade                     from counter/v1 to counter/v2, the example beside this script
 *   upgrade OLDER NEWER         from one module of yours to another
 *   upgrade --program MAIN_JS   the `ram` device, to another version of vfio-companion (its dist/src/cli/main.js)
 */
import { parseArgs } from 'node:util';
import { MigrationFailed, type Testbed, type TestbedDevice } from '../src/qemu/index.ts';
import { summary } from '../src/report/summary.ts';
import { fromCommandLine } from './arguments.ts';
import { counterModule, readCounter, startCounter } from './counter/guest.ts';
import { bootScene, checkGuest, play, progress, startLoad } from './scene.ts';

const { program, positionals } = fromCommandLine(
  'upgrade [OLDER NEWER | --program MAIN_JS]',
  (args, usage) => {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { program: { type: 'string' } },
    });
    if (positionals.length !== 0 && (positionals.length !== 2 || values.program !== undefined))
      throw new Error(`usage: ${usage}`);
    return { program: values.program, positionals };
  },
);
const example = program === undefined && positionals.length === 0;
const [older = counterModule(1), newer = counterModule(2)] = positionals;
const before = program === undefined ? older : 'ram';
const after: Partial<TestbedDevice> = program === undefined ? { model: newer } : { program };
const migration = { downtimeLimitMs: 2000, onProgress: progress.update };

async function tell(bed: Testbed, when: string): Promise<void> {
  if (!example) return;
  const { count, rounds } = await readCounter(bed);
  console.log(`${when}: the device has counted to ${count}, its register ROUNDS says ${rounds}`);
}

/** The way back to the older version, which a device that does not say that it loads newer states must refuse. */
async function tryBack(bed: Testbed): Promise<void> {
  try {
    await bed.migrate(migration);
    throw new Error('the older version took the state of the newer one');
  } catch (error) {
    if (!(error instanceof MigrationFailed)) throw error;
    console.log(`\nback to the older version: ${error.message}`);
  }
}

const bed = await bootScene({ devices: [{ id: 'dev0', model: before }] });
await play(bed, async () => {
  const pages = program === undefined ? 0 : 200;
  await startLoad(bed, { mib: 32, rate: 8, pages, intervalUs: 500 });
  if (example) await startCounter(bed, 64, 1000);
  await tell(bed, 'older version');
  const destination = await bed.prepare({ dev0: after });
  const report = await bed.migrate({ ...migration, destination, verify: { ram: true, config: true } });
  progress.end();
  console.log(summary(report));
  await tell(bed, 'newer version');
  if (example) await tryBack(bed);
  await tell(bed, 'still the newer version');
  console.log(`the guest's own check: ${await checkGuest(bed)}`);
});
