/** Migrates a guest once and proves that nothing was lost. */
import { summary } from '../src/report/summary.ts';
import { fromCommandLine, nothingFrom } from './arguments.ts';
import { bootScene, checkGuest, play, progress, startLoad } from './scene.ts';

fromCommandLine('migrate-once', nothingFrom);
const bed = await bootScene();
await play(bed, async () => {
  await startLoad(bed, { mib: 32, rate: 8, pages: 200, intervalUs: 500 });
  const report = await bed.migrate({
    verify: { ram: true, state: true, config: true },
    downtimeLimitMs: 2000,
    onProgress: progress.update,
  });
  progress.end();
  console.log(summary(report));
  console.log(`the guest's own check: ${await checkGuest(bed)}`);
});
