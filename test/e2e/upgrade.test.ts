/** A device that is upgraded in use: two versions of one model, each a module from outside `device-models/`. */
import { afterEach, expect, it } from 'vitest';
import {
  counterModule,
  readCounter,
  setPages,
  setPeriod,
  startCounter,
  wordInTheMiddle,
} from '../../qemu-scripts/counter/guest.ts';
import { MigrationFailed, type Testbed } from '../../src/qemu/index.ts';
import { rejectionOf } from '../thrown.ts';
import {
  alive,
  boot,
  closeAll,
  everything,
  expectWorkload,
  patient,
  startWorkload,
} from './migration-world.ts';

afterEach(closeAll);

const pages = 64;
const intervalUs = 2000;

/** The device counts on from `from`, writes the guest's memory, and interrupts. */
async function expectCounting(bed: Testbed, from: number): Promise<void> {
  await expect
    .poll(async () => (await readCounter(bed)).count, { timeout: 20_000 })
    .toBeGreaterThan(from + pages);
  for (const word of ['count', 'interrupt'] as const)
    await expect.poll(() => wordInTheMiddle(bed, pages), { timeout: 20_000, interval: 20 }).toBe(word);
}

it('goes from the older version to the newer one, on, and not back', async () => {
  const bed = await boot({ devices: [{ id: 'dev0', model: counterModule(1) }] });
  await startCounter(bed, pages, intervalUs);
  await startWorkload(bed);
  await expectCounting(bed, 2 * pages);

  const old = await readCounter(bed);
  expect(old.rounds).toBe(0);
  const destination = await bed.prepare({ dev0: { model: counterModule(2) } });
  const upgrade = await bed.migrate({ destination, verify: everything, ...patient });
  expect(upgrade.ram).toMatchObject({ differing: 0, pages: 65_536 });
  // Version 2 writes another state than version 1, so that comparing the two says nothing.
  expect(upgrade.devices[0]).toMatchObject({ msixTableEqual: true, configDifferences: [], stateEqual: null });
  expect(upgrade.warnings).toContainEqual(expect.stringContaining('state versions 1 and 2'));
  const { count, rounds, countAfter } = await readCounter(bed);
  expect(count).toBeGreaterThan(old.count);
  expect(rounds).toBeGreaterThanOrEqual(Math.floor(count / pages));
  expect(rounds).toBeLessThanOrEqual(Math.floor(countAfter / pages));
  await expectCounting(bed, count);

  // The ring becomes so large that its size does not tell any more how often it was gone round: that is state now.
  await setPages(bed, 1 << 12);
  // At rest, so that it does not go round once more meanwhile.
  await setPeriod(bed, 0);
  const before = await readCounter(bed);
  const next = await bed.prepare({ dev0: { model: counterModule(2) } });
  const report = await bed.migrate({ destination: next, verify: everything, ...patient });
  expect(report.ram?.differing).toBe(0);
  expect(report.devices[0]?.stateEqual).toBe(true);
  expect(before.rounds).toBeGreaterThan(0);
  expect((await readCounter(bed)).rounds).toBe(before.rounds);
  await setPages(bed, pages);
  await setPeriod(bed, intervalUs);
  await expectCounting(bed, before.count);

  const source = bed.current;
  const back = await bed.prepare({ dev0: { model: counterModule(1) } });
  const error = await rejectionOf(MigrationFailed, bed.migrate({ destination: back, ...patient }));
  expect(error).toMatchObject({
    code: 'VC_STATE_REFUSED',
    outcome: 'source',
    report: {
      phases: [{ phase: 'connect' }, { phase: 'check' }, { phase: 'rollback' }],
      samples: [],
      rounds: 0,
    },
  });
  expect(String(error)).toContain('device dev0 has state version 2; its destination knows 1');
  expect(alive(back.vm.pid)).toBe(false);
  expect(bed.current).toBe(source);
  expect(await source.vm.qmp.execute('query-status')).toMatchObject({ status: 'running' });
  await expectCounting(bed, (await readCounter(bed)).count);
  await expectWorkload(bed);
});
