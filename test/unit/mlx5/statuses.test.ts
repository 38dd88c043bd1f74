import { describe, expect, it } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { destinationType, flowAction } from '../../../device-models/mlx5/steering/tables.ts';
import { CommandFailed, type FakeDriver } from './driver.ts';
import { commandQueue } from './driver-base.ts';
import { memoryBytes } from './fake-host.ts';
import { bench, running } from './setup.ts';

const { commandStatus: status, deliveryStatus: delivery } = prm;

/** A command that names one object in its third word. */
function naming(id: number, bytes = 16) {
  const input = Buffer.alloc(bytes);
  input.writeUInt32BE(id >>> 0, 8);
  return input;
}

/** A CREATE or MODIFY with one thing changed in a form that is right otherwise. */
function form(bytes: number, ...changes: readonly ((input: Buffer) => void)[]) {
  const input = Buffer.alloc(bytes);
  for (const change of changes) change(input);
  return input;
}

type Case = readonly [what: string, expected: number, run: (driver: FakeDriver) => unknown];

const ring = 0x200000;
const cq = (driver: FakeDriver, change: (input: Buffer) => void = () => {}) =>
  driver.command(
    'CREATE_CQ',
    form(
      280,
      (input) => prm.cqc.set(input, 'log_cq_size', 6, 16),
      (input) => prm.cqc.set(input, 'uar_page', driver.uar, 16),
      (input) => prm.cqc.set(input, 'c_eqn_or_apu_element', driver.eqs.comp[0]?.eqn ?? 0, 16),
      (input) => prm.cqc.set64(input, 'dbr_addr', 0x1000, 16),
      (input) => input.writeUInt32BE(ring, 0x114),
      change,
    ),
  );
const largestCq = (driver: FakeDriver) => {
  const pages = 2 ** (limits.logCqSize - 6);
  const input = form(
    272 + 8 * pages,
    (entry) => prm.cqc.set(entry, 'log_cq_size', limits.logCqSize, 16),
    (entry) => prm.cqc.set(entry, 'uar_page', driver.uar, 16),
    (entry) => prm.cqc.set(entry, 'c_eqn_or_apu_element', driver.eqs.comp[0]?.eqn ?? 0, 16),
  );
  for (let page = 0; page < pages; page++) input.writeUInt32BE(page * 4096, 0x110 + 8 * page + 4);
  return driver.command('CREATE_CQ', input);
};
const sq = (driver: FakeDriver, change: (input: Buffer) => void = () => {}) =>
  driver.command(
    'CREATE_SQ',
    form(
      280,
      (input) => prm.sqc.set(input, 'cqn', driver.channels[0]?.tx.cq.cqn ?? 0, 0x20),
      (input) => prm.sqc.set(input, 'tis_lst_sz', 1, 0x20),
      (input) => prm.sqc.set(input, 'tis_num_0', driver.tis, 0x20),
      (input) => prm.wq.set(input, 'wq_type', 1, 0x50),
      (input) => prm.wq.set(input, 'log_wq_stride', 6, 0x50),
      (input) => prm.wq.set(input, 'log_wq_sz', 6, 0x50),
      (input) => prm.wq.set(input, 'uar_page', driver.uar, 0x50),
      (input) => input.writeUInt32BE(ring, 0x114),
      change,
    ),
  );
const modifySq = (driver: FakeDriver, from: number, to: number) =>
  driver.modifySq(driver.channels[0]?.tx ?? expect.fail('no queue'), from, to);
const group = (driver: FakeDriver, start: number, end: number) =>
  driver.createGroup('l2', start, end, () => {});

type Change = (input: Buffer) => void;
const mkey = (driver: FakeDriver, change: Change = () => {}) =>
  driver.command('CREATE_MKEY', form(272, set(prm.mkc, 'length64', 1, 16), change));
const directTir = (driver: FakeDriver, change: Change = () => {}) =>
  driver.command(
    'CREATE_TIR',
    form(
      272,
      set(prm.tirc, 'inline_rqn', driver.dropRq, 0x20),
      set(prm.tirc, 'rx_hash_fn', 1, 0x20),
      set(prm.tirc, 'transport_domain', driver.td, 0x20),
      change,
    ),
  );
