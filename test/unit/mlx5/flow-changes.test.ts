/** Flow tables that change while they are sent: what is gone at the source must not be there at the destination. */
import { describe, expect, it } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { matchWords } from '../../../device-models/mlx5/steering/match.ts';
import { missAction } from '../../../device-models/mlx5/steering/tables.ts';
import { StateRefused } from '../../../src/device/index.ts';
import type { FakeDriver } from './driver.ts';
import { bench, running } from './setup.ts';

function destroyGroup(driver: FakeDriver, id: number): void {
  const input = Buffer.alloc(64);
  prm.destroyFlowGroupIn.set(input, 'table_id', driver.tables.l2 ?? 0);
  prm.destroyFlowGroupIn.set(input, 'group_id', id);
  driver.command('DESTROY_FLOW_GROUP', input);
}

function setMiss(driver: FakeDriver): void {
  const input = Buffer.alloc(64);
  prm.modifyFlowTableIn.set(input, 'table_id', driver.tables.l2 ?? 0);
  prm.modifyFlowTableIn.set(input, 'modify_field_select', 1);
  const at = prm.modifyFlowTableIn.byte('flow_table_context');
  prm.flowTableContext.set(input, 'table_miss_action', missAction.FWD, at);
  prm.flowTableContext.set(input, 'table_miss_id', driver.tables.ttc ?? 0, at);
  driver.command('MODIFY_FLOW_TABLE', input);
}

const changes: readonly [string, (driver: FakeDriver) => void][] = [
  ['an entry', (driver) => driver.addMac(5, Buffer.from('020000000005', 'hex'))],
  ['an entry less', (driver) => driver.deleteEntry('l2', 1)],
  ['a group', (driver) => driver.createGroup('l2', 250, 250, () => {})],
  ['a group less', (driver) => destroyGroup(driver, driver.groups.l2?.at(-1) ?? 0)],
  ['another way for what it does not match', setMiss],
];

describe('a flow table that has been sent is sent again when it has', () => {
  it.each(changes)('%s', (_what, change) => {
    const { device, driver } = running();
    driver.createGroup('l2', 251, 251, () => {});
    const session = device.migration.preCopy();
    while (session.next() !== undefined);
    change(driver);
    const sections: string[] = [];
    for (let record = session.next(); record !== undefined; record = session.next())
      sections.push(record.section);
    expect(sections).toEqual(['flow_table']);
  });
});

it('refuses a state with more flow groups in all its tables than a device may have', () => {
  const source = running();
  const records = [...source.device.migration.save()];
  const { migration } = bench(source.device.core.vectors).device;
  migration.beginLoad(stateVersions.current);
  for (const record of records) migration.load(record);
  const mask = new Uint8Array(4 * matchWords);
  const groups = Array.from({ length: limits.flowGroups }, (_, id) => ({ id, start: id, end: id, mask }));
  const table = { id: 200, level: 1, logSize: 20, missAction: 0, missTable: 0, nextGroup: 0, entries: [] };
  migration.load({ section: 'flow_table', value: { ...table, groups } });
  expect(() => migration.endLoad()).toThrow(StateRefused);
});
