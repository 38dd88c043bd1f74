/** Flow tables are the largest records of a saved state. */
import { describe, expect, it } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import { objectCodecs } from '../../../device-models/mlx5/migration/objects.ts';
import { objectRecord } from '../../../device-models/mlx5/migration/precopy.ts';
import { matchWords } from '../../../device-models/mlx5/steering/match.ts';
import {
  destinationType,
  FlowTable,
  flowAction,
  flowEntry,
  missAction,
} from '../../../device-models/mlx5/steering/tables.ts';
import { limits as streamLimits } from '../../../src/migration/stream/format.ts';
import { packValue } from '../../../src/migration/stream/values.ts';

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

function packed(of: FlowTable): number {
  const record = objectRecord(codec, of);
  return 'value' in record ? packValue(record.value, record.section).length : expect.fail('no value');
}

describe('the record of a flow table', () => {
  it('can be saved with all that a guest may put into one', () => {
    expect(packed(table(limits.flowEntries, limits.flowGroups))).toBeLessThan(streamLimits.payload);
  });
});
