/** Migrates a guest there and back: ping-pong [TIMES, default 10]. */
import { duration } from '../src/report/format.ts';
import { countFrom, fromCommandLine } from './arguments.ts';
import { bootScene, checkGuest, play, startLoad } from './scene.ts';

const times = fromCommandLine('ping-pong [TIMES, default 10]', (args, usage) => countFrom(args, usage, 10));
const bed = await bootScene();
await play(bed, async () => {
  await startLoad(bed, { mib: 32, rate: 8, pages: 200, intervalUs: 500 });
  const blackouts: number[] = [];
  for (let hop = 1; hop <= times; hop += 1) {
    const report = await bed.migrate({ downtimeLimitMs: 2000 });
    blackouts.push(report.blackoutUs ?? 0);
    console.log(`${hop}: blackout ${duration(report.blackoutUs ?? 0)}; ${await checkGuest(bed)}`);
  }
  blackouts.sort((a, b) => a - b);
  const at = (index: number): string => duration(blackouts[index] ?? 0);
  console.log(`${times} migrations: ${at(0)} shortest, ${at(times >> 1)} median, ${at(times - 1)} longest`);
});
