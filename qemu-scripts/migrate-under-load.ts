/** Migrates a guest whose device writes thousands of pages: migrate-under-load [PAGES, default 10000, at most 15000]. */
import { summary } from '../src/report/summary.ts';
import { countFrom, fromCommandLine } from './arguments.ts';
import { bootScene, checkGuest, mostRingPages, play, progress, startLoad } from './scene.ts';

const pages = fromCommandLine(
  `migrate-under-load [PAGES, default 10000, at most ${mostRingPages}]`,
  (args, usage) => countFrom(args, usage, 10_000, mostRingPages),
);
const bed = await bootScene();
await play(bed, async () => {
  await startLoad(bed, { mib: 64, rate: 32, pages, intervalUs: 20 });
  const report = await bed.migrate({
    verify: { ram: true },
    downtimeLimitMs: 2000,
    onProgress: progress.update,
  });
  progress.end();
  console.log(summary(report));
  console.log(`the guest's own check: ${await checkGuest(bed)}`);
});
