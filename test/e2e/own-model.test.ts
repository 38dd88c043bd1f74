/** What `migrate` makes of models from outside of this tree that do not travel as they should. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { counterModule } from '../../qemu-scripts/counter/guest.ts';
import { MigrationFailed, type Testbed, type TestbedMigration } from '../../src/qemu/index.ts';
import { rejectionOf } from '../thrown.ts';
import { bootNothing, closeAll, patient } from './migration-world.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-models-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(closeAll);

/** A module with the newer counter, changed. */
function variant(name: string, changes: string): string {
  const path = join(folder, `${name}.mjs`);
  const original = JSON.stringify(pathToFileURL(counterModule(2)).href);
  writeFileSync(path, `import counter from ${original};\nexport default { ...counter, ${changes} };\n`);
  return path;
}

/** The migration fails, and the guest runs on at the source. */
async function refused(bed: Testbed, options: TestbedMigration): Promise<MigrationFailed> {
  const error = await rejectionOf(MigrationFailed, bed.migrate({ ...patient, ...options }));
  expect(error.outcome).toBe('source');
  expect(await bed.current.vm.qmp.execute('query-status')).toMatchObject({ status: 'running' });
  return error;
}

it('an older state that the newer version does not load is refused before anything is touched', async () => {
  const bed = await bootNothing({ devices: [{ id: 'dev0', model: counterModule(1) }] });
  const destination = await bed.prepare({ dev0: { model: variant('forgetful', 'loadsVersions: []') } });
  const error = await refused(bed, { destination });
  expect(error).toMatchObject({ code: 'VC_STATE_REFUSED' });
  expect(error.message).toContain('it has version 1, this device loads 2');
  expect(error.report.phases.map(({ phase }) => phase)).toEqual(['connect', 'check', 'rollback']);
  // Negative control: the version that does load it.
  const upgraded = await bed.prepare({ dev0: { model: counterModule(2) } });
  expect((await bed.migrate({ destination: upgraded, ...patient })).outcome).toBe('migrated');
});

it('a device that does not become what was sent is seen by the comparison of states', async () => {
  const differing = `create(host, options) {
    const device = counter.create(host, options);
    const save = () => [...device.migration.save(), { section: 'process', value: process.pid }];
    const load = (record) => record.section === 'process' || device.migration.load(record);
    return { ...device, migration: { ...device.migration, save, load } };
  }`;
  const bed = await bootNothing({ devices: [{ id: 'dev0', model: variant('differing', differing) }] });
  const error = await refused(bed, { verify: { state: true } });
  expect(error).toMatchObject({ code: 'VC_STATE_DIFFERS', report: { devices: [{ stateEqual: false }] } });
  expect(error.message).toMatch(/differs from byte \d+ on: \d+ bytes at the source, \d+ at the destination/);
  // Negative control: nobody compares, nobody sees.
  expect((await bed.migrate(patient)).outcome).toBe('migrated');
});
