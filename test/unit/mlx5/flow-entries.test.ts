/** Flow tables by their commands: entries that are made and modified, groups, the root. */
import { beforeEach, describe, expect, it } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { flowAction } from '../../../device-models/mlx5/steering/tables.ts';
import { CommandFailed, type FakeDriver, fillDmac } from './driver.ts';
import { buildFrame } from './frames.ts';
import { type Bench, running } from './setup.ts';

const { commandStatus } = prm;
const index = 5;
const mac = Buffer.from('020000000005', 'hex');
const otherMac = Buffer.from('020000000006', 'hex');
const opMod = { ADD: 0, MODIFY: 1 } as const;
const change = { ACTION: 1, FLOW_TAG: 2, DESTINATION_LIST: 4, FLOW_COUNTERS: 8 } as const;
const { DROP, FWD_DEST } = flowAction;

interface Entry {
  readonly mode?: number;
  readonly mask?: number;
  readonly at?: number;
  readonly group?: number;
  readonly action?: number;
  readonly tag?: number;
  readonly counters?: number;
  /** Times that the frame goes to the TIR which takes any. */
  readonly copies?: number;
  readonly value?: Buffer;
  readonly destinationType?: number;
  /** Bytes that are missing at the end. */
  readonly cut?: number;
}

let bench: Bench;

/** The command, with everything that it does not name 0. */
function setEntry(entry: Entry): void {
  const { driver } = bench;
  const copies = entry.copies ?? 0;
  const input = Buffer.alloc(prm.setFteIn.size + copies * 8);
  const at = prm.setFteIn.byte('flow_context');
  prm.setFteIn.set(input, 'table_id', driver.tables.l2 ?? 0);
  prm.setFteIn.set(input, 'flow_index', entry.at ?? index);
  prm.setFteIn.set(input, 'modify_enable_mask', entry.mask ?? 0);
  prm.flowContext.set(input, 'group_id', driver.groups.l2?.[entry.group ?? 0] ?? 0xffff, at);
  prm.flowContext.set(input, 'action', entry.action ?? 0, at);
  prm.flowContext.set(input, 'flow_tag', entry.tag ?? 0, at);
  prm.flowContext.set(input, 'destination_list_size', copies, at);
  prm.flowContext.set(input, 'flow_counter_list_size', entry.counters ?? 0, at);
  if (entry.value !== undefined)
    fillDmac(input.subarray(at + prm.flowContext.byte('match_value')), entry.value);
  for (let copy = 0; copy < copies; copy++) {
    const destination = at + prm.flowContext.byte('destination') + 8 * copy;
    prm.destFormatStruct.set(input, 'destination_type', entry.destinationType ?? 2, destination);
    // As the id of anything but a TIR, that of a table to which the entry could forward.
    const id = entry.destinationType === undefined ? driver.tirs[10] : driver.tables.ttc;
    prm.destFormatStruct.set(input, 'destination_id', id ?? 0, destination);
  }
  const given = input.subarray(0, input.length - (entry.cut ?? 0));
  driver.command('SET_FLOW_TABLE_ENTRY', given, 16, entry.mode ?? opMod.MODIFY);
}

function statusOf(run: () => void): number {
  try {
    run();
    return commandStatus.OK;
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    return error.status;
  }
}

/** Flow tags of the copies that a frame to `to` is received in. */
function tagsOf(to: Buffer): number[] {
  const { driver, port } = bench;
  port.inject(buildFrame({ dst: to }));
  driver.poll();
  return driver.received.splice(0).map(({ cqe }) => cqe.readUInt32BE(0x38) & 0xffffff);
}

function query(): number[] {
  const { driver } = bench;
  const input = Buffer.alloc(64);
  prm.queryFteIn.set(input, 'table_id', driver.tables.l2 ?? 0);
  prm.queryFteIn.set(input, 'flow_index', index);
  const output = driver.command('QUERY_FLOW_TABLE_ENTRY', input, prm.queryFteOut.size);
  const at = prm.queryFteOut.byte('flow_context');
  return (['group_id', 'action', 'flow_tag', 'destination_list_size'] as const).map((name) =>
    prm.flowContext.get(output, name, at),
  );
}

