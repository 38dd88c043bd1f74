/**
 * Moves a guest to a newer vfio-companion: upgrade MAIN_JS, the newer version's dist/src/cli/main.js (default:
 * this version). A guest can be moved to a version that loads the older state, and is refused by any other
 * before it stops.
 */
import { summary } from '../src/report/summary.ts';
import { bootScene, checkGuest, play, progress, startLoad } from './scene.ts';

const program = process.argv[2];
const bed = await bootScene();
await play(bed, async () => {
  await startLoad(bed, { mib: 32, rate: 8, pages: 200, intervalUs: 500 });
  const destination = await bed.prepare(program === undefined ? {} : { dev0: { program } });
  const report = await bed.migrate({
    destination,
    verify: { ram: true },
    downtimeLimitMs: 2000,
    onProgress: progress.update,
  });
  progress.end();
  console.log(summary(report));
  console.log(`the guest's own check: ${await checkGuest(bed)}`);
});