const rq = (driver: FakeDriver, change: Change = () => {}) =>
  driver.command(
    'CREATE_RQ',
    form(
      280,
      set(prm.rqc, 'cqn', rx(driver).cq.cqn, 0x20),
      set(prm.wq, 'wq_type', 1, 0x50),
      set(prm.wq, 'log_wq_stride', 4, 0x50),
      set(prm.wq, 'log_wq_sz', 6, 0x50),
      (input) => input.writeUInt32BE(ring, 0x114),
      change,
    ),
  );
const tis = (driver: FakeDriver, change: Change = () => {}) =>
  driver.command('CREATE_TIS', form(192, set(prm.tisc, 'transport_domain', driver.td, 0x20), change));
const rqt = (driver: FakeDriver, change: Change = () => {}) =>
  driver.command(
    'CREATE_RQT',
    form(
      276,
      set(prm.rqtc, 'rqt_max_size', 1, 0x20),
      set(prm.rqtc, 'rqt_actual_size', 1, 0x20),
      (input) => input.writeUInt32BE(driver.dropRq, 0x110),
      change,
    ),
  );
const table = (driver: FakeDriver, change: Change = () => {}) =>
  driver.command('CREATE_FLOW_TABLE', form(64, set(prm.flowTableContext, 'level', 40, 0x18), change));
const flowGroup = (driver: FakeDriver, change: Change = () => {}) =>
  driver.command(
    'CREATE_FLOW_GROUP',
    form(
      1024,
      set(prm.createFlowGroupIn, 'table_id', driver.tables.l2 ?? 0, 0),
      set(prm.createFlowGroupIn, 'start_flow_index', 200, 0),
      set(prm.createFlowGroupIn, 'end_flow_index', 200, 0),
      change,
    ),
  );
const modifyTir = (driver: FakeDriver, mask: number) =>
  driver.command(
    'MODIFY_TIR',
    form(272, set(prm.modifyTirIn, 'tirn', driver.tirs[0] ?? 0, 0), (input) =>
      prm.modifyTirIn.set64(input, 'bitmask', mask),
    ),
  );
const modifyRxCq = (driver: FakeDriver, mask: number, mode: number, opMod = 0) =>
  driver.command(
    'MODIFY_CQ',
    form(
      272,
      set(prm.modifyCqIn, 'cqn', rx(driver).cq.cqn, 0),
      set(prm.modifyCqIn, 'modify_field_select_resize_field_select', mask, 0),
      set(prm.cqc, 'cq_period_mode', mode, prm.modifyCqIn.byte('cq_context')),
    ),
    16,
    opMod,
  );

/** What a capability that is 0 says that there is not; where a field takes more than one value, the first that there is not. */
function notOffered(): Case[] {
  type Maker = (driver: FakeDriver, change: Change) => unknown;
  const makers: readonly (readonly [
    Maker,
    prm.Layout,
    number,
    readonly (string | readonly [string, number])[],
  ])[] = [
    [cq, prm.cqc, 16, ['cc', 'apu_cq', 'scqe_break_moderation_en', 'dbr_umem_valid', ['cq_period_mode', 2]]],
    [cq, prm.createCqIn, 0, ['cq_umem_valid']],
    [
      sq,
      prm.sqc,
      0x20,
      [
        'hairpin',
        'allow_multi_pkt_send_wqe',
        'reg_umr',
        'allow_swp',
        'cd_master',
        'ts_cqe_to_dest_cqn',
        'packet_pacing_rate_limit_index',
        'qos_queue_group_id',
        ['ts_format', 2],
      ],
    ],
    [sq, prm.wq, 0x50, ['wq_signature', 'dbr_umem_valid', 'wq_umem_valid', ['pd', 0x777], 'uar_page']],
    [
      rq,
      prm.rqc,
      0x20,
      ['hairpin', 'delay_drop_en', 'scatter_fcs', 'mem_rq_type', ['ts_format', 2], ['counter_set_id', 77]],
    ],
    [rq, prm.wq, 0x50, ['wq_signature', 'two_byte_shift_en', 'shampo_enable', ['pd', 0x777]]],
    [mkey, prm.mkc, 16, ['free', 'umr_en', 'bsf_en', 'translations_octword_size', ['pd', 0x777]]],
    [mkey, prm.createMkeyIn, 0, ['pg_access', 'mkey_umem_valid', 'translations_octword_actual_size']],
    [tis, prm.tisc, 0x20, ['tls_en', 'underlay_qpn', ['pd', 0x777], ['transport_domain', 0x777]]],
    [
      directTir,
      prm.tirc,
      0x20,
      [
        'tls_en',
        'packet_merge_mask',
        'tunneled_offload_en',
        ['rx_hash_fn', 3],
        ['transport_domain', 0],
        ['disp_type', 2],
      ],
    ],
    [rqt, prm.rqtc, 0x20, ['list_q_type', 'rq_vhca_id_format', ['rqt_max_size', limits.rqtEntries + 1]]],
    [
      table,
      prm.flowTableContext,
      0x18,
      ['reformat_en', 'decap_en', 'sw_owner', 'termination_table', ['log_size', limits.logFlowTableSize + 1]],
    ],
    [
      flowGroup,
      prm.createFlowGroupIn,
      0,
      ['group_type', 'match_definer_id', 'source_eswitch_owner_vhca_id_valid', ['match_criteria_enable', 2]],
    ],
  ];
  return makers.flatMap(([make, layout, at, fields]) =>
    fields.map((field): Case => {
      const [name, value] = typeof field === 'string' ? [field, 1] : field;
      return [
        `${layout.source.struct}.${name} of ${value}`,
        status.BAD_PARAM_ERR,
        (driver) => make(driver, set(layout, name, value, at)),
      ];
    }),
  );
}