const group = () => bench.driver.groups.l2?.[0] ?? expect.fail('no group');

describe('an entry that is modified', () => {
  beforeEach(() => {
    bench ??= running();
    setEntry({ mode: opMod.ADD, action: FWD_DEST, tag: 7, copies: 1, value: mac });
    expect(tagsOf(mac)).toEqual([7]);
  });

  it('gets another tag, and keeps action, destinations and match whatever else the command says', () => {
    setEntry({ mask: change.FLOW_TAG, tag: 9, action: DROP, copies: 2, value: otherMac });
    expect(tagsOf(mac)).toEqual([9]);
    expect(tagsOf(otherMac)).toEqual([]);
    expect(query()).toEqual([group(), FWD_DEST, 9, 1]);
  });

  it('gets other destinations, and keeps action and tag', () => {
    setEntry({ mask: change.DESTINATION_LIST, tag: 9, action: DROP, copies: 2 });
    expect(tagsOf(mac)).toEqual([7, 7]);
    expect(query()).toEqual([group(), FWD_DEST, 7, 2]);
  });

  it('gets another action when that fits its destinations', () => {
    setEntry({ mask: change.ACTION, action: FWD_DEST | flowAction.ALLOW });
    expect(tagsOf(mac)).toEqual([7]);
    expect(query()).toEqual([group(), FWD_DEST | flowAction.ALLOW, 7, 1]);
    setEntry({ mask: change.ACTION | change.DESTINATION_LIST, action: DROP });
    expect(tagsOf(mac)).toEqual([]);
    expect(query()).toEqual([group(), DROP, 7, 0]);
  });

  it('drops without a count of frames that have no place', () => {
    const { events } = bench.device.core.counters;
    const before = events.rxFiltered;
    setEntry({ mask: change.ACTION | change.DESTINATION_LIST, action: DROP });
    expect(tagsOf(mac)).toEqual([]);
    expect(events.rxFiltered).toBe(before);
    expect(tagsOf(otherMac)).toEqual([]);
    expect(events.rxFiltered).toBe(before + 1);
  });

  it('stays as it is with an empty mask', () => {
    setEntry({ tag: 9, action: DROP, copies: 2, value: otherMac });
    expect(query()).toEqual([group(), FWD_DEST, 7, 1]);
    expect(tagsOf(mac)).toEqual([7]);
  });

  const refused: readonly [string, Entry, number][] = [
    [
      'an action without the destinations it needs',
      { mask: change.DESTINATION_LIST },
      commandStatus.BAD_PARAM_ERR,
    ],
    [
      'destinations that its action has no use for',
      { mask: change.ACTION, action: DROP },
      commandStatus.BAD_PARAM_ERR,
    ],
    ['an action that is none', { mask: change.ACTION, action: 0x8000 }, commandStatus.BAD_PARAM_ERR],
    [
      'an action that counts',
      { mask: change.ACTION, action: FWD_DEST | flowAction.COUNT },
      commandStatus.BAD_PARAM_ERR,
    ],
    ['counters', { mask: change.FLOW_COUNTERS, counters: 1 }, commandStatus.BAD_PARAM_ERR],
    ['a field that is none', { mask: 0x10 }, commandStatus.BAD_PARAM_ERR],
    ['an entry that is not there', { at: index + 1, mask: change.FLOW_TAG }, commandStatus.BAD_RES_ERR],
    ['an entry of another group', { group: 1, mask: change.FLOW_TAG }, commandStatus.BAD_PARAM_ERR],
    ['an operation that is none', { mode: 2, mask: change.FLOW_TAG }, commandStatus.BAD_PARAM_ERR],
  ];
  it.each(refused)('is not: %s', (_what, entry, expected) => {
    expect(statusOf(() => setEntry({ tag: 9, ...entry }))).toBe(expected);
    expect(query()).toEqual([group(), FWD_DEST, 7, 1]);
  });

  it('is sent again by a migration that has sent it', () => {
    const session = bench.device.migration.preCopy();
    while (session.next() !== undefined);
    setEntry({ mask: change.FLOW_TAG, tag: 9 });
    expect(session.next()?.section).toBe('flow_table');
  });
});

