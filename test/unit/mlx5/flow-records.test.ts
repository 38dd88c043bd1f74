/** Flow tables are the largest records of a saved state. */
import { describe, expect, it } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import type { Mlx5Migration } from '../../../device-models/mlx5/migration/index.ts';
import { objectCodecs } from '../../../device-models/mlx5/migration/objects.ts';
import { goneSection, objectRecord } from '../../../device-models/mlx5/migration/precopy.ts';
import { matchWords } from '../../../device-models/mlx5/steering/match.ts';
import {
  destinationType,
  FlowTable,
  flowAction,
  flowEntry,
  missAction,
} from '../../../device-models/mlx5/steering/tables.ts';
import { StateRefused } from '../../../src/device/index.ts';
import { limits as streamLimits } from '../../../src/migration/stream/format.ts';
import { packValue } from '../../../src/migration/stream/values.ts';
import { bench, running } from './setup.ts';

const codec = objectCodecs.find(({ kind }) => kind === 'flow_table') ?? expect.fail('no codec');
const largestId = 2 ** 24 - 1;

/** A table with `count` entries at its highest indices, with everything in them as long as it gets. */
function table(count: number, groups = 1, destinations: number = limits.flowDestinations): FlowTable {
  const last = 2 ** limits.logFlowTableSize - 1;
  const made = new FlowTable(1, 1, limits.logFlowTableSize, { action: missAction.DEFAULT, table: 0 });
  for (let start = 0; start < groups - 1; start++) made.addGroup(start, start, new Uint32Array(matchWords));
  const group = made.addGroup(groups, last, new Uint32Array(matchWords));
  for (let index = last - count + 1; index <= last; index++) {
    made.setEntry(
      flowEntry(group, {
        index,
        groupId: group.id,
        flowTag: largestId,
        action: flowAction.FWD_DEST,
        destinations: Array.from({ length: destinations }, () => ({
          type: destinationType.TIR,
          id: largestId,
        })),
        value: new Uint32Array(matchWords),
      }),
    );
  }
  return made;
}

interface Value {
  readonly entries: readonly Record<string, unknown>[];
}

function saved(of: FlowTable): { section: string; value: Value } {
  const record = objectRecord(codec, of);
  return 'value' in record ? (record as { section: string; value: Value }) : expect.fail('no value');
}

/** A device that is ready to load a state. */
function loading(): Mlx5Migration {
  const { device } = bench();
  device.migration.beginLoad(stateVersions.current);
  return device.migration;
}

function packed(of: FlowTable): number {
  const { section, value } = saved(of);
  return packValue(value, section).length;
}

describe('the record of a flow table', () => {
  it('can be saved with all that a guest may put into one', () => {
    expect(packed(table(limits.flowEntries, limits.flowGroups))).toBeLessThan(streamLimits.payload);
  });

  it('is refused as soon as there are too many entries, not when all have been built', () => {
    const migration = loading();
    const { section, value } = saved(table(limits.flowEntries, 1, 1));
    const load = (id: number) => migration.load({ section, value: { ...value, id } });
    // Tables are sent at different moments: entries that moved from one to another are in both for a while.
    for (let id = 1; id <= 4; id++) load(id);
    expect(() => load(5)).toThrow(StateRefused);
  });

  it('does not count twice what comes again, nor what is gone', () => {
    const migration = loading();
    const { section, value } = saved(table(limits.flowEntries, 1, 1));
    for (const id of [2, 3, 4]) {
      migration.load({ section, value });
      migration.load({ section, value: { ...value, id } });
      migration.load({ section: goneSection, value: { kind: codec.kind, id } });
    }
  });

  it('is refused with entries out of order, or one twice', () => {
    const { section, value } = saved(table(3));
    const [a, b, c] = value.entries;
    const load = (...entries: unknown[]) => loading().load({ section, value: { ...value, entries } });
    for (const entries of [
      [b, a, c],
      [a, c, b],
      [a, a],
      [c, b, a],
    ]) {
      expect(() => load(...entries)).toThrow(StateRefused);
    }
    load(a, b, c);
    load(a, c);
  });

  it('is as long as the estimates say, about, also when there are many VLANs', () => {
    const { device, driver } = running();
    for (let vid = 0; vid < 1000; vid++) driver.addVlan(vid);
    const length = ({ section, value }: { section: string; value?: unknown }) =>
      packValue(value, section).length;
    const near = (told: number, real: number) => {
      expect(told).toBeGreaterThan(0.8 * real);
      expect(told).toBeLessThan(1.5 * real);
    };
    const whole = [...device.migration.save()].reduce((sum, record) => sum + length(record), 0);
    near(device.migration.estimate(), whole);
    const session = device.migration.preCopy();
    const told = session.initialBytes();
    let sent = 0;
    for (let record = session.next(); record !== undefined; record = session.next()) sent += length(record);
    near(told, sent);
    expect([session.initialBytes(), session.dirtyBytes()]).toEqual([0, 0]);
    driver.addVlan(2000);
    const dirty = session.dirtyBytes();
    const changed = session.next() ?? expect.fail('no change');
    near(dirty, length(changed));
    expect(session.dirtyBytes()).toBe(0);
    session.end();
  });
});