const commands: readonly Case[] = [
  ['a CQ that is right', status.OK, (driver) => cq(driver)],
  ['an SQ that is right', status.OK, (driver) => sq(driver)],
  ['the largest CQ that the capabilities offer', status.OK, (driver) => largestCq(driver)],
  ['an opcode of another vendor', status.BAD_OP_ERR, (driver) => raw(driver, 0xfff)],
  ['opcode 0', status.BAD_OP_ERR, (driver) => raw(driver, 0)],
  // Lengths.
  ['input too short', status.BAD_INP_LEN_ERR, (driver) => driver.command('CREATE_SQ', Buffer.alloc(128))],
  ['no room for the answer', status.BAD_OUTP_LEN_ERR, (driver) => driver.command('QUERY_SQ', naming(1), 64)],
  // Resources that are not there.
  ['DESTROY of none', status.BAD_RES_ERR, (driver) => driver.command('DESTROY_SQ', naming(0xffffff))],
  ['QUERY of none', status.BAD_RES_ERR, (driver) => driver.command('QUERY_CQ', naming(3), 272)],
  ['MODIFY of none', status.BAD_RES_ERR, (driver) => driver.command('MODIFY_RQ', naming(3, 272))],
  ['freed twice', status.BAD_RES_ERR, (driver) => free(driver, 2)],
  ['an entry in no group', status.BAD_RES_ERR, (driver) => driver.setEntry('l2', 99, 1, { table: 'ttc' })],
  ['no entry to delete', status.BAD_RES_ERR, (driver) => driver.deleteEntry('l2', 77)],
  // Resources that others use.
  [
    'an EQ with CQs',
    status.BAD_RES_STATE_ERR,
    (driver) => busy(driver, 'DESTROY_EQ', driver.eqs.comp[0]?.eqn),
  ],
  ['a CQ with an RQ', status.BAD_RES_STATE_ERR, (driver) => busy(driver, 'DESTROY_CQ', rx(driver).cq.cqn)],
  ['a TIS with an SQ', status.BAD_RES_STATE_ERR, (driver) => busy(driver, 'DESTROY_TIS', driver.tis)],
  ['a table with entries', status.BAD_RES_STATE_ERR, (driver) => destroyTable(driver, 'l2')],
  // References.
  [
    'a CQ of no EQ',
    status.BAD_PARAM_ERR,
    (driver) => cq(driver, set(prm.cqc, 'c_eqn_or_apu_element', 99, 16)),
  ],
  ['a CQ of no UAR', status.BAD_PARAM_ERR, (driver) => cq(driver, set(prm.cqc, 'uar_page', 1, 16))],
  ['an SQ of no UAR', status.BAD_PARAM_ERR, (driver) => sq(driver, set(prm.wq, 'uar_page', 1, 0x50))],
  ['an SQ of no CQ', status.BAD_PARAM_ERR, (driver) => sq(driver, set(prm.sqc, 'cqn', 1, 0x20))],
  ['an SQ of no TIS', status.BAD_PARAM_ERR, (driver) => sq(driver, set(prm.sqc, 'tis_num_0', 99, 0x20))],
  ['an RQT of no RQ', status.BAD_PARAM_ERR, (driver) => driver.createRqt([0x777], 1)],
  ['a TIR of no RQT', status.BAD_PARAM_ERR, (driver) => driver.createTir(0x777, false, false, 3)],
  ['an mkey', status.OK, (driver) => mkey(driver)],
  ['a TIR of one RQ', status.OK, (driver) => directTir(driver)],
  ['an RQ, of no PD and no counter set', status.OK, (driver) => rq(driver)],
  ['a TIS', status.OK, (driver) => tis(driver)],
  ['an RQT', status.OK, (driver) => rqt(driver)],
  ['a flow table', status.OK, (driver) => table(driver)],
  ['a flow group', status.OK, (driver) => flowGroup(driver)],
  [
    'a CQ moderated from its last CQE',
    status.OK,
    (driver) => cq(driver, set(prm.cqc, 'cq_period_mode', 1, 16)),
  ],
  ['a CQ that may be overrun', status.OK, (driver) => cq(driver, set(prm.cqc, 'oi', 1, 16))],
  ['a TIR changed in what there is', status.OK, (driver) => modifyTir(driver, 0x10)],
  ['a TIR changed in what there is not', status.BAD_PARAM_ERR, (driver) => modifyTir(driver, 0x12)],
  ['a TIR changed in what is far off', status.BAD_PARAM_ERR, (driver) => modifyTir(driver, 2 ** 40)],
  ['a CQ changed to another moderation', status.OK, (driver) => modifyRxCq(driver, 16, 1)],
  ['a CQ changed to no moderation', status.BAD_PARAM_ERR, (driver) => modifyRxCq(driver, 16, 2)],
  ['a CQ resized', status.BAD_PARAM_ERR, (driver) => modifyRxCq(driver, 1, 0, 1)],
  [
    'an SQ with a rate',
    status.BAD_PARAM_ERR,
    (driver) =>
      driver.command(
        'MODIFY_SQ',
        form(
          272,
          set(prm.modifySqIn, 'sqn', driver.channels[0]?.tx.sqn ?? 0, 0),
          set(prm.modifySqIn, 'sq_state', 1, 0),
          set(prm.sqc, 'state', 1, 0x20),
          (input) => prm.modifySqIn.set64(input, 'modify_bitmask', 1),
        ),
      ),
  ],
  ...notOffered(),
  // Sizes, indices, addresses.
  ['a CQ too large', status.BAD_PARAM_ERR, (driver) => cq(driver, set(prm.cqc, 'log_cq_size', 31, 16))],
  ['compressed CQEs', status.BAD_PARAM_ERR, (driver) => cq(driver, set(prm.cqc, 'cqe_comp_en', 1, 16))],
  ['CQEs of 128 bytes', status.BAD_PARAM_ERR, (driver) => cq(driver, set(prm.cqc, 'cqe_sz', 1, 16))],
  ['pages cut off', status.BAD_PARAM_ERR, (driver) => cq(driver, set(prm.cqc, 'log_cq_size', 12, 16))],
  ['an odd page', status.BAD_PARAM_ERR, (driver) => cq(driver, (input) => input.writeUInt32BE(0x123, 0x114))],
  [
    'a page beyond 2^53',
    status.BAD_PARAM_ERR,
    (driver) => cq(driver, (input) => input.fill(0xf0, 0x110, 0x118)),
  ],
  [
    'an odd record',
    status.BAD_PARAM_ERR,
    (driver) => cq(driver, (input) => prm.cqc.set64(input, 'dbr_addr', 3, 16)),
  ],
  ['an SQ of two TISes', status.BAD_PARAM_ERR, (driver) => sq(driver, set(prm.sqc, 'tis_lst_sz', 2, 0x20))],
  [
    'a queue that never was ready, to error',
    status.BAD_PARAM_ERR,
    (driver) => {
      modifySq(driver, 1, 0);
      try {
        modifySq(driver, 0, 3);
      } finally {
        // The other cases find it ready.
        modifySq(driver, 0, 1);
      }
    },
  ],
  ['an SQ stride', status.BAD_PARAM_ERR, (driver) => sq(driver, set(prm.wq, 'log_wq_stride', 4, 0x50))],
  ['an SQ size', status.BAD_PARAM_ERR, (driver) => sq(driver, set(prm.wq, 'log_wq_sz', 31, 0x50))],
  ['an RQT of none', status.BAD_PARAM_ERR, (driver) => driver.createRqt([], 1)],
  [
    'an RQT larger than its maximum',
    status.BAD_PARAM_ERR,
    (driver) => driver.createRqt([driver.dropRq, driver.dropRq], 1),
  ],
  [
    'an RQT changed to more than its maximum',
    status.BAD_PARAM_ERR,
    (driver) => driver.modifyRqt(driver.rqt + 1, [driver.dropRq, driver.dropRq]),
  ],
  [
    'an RQT of which the answer has no room for all',
    status.OK,
    (driver) => driver.command('QUERY_RQT', naming(driver.rqt), prm.queryRqtOut.size),
  ],
  [
    'a change of what is not known of an RQ',
    status.BAD_PARAM_ERR,
    (driver) =>
      driver.command(
        'MODIFY_RQ',
        form(
          272,
          set(prm.modifyRqIn, 'rqn', rx(driver).rqn, 0),
          set(prm.modifyRqIn, 'rq_state', 1, 0),
          set(prm.rqc, 'state', 1, 0x20),
          (input) => prm.modifyRqIn.set64(input, 'modify_bitmask', 2 ** 40),
        ),
      ),
  ],
  ['an entry that forwards to nowhere', status.BAD_PARAM_ERR, (driver) => toTables(driver, 0)],
  [
    'an entry with destinations that does not forward',
    status.BAD_PARAM_ERR,
    (driver) => toTables(driver, 1, flowAction.ALLOW),
  ],
  ['a group that overlaps', status.BAD_PARAM_ERR, (driver) => group(driver, 127, 130)],
  ['a group outside its table', status.BAD_PARAM_ERR, (driver) => group(driver, 250, 256)],
  ['a group from behind', status.BAD_PARAM_ERR, (driver) => group(driver, 240, 239)],
  [
    'an entry outside its group',
    status.BAD_PARAM_ERR,
    (driver) => driver.setEntry('l2', 0, 128, { table: 'ttc' }),
  ],
  [
    'an entry to its own level',
    status.BAD_PARAM_ERR,
    (driver) => driver.setEntry('l2', 0, 5, { table: 'l2' }),
  ],
  [
    'an entry to as many tables as the capabilities offer',
    status.OK,
    (driver) => toTables(driver, limits.flowDestinations),
  ],
  [
    'an entry that asks for no order of levels',
    status.BAD_PARAM_ERR,
    (driver) => toTables(driver, 1, flowAction.FWD_DEST, set(prm.setFteIn, 'ignore_flow_level', 1, 0)),
  ],
  ...(['destination_eswitch_owner_vhca_id_valid', 'packet_reformat'] as const).map(
    (name): Case => [
      `an entry with ${name}`,
      status.BAD_PARAM_ERR,
      (driver) => toTables(driver, 1, flowAction.FWD_DEST, set(prm.destFormatStruct, name, 1, 0x340)),
    ],
  ),
  ['an entry to one more', status.BAD_PARAM_ERR, (driver) => toTables(driver, limits.flowDestinations + 1)],
  ['an entry to no TIR', status.BAD_PARAM_ERR, (driver) => driver.setEntry('l2', 0, 5, { tir: 0xabcdef })],
  ['an unknown register', status.BAD_PARAM_ERR, (driver) => driver.register(0x1234, Buffer.alloc(32), 1)],
  ['an MTU of 20000', status.BAD_PARAM_ERR, (driver) => driver.setMtu(20_000)],
  [
    'an unknown op_mod',
    status.BAD_PARAM_ERR,
    (driver) => driver.command('MANAGE_PAGES', Buffer.alloc(16), 16, 9),
  ],
  [
    'ISSI 5',
    status.BAD_PARAM_ERR,
    (driver) => driver.command('SET_ISSI', form(16, set(prm.setIssiIn, 'current_issi', 5, 0))),
  ],
  // States.
  ['a state that it is not in', status.BAD_PARAM_ERR, (driver) => modifySq(driver, 3, 0)],
  ['a way that is none', status.BAD_PARAM_ERR, (driver) => modifySq(driver, 1, 2)],
  ['RDY to RDY', status.OK, (driver) => modifySq(driver, 1, 1)],
];

