/** The demonstration without a network: a device that writes guest memory by itself. */
import type { Testbed } from '../src/qemu/index.ts';
import { type LimitedScene, migrateAndProve, say } from './demo-scene.ts';
import { bootTimeoutMs, checkGuest, startLoad, startScene } from './scene.ts';

export const ramScene: LimitedScene = async (finish, downtimeLimitMs) => {
  say('Booting a guest under QEMU, with a vfio-user device that this process serves …');
  const bed = await startScene();
  finish(() => bed.close());
  await bed.agent.waitReady({ timeoutMs: bootTimeoutMs });
  say(`The guest runs Linux ${await bed.agent.check('uname -r')}.`);
  await startLoad(bed, { mib: 64, rate: 32, pages: 500, intervalUs: 200 });
  say('A program in it rewrites and checks 64 MiB; the device writes a ring of 500 pages by itself.\n');
  const { report, proven } = await migrateAndProve(bed, downtimeLimitMs);
  proven.push(`the guest's own check of its memory: ${await checkGuest(bed)}`);
  await expectWriting(bed);
  proven.push('the device goes on writing at the destination');
  return { report, proven };
};

async function expectWriting(bed: Testbed): Promise<void> {
  const churn = (): Promise<string> => bed.agent.check('pcitool 1b36:11e1 read 0 0x70 4');
  const before = await churn();
  await new Promise((done) => setTimeout(done, 1000));
  if ((await churn()) === before) throw new Error('the device does not write any more at the destination');
}