describe('an entry that is made', () => {
  beforeEach(() => {
    bench ??= running();
  });

  const refused: readonly [string, Entry][] = [
    ['that forwards to nowhere', { action: FWD_DEST }],
    ['that drops to somewhere', { action: DROP, copies: 1 }],
    ['with counters', { action: FWD_DEST, copies: 1, counters: 1 }],
    ['with an action that is none', { action: FWD_DEST | 0x8000, copies: 1 }],
    ['that goes to a vport', { action: FWD_DEST, copies: 1, destinationType: 0 }],
    ['whose last destination is cut off', { action: FWD_DEST, copies: 2, cut: 8 }],
    ['beyond its group', { action: FWD_DEST, copies: 1, at: 128 }],
  ];
  it.each(refused)('is refused: %s', (_what, entry) => {
    expect(statusOf(() => setEntry({ mode: opMod.ADD, at: 9, value: otherMac, ...entry }))).toBe(
      commandStatus.BAD_PARAM_ERR,
    );
    expect(tagsOf(otherMac)).toEqual([]);
  });

  it('replaces one at its index with all that it says', () => {
    setEntry({ mode: opMod.ADD, action: FWD_DEST, tag: 7, copies: 1, value: mac });
    setEntry({ mode: opMod.ADD, action: FWD_DEST, copies: 2, value: otherMac });
    expect(tagsOf(mac)).toEqual([]);
    expect(tagsOf(otherMac)).toEqual([0, 0]);
  });

  it('is one too many when all tables together are full; one at its index is replaced then', () => {
    const { steering } = bench.device.core;
    const count = steering.entryCount;
    try {
      steering.entryCount = () => limits.flowEntries;
      const entry = { mode: opMod.ADD, action: FWD_DEST, copies: 1, value: mac } as const;
      expect(statusOf(() => setEntry({ ...entry, at: 11 }))).toBe(commandStatus.LIM_ERR);
      expect(statusOf(() => setEntry(entry))).toBe(commandStatus.OK);
      steering.entryCount = () => limits.flowEntries - 1;
      expect(statusOf(() => setEntry({ ...entry, at: 11 }))).toBe(commandStatus.OK);
    } finally {
      steering.entryCount = count;
    }
  });

  it('keeps the tag that a table before it gave', () => {
    setEntry({ mode: opMod.ADD, action: FWD_DEST, copies: 1, value: mac });
    expect(tagsOf(mac)).toEqual([0]);
    const { driver } = bench;
    const input = Buffer.alloc(840);
    const at = prm.setFteIn.byte('flow_context');
    const destination = at + prm.flowContext.byte('destination');
    prm.setFteIn.set(input, 'table_id', driver.tables.vlan ?? 0);
    prm.setFteIn.set(input, 'flow_index', 2048);
    prm.flowContext.set(input, 'group_id', driver.groups.vlan?.[1] ?? 0xffff, at);
    prm.flowContext.set(input, 'action', FWD_DEST, at);
    prm.flowContext.set(input, 'flow_tag', 3, at);
    prm.flowContext.set(input, 'destination_list_size', 1, at);
    prm.destFormatStruct.set(input, 'destination_type', 1, destination);
    prm.destFormatStruct.set(input, 'destination_id', driver.tables.l2 ?? 0, destination);
    driver.command('SET_FLOW_TABLE_ENTRY', input);
    expect(tagsOf(mac)).toEqual([3]);
  });
});