function set<T extends prm.Layout>(layout: T, name: keyof T['fields'] & string, value: number, base: number) {
  return (input: Buffer) => layout.set(input, name, value, base);
}

function rx(driver: FakeDriver) {
  return driver.channels[0]?.rx ?? expect.fail('no queue');
}

function busy(driver: FakeDriver, name: 'DESTROY_EQ' | 'DESTROY_CQ' | 'DESTROY_TIS', id = 0): void {
  driver.command(name, naming(id));
}

function free(driver: FakeDriver, times: number): void {
  const pd = prm.allocPdOut.get(driver.command('ALLOC_PD'), 'pd');
  for (let left = times; left > 0; left--) driver.command('DEALLOC_PD', naming(pd));
}

/** Sets the entry of the highest index in `l2` to forward to `count` destinations. */
function toTables(
  driver: FakeDriver,
  count: number,
  action: number = flowAction.FWD_DEST,
  change: Change = () => {},
): void {
  const { destFormatStruct, flowContext, setFteIn } = prm;
  const at = setFteIn.byte('flow_context');
  const list = at + flowContext.byte('destination');
  const input = form(
    list + count * destFormatStruct.size,
    set(setFteIn, 'table_id', driver.tables.l2 ?? 0, 0),
    set(setFteIn, 'flow_index', 129, 0),
    set(flowContext, 'group_id', driver.groups.l2?.[2] ?? 0, at),
    set(flowContext, 'action', action, at),
    set(flowContext, 'destination_list_size', count, at),
  );
  for (let index = 0; index < count; index++) {
    const entry = list + index * destFormatStruct.size;
    destFormatStruct.set(input, 'destination_type', destinationType.FLOW_TABLE, entry);
    destFormatStruct.set(input, 'destination_id', driver.tables.ttc ?? 0, entry);
  }
  change(input);
  driver.command('SET_FLOW_TABLE_ENTRY', input);
}

