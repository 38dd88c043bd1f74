/** Cancels a migration after the destination is fully loaded, sees the guest go on, and migrates it after all. */
import { MigrationFailed } from '../src/qemu/index.ts';
import { fromCommandLine, nothingFrom } from './arguments.ts';
import { bootScene, checkGuest, play, startLoad } from './scene.ts';

fromCommandLine('cancel-midway', nothingFrom);
const bed = await bootScene();
await play(bed, async () => {
  await startLoad(bed, { mib: 32, rate: 8, pages: 200, intervalUs: 500 });
  const cancel = new AbortController();
  try {
    await bed.migrate({
      signal: cancel.signal,
      downtimeLimitMs: 2000,
      onPhase: (phase) => {
        if (phase === 'resume') cancel.abort();
      },
    });
    throw new Error('the migration was not cancelled');
  } catch (error) {
    if (!(error instanceof MigrationFailed)) throw error;
    console.log(error.message);
  }
  console.log(`at the source: ${await checkGuest(bed)}`);
  await bed.migrate({ verify: { ram: true, state: true, config: true }, downtimeLimitMs: 2000 });
  console.log(`at the destination: ${await checkGuest(bed)}`);
});
