/** Flow tables find entries by hash; which one decides is what a look at each in turn would say. */
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { Matcher, matchWords } from '../../../device-models/mlx5/steering/match.ts';
import { FlowTable, flowAction, flowEntry, missAction } from '../../../device-models/mlx5/steering/tables.ts';

const miss = { action: missAction.DEFAULT, table: 0 };
const logSize = 5;
const size = 2 ** logSize;

/** A word at each end and in the middle, of few values: so that much matches. */
function words([first, middle, last]: readonly [number, number, number]): Uint32Array {
  const made = new Uint32Array(matchWords);
  made[0] = first;
  made[7] = middle;
  made[matchWords - 1] = last;
  return made;
}

const few = fc.constantFrom(0, 1, 3, 0x80000000, 0xffffffff);
const someWords = fc.tuple(few, few, few).map(words);
const setEntry = fc.record({ do: fc.constant('set' as const), index: fc.nat(size - 1), value: someWords });
const deleteEntry = fc.record({ do: fc.constant('delete' as const), index: fc.nat(size - 1) });
const renewGroup = fc.record({ do: fc.constant('renew' as const), group: fc.nat(3), mask: someWords });
const change = fc.oneof(
  { weight: 6, arbitrary: setEntry },
  { weight: 2, arbitrary: deleteEntry },
  { weight: 1, arbitrary: renewGroup },
);
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;

/** A table of groups of eight, not made in the order of their indices. */
function tableOf(masks: readonly Uint32Array[]): FlowTable {
  const table = new FlowTable(1, 0, logSize, miss);
  [2, 0, 3, 1].forEach((at) => {
    table.addGroup(8 * at, 8 * at + 7, masks[at] ?? new Uint32Array(matchWords));
  });
  return table;
}

function act(table: FlowTable, what: Change): void {
  const groups = [...table.groups.values()];
  if (what.do === 'set') {
    const group = groups.find(({ start, end }) => start <= what.index && what.index <= end);
    if (group === undefined) return;
    const { index, value } = what;
    const rest = { groupId: group.id, flowTag: 0, action: flowAction.ALLOW, destinations: [] };
    table.setEntry(flowEntry(group, { ...rest, index, value }));
  } else if (what.do === 'delete') {
    if (table.entryAt(what.index) !== undefined) table.deleteEntry(what.index);
  } else {
    const group = groups.find(({ start }) => start === 8 * what.group) ?? expect.fail('no group');
    for (let index = group.start; index <= group.end; index++) act(table, { do: 'delete', index });
    table.deleteGroup(group.id);
    // Ids go round: the next group may have any of those before.
    table.nextGroup = group.id;
    table.addGroup(group.start, group.end, what.mask);
  }
}

/** Index of the first entry that matches, by a look at each. */
function linear(table: FlowTable, packet: Uint32Array): number | undefined {
  return table.entries.find(({ groupId, value }) => {
    const { mask } = table.group(groupId);
    return mask.every((bits, at) => (((packet[at] ?? 0) ^ (value[at] ?? 0)) & bits) === 0);
  })?.index;
}

describe('the lookup of a flow table', () => {
  it('finds what a look at each entry in turn finds, however the table came to be', () => {
    let found = 0;
    const lives = fc.tuple(
      fc.array(someWords, { minLength: 4, maxLength: 4 }),
      fc.array(change, { maxLength: 60, size: 'max' }),
      fc.array(someWords, { minLength: 10, maxLength: 10 }),
    );
    fc.assert(
      fc.property(lives, ([masks, changes, packets]) => {
        const table = tableOf(masks);
        for (const what of changes) {
          act(table, what);
          for (const packet of packets) {
            const index = table.lookup(packet)?.index;
            expect(index).toBe(linear(table, packet));
            if (index !== undefined) found++;
          }
        }
      }),
      { numRuns: 60 },
    );
    expect(found).toBeGreaterThan(1000);
  });

  it('looks at hardly more than one of four thousand VLANs', () => {
    const table = new FlowTable(1, 0, 12, miss);
    const group = table.addGroup(0, 4095, words([0xfff, 0, 1]));
    for (let vid = 0; vid < 4096; vid++) {
      const value = words([vid, 0, 1]);
      table.setEntry(
        flowEntry(group, { index: vid, groupId: group.id, flowTag: 0, action: 1, destinations: [], value }),
      );
    }
    const matches = vi.spyOn(Matcher.prototype, 'matches');
    for (let vid = 0; vid < 4096; vid++) {
      const index = table.lookup(words([vid | 0x5000, 7, 3]))?.index;
      if (index !== vid) expect(index).toBe(vid);
    }
    expect(table.lookup(words([9, 0, 0]))).toBeUndefined();
    expect(matches.mock.calls.length).toBeLessThan(2 * 4096);
    matches.mockRestore();
  });
});