function destroyTable(driver: FakeDriver, name: string): void {
  driver.command(
    'DESTROY_FLOW_TABLE',
    form(64, set(prm.destroyFlowTableIn, 'table_id', driver.tables[name] ?? 0, 0)),
  );
}

/** A command with an opcode that has no name. */
function raw(driver: FakeDriver, opcode: number): void {
  driver.commandSlot = 1;
  const entry = commandQueue + 64;
  const seen = driver.events.length;
  driver.memory.fill(0, entry, entry + 64);
  driver.memory[entry] = prm.pciCommandTransport;
  driver.memory.writeUInt32BE(16, entry + 4);
  driver.memory.writeUInt16BE(opcode, entry + 0x10);
  driver.memory.writeUInt32BE(16, entry + prm.commandEntry.byte('outlen'));
  driver.memory[entry + 63] = 1;
  driver.write32(0x18, 2);
  driver.finish('raw', 1, 16, [], true, seen);
}

/** One device for all: a refused command leaves nothing behind. */
const shared = running();

describe('a command that is', () => {
  it.each(commands)('%s: status 0x%x', (_what, expected, run) => {
    const { driver, device } = shared;
    const objects = device.migration.estimate();
    let found: number = status.OK;
    try {
      run(driver);
    } catch (error) {
      if (!(error instanceof CommandFailed)) throw error;
      found = error.status;
      expect(error.syndrome).toBeGreaterThan(0);
      // Refused is refused: nothing was made.
      expect(device.migration.estimate()).toBe(objects);
    }
    expect(found).toBe(expected);
  });

  it('too early: BAD_SYS_STATE', () => {
    const { driver } = bench();
    driver.write32(0x10, 0);
    driver.write32(0x14, commandQueue);
    const early = { status: status.BAD_SYS_STATE_ERR };
    expect(() => driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112)).toThrow(
      expect.objectContaining(early),
    );
    driver.command('ENABLE_HCA');
    driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112);
    expect(() => driver.command('ALLOC_UAR')).toThrow(expect.objectContaining(early));
  });

  it('for a function in another state: BAD_SYS_STATE, and nothing is changed', () => {
    const { driver, device } = bench();
    const wrong = expect.objectContaining({ status: status.BAD_SYS_STATE_ERR });
    const capability = () => {
      const input = Buffer.alloc(prm.setHcaCapIn.size);
      device.core.function.general.copy(input, prm.setHcaCapIn.byte('capability'));
      return driver.command('SET_HCA_CAP', input);
    };
    const init = () => driver.command('INIT_HCA', Buffer.alloc(32));
    driver.write32(0x10, 0);
    driver.write32(0x14, commandQueue);
    for (const early of ['DISABLE_HCA', 'TEARDOWN_HCA'] as const)
      expect(() => driver.command(early)).toThrow(wrong);
    driver.command('ENABLE_HCA');
    expect(() => driver.command('TEARDOWN_HCA')).toThrow(wrong);
    capability();
    init();
    const pd = prm.allocPdOut.get(driver.command('ALLOC_PD'), 'pd');
    expect(init).toThrow(wrong);
    expect(capability).toThrow(wrong);
    expect(device.core.pds.find(pd)).toBeDefined();
    driver.command('TEARDOWN_HCA');
    capability();
    init();
    // As the driver does when a query fails after INIT_HCA.
    driver.command('DISABLE_HCA');
    expect(() => driver.command('DISABLE_HCA')).toThrow(wrong);
  });

  it('too late: BAD_SYS_STATE', () => {
    const { driver } = running();
    const late = expect.objectContaining({ status: status.BAD_SYS_STATE_ERR });
    // Neither has an EQ left to be reported to.
    driver.eventMode = false;
    driver.command('TEARDOWN_HCA');
    expect(() => driver.command('ALLOC_UAR')).toThrow(late);
    driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112);
    driver.command('DISABLE_HCA');
    expect(() => driver.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112)).toThrow(late);
    expect(() => driver.command('INIT_HCA', Buffer.alloc(32))).toThrow(late);
  });

  it('one too many: LIM_ERR, for every kind that can be had without limit otherwise', () => {
    const { driver, device } = running();
    const { core } = device;
    const kinds: readonly [{ readonly size: number; readonly limit: number }, () => unknown][] = [
      [core.pds, () => driver.command('ALLOC_PD')],
      [core.transportDomains, () => driver.command('ALLOC_TRANSPORT_DOMAIN')],
      [core.uars, () => driver.command('ALLOC_UAR')],
      [core.qCounters, () => driver.command('ALLOC_Q_COUNTER')],
      [core.mkeys.table, () => driver.command('CREATE_MKEY', form(272, set(prm.mkc, 'length64', 1, 16)))],
      [
        core.tiss,
        () => driver.command('CREATE_TIS', form(192, set(prm.tisc, 'transport_domain', driver.td, 0x20))),
      ],
      [core.tirs, () => driver.createTir(driver.rqt, false, false, 3)],
      [core.rqts, () => driver.createRqt([driver.dropRq], 1)],
      [core.cqs.table, () => cq(driver)],
      [core.sqs.table, () => sq(driver)],
      [core.steering.tables, () => driver.createTable(20, 1)],
    ];
    for (const [table, make] of kinds) {
      for (let left = table.limit - table.size; left > 0; left--) make();
      expect(make).toThrow(expect.objectContaining({ status: status.LIM_ERR }));
      expect(table.size).toBe(table.limit);
    }
    driver.tables.many = driver.tables.l2 ?? 0;
    const wide = driver.createTable.bind(driver);
    core.steering.tables.delete([...core.steering.tables.values()].at(-1)?.id ?? 0);
    driver.tables.many = wide(20, 20);
    const groups = limits.flowGroups - core.steering.groupCount();
    for (let at = 0; at < groups; at++) driver.createGroup('many', at, at, () => {});
    expect(() => driver.createGroup('many', groups, groups, () => {})).toThrow(
      expect.objectContaining({ status: status.LIM_ERR }),
    );
  });
});