describe('a flow group', () => {
  let driver: FakeDriver;
  beforeEach(() => {
    driver = running().driver;
  });
  const create = (start: number, end: number) =>
    statusOf(() => driver.createGroup('l2', start, end, () => {}));

  it('may touch its neighbours, and have no index in common with them', () => {
    // There are groups from 0 to 127, of 128 and of 129.
    expect(create(140, 150)).toBe(commandStatus.OK);
    expect([create(127, 127), create(130, 140), create(150, 151), create(130, 160)]).toEqual(
      new Array(4).fill(commandStatus.BAD_PARAM_ERR),
    );
    expect([create(130, 139), create(151, 255)]).toEqual([commandStatus.OK, commandStatus.OK]);
  });

  it('stays while it has entries', () => {
    const destroy = (): void => {
      const input = Buffer.alloc(64);
      prm.destroyFlowGroupIn.set(input, 'table_id', driver.tables.l2 ?? 0);
      prm.destroyFlowGroupIn.set(input, 'group_id', driver.groups.l2?.[0] ?? 0xffff);
      driver.command('DESTROY_FLOW_GROUP', input);
    };
    expect(statusOf(destroy)).toBe(commandStatus.BAD_RES_STATE_ERR);
    driver.deleteEntry('l2', 0);
    driver.deleteEntry('l2', 1);
    expect(statusOf(destroy)).toBe(commandStatus.OK);
  });

  it('that looks at nothing looks at nothing, whatever mask comes with it; other headers than the outer are refused', () => {
    const made = running();
    bench = made;
    const createWith = (enable: number): number => {
      const input = Buffer.alloc(1024);
      prm.createFlowGroupIn.set(input, 'table_id', made.driver.tables.l2 ?? 0);
      prm.createFlowGroupIn.set(input, 'start_flow_index', 200);
      prm.createFlowGroupIn.set(input, 'end_flow_index', 200);
      prm.createFlowGroupIn.set(input, 'match_criteria_enable', enable);
      fillDmac(input.subarray(prm.createFlowGroupIn.byte('match_criteria')), Buffer.alloc(6, 0xff));
      return prm.createFlowGroupOut.get(made.driver.command('CREATE_FLOW_GROUP', input), 'group_id');
    };
    expect(statusOf(() => createWith(2))).toBe(commandStatus.BAD_PARAM_ERR);
    made.driver.groups.l2?.push(createWith(0));
    expect(tagsOf(otherMac)).toEqual([]);
    setEntry({ mode: opMod.ADD, at: 200, group: 3, action: FWD_DEST, copies: 1, value: mac });
    expect(tagsOf(otherMac)).toEqual([0]);
  });
});

describe('a flow table', () => {
  it('is as large as the capabilities say, and no larger', () => {
    const { driver } = running();
    expect(statusOf(() => driver.createTable(20, limits.logFlowTableSize))).toBe(commandStatus.OK);
    expect(statusOf(() => driver.createTable(21, limits.logFlowTableSize + 1))).toBe(
      commandStatus.BAD_PARAM_ERR,
    );
  });

  it('has nothing modified but where it sends what does not match', () => {
    const { driver } = running();
    const input = Buffer.alloc(64);
    prm.modifyFlowTableIn.set(input, 'table_id', driver.tables.l2 ?? 0);
    for (const select of [0, 2, 3]) {
      prm.modifyFlowTableIn.set(input, 'modify_field_select', select);
      expect(statusOf(() => driver.command('MODIFY_FLOW_TABLE', input))).toBe(commandStatus.BAD_PARAM_ERR);
    }
  });

  it('is no root any more when the root is disabled, or the table destroyed', () => {
    bench = running();
    const { device, driver } = bench;
    expect(tagsOf(driver.mac)).toEqual([0]);
    const input = Buffer.alloc(64);
    prm.setFlowTableRootIn.set(input, 'table_id', driver.tables.tc ?? 0);
    driver.command('SET_FLOW_TABLE_ROOT', input, 16, 1);
    expect(tagsOf(driver.mac)).toEqual([]);
    driver.setRoot('tc');
    expect(tagsOf(driver.mac)).toEqual([0]);
    const destroy = Buffer.alloc(64);
    prm.destroyFlowTableIn.set(destroy, 'table_id', driver.tables.tc ?? 0);
    driver.command('DESTROY_FLOW_TABLE', destroy);
    expect(device.core.steering.root).toBeUndefined();
    expect(tagsOf(driver.mac)).toEqual([]);
  });
});