describe('a command whose delivery fails because of', () => {
  const unmapped = memoryBytes + 0x10000;
  const cases: readonly Case[] = [
    ['no input mailbox', delivery.IN_PTR_ALIGN_ERR, (driver) => mailboxes(driver, { in: 0 })],
    [
      'an unaligned input mailbox',
      delivery.IN_PTR_ALIGN_ERR,
      (driver) => mailboxes(driver, { in: 0x200010 }),
    ],
    [
      'an input mailbox beyond 2^53',
      delivery.IN_PTR_ALIGN_ERR,
      (driver) => mailboxes(driver, { in: 2 ** 60 }),
    ],
    ['an input mailbox outside memory', delivery.FW_ERR, (driver) => mailboxes(driver, { in: unmapped })],
    [
      'an input chain too short',
      delivery.IN_PTR_ALIGN_ERR,
      (driver) => mailboxes(driver, { inLength: 1000 }),
    ],
    ['no output mailbox', delivery.OUT_PTR_ALIGN_ERR, (driver) => mailboxes(driver, { out: 0 })],
    [
      'an unaligned output mailbox',
      delivery.OUT_PTR_ALIGN_ERR,
      (driver) => mailboxes(driver, { out: 0x300200 }),
    ],
    ['an output mailbox outside memory', delivery.FW_ERR, (driver) => mailboxes(driver, { out: unmapped })],
    [
      'an output chain too short',
      delivery.OUT_PTR_ALIGN_ERR,
      (driver) => mailboxes(driver, { outLength: 1000 }),
    ],
    ['no input', delivery.IN_LENGTH_ERR, (driver) => mailboxes(driver, { inLength: 7 })],
    ['endless input', delivery.IN_LENGTH_ERR, (driver) => mailboxes(driver, { inLength: 0xffffffff })],
    ['no room for a status', delivery.OUT_LENGTH_ERR, (driver) => mailboxes(driver, { outLength: 0 })],
    ['endless output', delivery.OUT_LENGTH_ERR, (driver) => mailboxes(driver, { outLength: 0x7fffffff })],
    ['another transport', delivery.CMD_DESCR_ERR, (driver) => mailboxes(driver, { type: 6 })],
    ['nothing', delivery.OK, (driver) => mailboxes(driver, {})],
  ];

  it.each(cases)('%s: 0x%x', (_what, expected, run) => {
    const { driver } = shared;
    expect(run(driver)).toBe(expected);
    // The command interface is as good as before.
    driver.commandSlot = 2;
    driver.command('QUERY_VPORT_STATE');
  });

  it('a loop of mailboxes: ends where the length says', () => {
    const { driver } = shared;
    prm.mailboxBlock.set64(driver.memory, 'next', ring, ring);
    expect(mailboxes(driver, { inLength: limits.commandBytes })).toBe(delivery.OK);
    expect(mailboxes(driver, { out: ring, outLength: limits.commandBytes })).toBe(delivery.OK);
  });
});

/** QUERY_HCA_CAP by hand, with one thing wrong; returns the delivery status. */
function mailboxes(
  driver: FakeDriver,
  wrong: { type?: number; inLength?: number; outLength?: number; in?: number; out?: number },
): number {
  const entry = driver.memory.subarray(commandQueue + 64, commandQueue + 128);
  entry.fill(0);
  entry[0] = wrong.type ?? prm.pciCommandTransport;
  prm.commandEntry.set(entry, 'inlen', wrong.inLength ?? 64);
  prm.commandEntry.set(entry, 'outlen', wrong.outLength ?? 64);
  prm.commandEntry.set64(entry, 'in_ptr', wrong.in ?? ring);
  prm.commandEntry.set64(entry, 'out_ptr', wrong.out ?? 0x300000);
  entry.writeUInt16BE(prm.opcode.NOP, prm.commandEntry.byte('in'));
  entry[63] = 1;
  driver.write32(0x18, 2);
  driver.poll();
  return (entry[63] ?? 0xff) >>> 1;
}
