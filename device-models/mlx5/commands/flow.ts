import type { Mlx5Core } from '../core.ts';
import { limits } from '../limits.ts';
import {
  commandStatus,
  createFlowGroupIn,
  createFlowGroupOut,
  createFlowTableIn,
  createFlowTableOut,
  deleteFteIn,
  destFormatStruct,
  destroyFlowGroupIn,
  destroyFlowTableIn,
  flowContext,
  flowTableContext,
  modifyFlowTableIn,
  queryFlowTableIn,
  queryFlowTableOut,
  queryFteIn,
  queryFteOut,
  setFlowTableRootIn,
  setFteIn,
} from '../prm/index.ts';
import { unused } from '../references.ts';
import { badParam, CommandRefused, inUse, require, syndrome } from '../refusal.ts';
import { matchWords } from '../steering/match.ts';
import {
  type Destination,
  destinationType,
  type FlowEntry,
  FlowTable,
  flowAction,
  flowEntry,
  missAction,
  tableType,
} from '../steering/tables.ts';
import { command, opMod, requireZero } from './command.ts';

/** `match_criteria_enable`: outer headers are all that can be matched. */
const matchOuter = 1;
const modifyMissTable = 1;
const rootOpMod = { ENABLE: 0, DISABLE: 1 } as const;
const fteOpMod = { ADD: 0, MODIFY: 1 } as const;
/** `modify_enable_mask` of SET_FLOW_TABLE_ENTRY (`MLX5_SET_FTE_MODIFY_ENABLE_MASK_*`). */
const fteModify = { ACTION: 1, FLOW_TAG: 2, DESTINATION_LIST: 4, FLOW_COUNTERS: 8 } as const;
const allFteModify =
  fteModify.ACTION | fteModify.FLOW_TAG | fteModify.DESTINATION_LIST | fteModify.FLOW_COUNTERS;
/** Without `flow_counter` nothing is counted. */
const supportedActions = flowAction.ALLOW | flowAction.DROP | flowAction.FWD_DEST;

function requireNicReceive(type: number, otherVport: number): void {
  require(otherVport === 0, 'otherFunction', 'another vport');
  require(type === tableType.NIC_RX, 'unsupportedType', `table type ${type}`);
}

function readWords(input: Buffer, at: number): Uint32Array {
  const words = new Uint32Array(matchWords);
  for (let index = 0; index < matchWords; index++) words[index] = input.readUInt32BE(at + 4 * index);
  return words;
}

/** Frames only ever go to higher levels, so that no path is a loop. */
function requireHigher(table: FlowTable, level: number): void {
  require(table.level > level, 'badLevel', `level ${level} to level ${table.level}`);
}

/** Miss action and table of a flow table context, checked against the `level` of the table that they are for. */
function readMiss(
  core: Mlx5Core,
  input: Buffer,
  at: number,
  level: number,
): { action: number; table: number } {
  const action = flowTableContext.get(input, 'table_miss_action', at);
  const id = flowTableContext.get(input, 'table_miss_id', at);
  if (action === missAction.DEFAULT) return { action, table: 0 };
  require(action === missAction.FWD, 'badAction', `table_miss_action ${action}`);
  const table = core.steering.tables.find(id);
  require(table !== undefined, 'badDestination', `flow table ${id}`);
  requireHigher(table, level);
  return { action, table: id };
}

function createFlowTable(core: Mlx5Core, input: Buffer, output: Buffer): void {
  requireNicReceive(createFlowTableIn.get(input, 'table_type'), createFlowTableIn.get(input, 'other_vport'));
  const at = createFlowTableIn.byte('flow_table_context');
  const level = flowTableContext.get(input, 'level', at);
  const logSize = flowTableContext.get(input, 'log_size', at);
  require(logSize <= limits.logFlowTableSize, 'badSize', `flow table log_size ${logSize}`);
  requireZero(flowTableContext, input, at, 'reformat_en', 'decap_en', 'sw_owner', 'termination_table');
  const miss = readMiss(core, input, at, level);
  const { tables } = core.steering;
  const table = tables.add(new FlowTable(tables.allocate(), level, logSize, miss));
  createFlowTableOut.set(output, 'table_id', table.id);
}

function modifyFlowTable(core: Mlx5Core, input: Buffer): void {
  requireNicReceive(modifyFlowTableIn.get(input, 'table_type'), modifyFlowTableIn.get(input, 'other_vport'));
  const table = core.steering.tables.get(modifyFlowTableIn.get(input, 'table_id'));
  const select = modifyFlowTableIn.get(input, 'modify_field_select');
  require(select === modifyMissTable, 'badModifyMask', `modify_field_select ${select}`);
  const miss = readMiss(core, input, modifyFlowTableIn.byte('flow_table_context'), table.level);
  table.setMiss(miss.action, miss.table);
}

function destroyFlowTable(core: Mlx5Core, input: Buffer): void {
  requireNicReceive(
    destroyFlowTableIn.get(input, 'table_type'),
    destroyFlowTableIn.get(input, 'other_vport'),
  );
  const { tables } = core.steering;
  const id = unused(core, tables, destroyFlowTableIn.get(input, 'table_id'));
  if (tables.get(id).groups.size > 0) throw inUse(`flow table ${id}`, 'its groups');
  tables.delete(id);
  if (core.steering.root === id) core.steering.root = undefined;
}

function setFlowTableRoot(core: Mlx5Core, input: Buffer): void {
  requireNicReceive(
    setFlowTableRootIn.get(input, 'table_type'),
    setFlowTableRootIn.get(input, 'other_vport'),
  );
  const id = setFlowTableRootIn.get(input, 'table_id');
  const mode = opMod(input);
  require(mode <= rootOpMod.DISABLE, 'unsupportedType', `SET_FLOW_TABLE_ROOT op_mod ${mode}`);
  require(setFlowTableRootIn.get(input, 'underlay_qpn') === 0, 'unsupportedType', 'underlay QP');
  core.steering.root = mode === rootOpMod.ENABLE ? core.steering.tables.get(id).id : undefined;
}

function createFlowGroup(core: Mlx5Core, input: Buffer, output: Buffer): void {
  requireNicReceive(createFlowGroupIn.get(input, 'table_type'), createFlowGroupIn.get(input, 'other_vport'));
  const table = core.steering.tables.get(createFlowGroupIn.get(input, 'table_id'));
  requireZero(
    createFlowGroupIn,
    input,
    0,
    'group_type',
    'match_definer_id',
    'source_eswitch_owner_vhca_id_valid',
  );
  const enable = createFlowGroupIn.get(input, 'match_criteria_enable');
  require((enable & ~matchOuter) === 0, 'badMatch', `match_criteria_enable ${enable}`);
  const mask = readWords(input, createFlowGroupIn.byte('match_criteria'));
  if (enable === 0) mask.fill(0);
  const start = createFlowGroupIn.get(input, 'start_flow_index');
  const end = createFlowGroupIn.get(input, 'end_flow_index');
  if (core.steering.groupCount() >= limits.flowGroups) {
    throw new CommandRefused(commandStatus.LIM_ERR, syndrome.tooManyObjects, 'too many flow groups');
  }
  createFlowGroupOut.set(output, 'group_id', table.addGroup(start, end, mask).id);
}

function destroyFlowGroup(core: Mlx5Core, input: Buffer): void {
  requireNicReceive(
    destroyFlowGroupIn.get(input, 'table_type'),
    destroyFlowGroupIn.get(input, 'other_vport'),
  );
  const table = core.steering.tables.get(destroyFlowGroupIn.get(input, 'table_id'));
  table.deleteGroup(destroyFlowGroupIn.get(input, 'group_id'));
}

/** The destination list of the flow context at byte `at`. */
function readDestinations(core: Mlx5Core, input: Buffer, at: number, from: FlowTable): Destination[] {
  const count = flowContext.get(input, 'destination_list_size', at);
  const list = at + flowContext.byte('destination');
  require(count <= limits.flowDestinations, 'badSize', `${count} destinations`);
  require(input.length >= list + count * destFormatStruct.size, 'badPageList', 'destination list is cut off');
  require(flowContext.get(input, 'extended_destination', at) ===
    0, 'unsupportedType', 'extended destinations');
  const destinations: Destination[] = [];
  for (let index = 0; index < count; index++) {
    const entry = list + index * destFormatStruct.size;
    const type = destFormatStruct.get(input, 'destination_type', entry);
    const id = destFormatStruct.get(input, 'destination_id', entry);
    if (type === destinationType.TIR) {
      require(core.tirs.find(id) !== undefined, 'badDestination', `TIR ${id}`);
    } else {
      require(type === destinationType.FLOW_TABLE, 'badDestination', `destination type ${type}`);
      const table = core.steering.tables.find(id);
      require(table !== undefined, 'badDestination', `flow table ${id}`);
      requireHigher(table, from.level);
    }
    requireZero(destFormatStruct, input, entry, 'destination_eswitch_owner_vhca_id_valid', 'packet_reformat');
    destinations.push({ type, id });
  }
  return destinations;
}

/** What the flow context at byte `at` says of the fields in `mask`; nothing is read of the others. */
function readFlowContext(
  core: Mlx5Core,
  input: Buffer,
  at: number,
  table: FlowTable,
  mask: number,
): Partial<Pick<FlowEntry, 'action' | 'flowTag' | 'destinations'>> {
  const action = flowContext.get(input, 'action', at);
  const given = (field: number): boolean => (mask & field) !== 0;
  if (given(fteModify.ACTION)) {
    require((action & ~supportedActions) === 0, 'badAction', `flow action 0x${action.toString(16)}`);
  }
  if (given(fteModify.FLOW_COUNTERS)) {
    require(flowContext.get(input, 'flow_counter_list_size', at) === 0, 'unsupportedType', 'flow counters');
  }
  return {
    ...(given(fteModify.ACTION) && { action }),
    ...(given(fteModify.FLOW_TAG) && { flowTag: flowContext.get(input, 'flow_tag', at) }),
    ...(given(fteModify.DESTINATION_LIST) && { destinations: readDestinations(core, input, at, table) }),
  };
}

function requireAgreement({ action, destinations }: Pick<FlowEntry, 'action' | 'destinations'>): void {
  const forwards = (action & flowAction.FWD_DEST) !== 0;
  require(forwards === destinations.length > 0, 'badDestination', 'action and destinations do not agree');
}

function setFlowTableEntry(core: Mlx5Core, input: Buffer): void {
  requireNicReceive(setFteIn.get(input, 'table_type'), setFteIn.get(input, 'other_vport'));
  const table = core.steering.tables.get(setFteIn.get(input, 'table_id'));
  const at = setFteIn.byte('flow_context');
  const index = setFteIn.get(input, 'flow_index');
  const group = table.group(flowContext.get(input, 'group_id', at));
  require(index >= group.start && index <= group.end, 'badIndex', `flow index ${index}`);
  requireZero(setFteIn, input, 0, 'ignore_flow_level');
  const old = table.entryAt(index);
  if (opMod(input) === fteOpMod.MODIFY) {
    if (old === undefined) {
      throw new CommandRefused(commandStatus.BAD_RES_ERR, syndrome.noSuchObject, `no flow entry ${index}`);
    }
    const mask = setFteIn.get(input, 'modify_enable_mask');
    require((mask & ~allFteModify) === 0, 'badModifyMask', `SET_FLOW_TABLE_ENTRY mask ${mask}`);
    const changed = { ...old, ...readFlowContext(core, input, at, table, mask) };
    requireAgreement(changed);
    table.setEntry(flowEntry(group, changed));
    return;
  }
  require(opMod(input) === fteOpMod.ADD, 'unsupportedType', `SET_FLOW_TABLE_ENTRY op_mod ${opMod(input)}`);
  const {
    action = 0,
    flowTag = 0,
    destinations = [],
  } = readFlowContext(core, input, at, table, allFteModify);
  requireAgreement({ action, destinations });
  if (old === undefined && core.steering.entryCount() >= limits.flowEntries) {
    throw new CommandRefused(commandStatus.LIM_ERR, syndrome.tooManyObjects, 'too many flow entries');
  }
  const value = readWords(input, at + flowContext.byte('match_value'));
  table.setEntry(flowEntry(group, { index, groupId: group.id, action, flowTag, destinations, value }));
}

function queryFlowTableEntry(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const table = core.steering.tables.get(queryFteIn.get(input, 'table_id'));
  const index = queryFteIn.get(input, 'flow_index');
  const entry = table.entryAt(index);
  if (entry === undefined) throw badParam('badIndex', `no flow entry ${index}`);
  const at = queryFteOut.byte('flow_context');
  flowContext.set(output, 'group_id', entry.groupId, at);
  flowContext.set(output, 'flow_tag', entry.flowTag, at);
  flowContext.set(output, 'action', entry.action, at);
  flowContext.set(output, 'destination_list_size', entry.destinations.length, at);
}

/** Flow tables, groups, entries and the root. */
export const flowCommands = [
  command('CREATE_FLOW_TABLE', createFlowTableIn, createFlowTableOut, createFlowTable),
  command('MODIFY_FLOW_TABLE', modifyFlowTableIn, undefined, modifyFlowTable),
  command('DESTROY_FLOW_TABLE', destroyFlowTableIn, undefined, destroyFlowTable),
  command('QUERY_FLOW_TABLE', queryFlowTableIn, queryFlowTableOut, (core, input, output) => {
    const table = core.steering.tables.get(queryFlowTableIn.get(input, 'table_id'));
    const at = queryFlowTableOut.byte('flow_table_context');
    flowTableContext.set(output, 'level', table.level, at);
    flowTableContext.set(output, 'log_size', table.logSize, at);
    flowTableContext.set(output, 'table_miss_action', table.missAction, at);
    flowTableContext.set(output, 'table_miss_id', table.missTable, at);
  }),
  command('SET_FLOW_TABLE_ROOT', setFlowTableRootIn, undefined, setFlowTableRoot),
  command('CREATE_FLOW_GROUP', createFlowGroupIn, createFlowGroupOut, createFlowGroup),
  command('DESTROY_FLOW_GROUP', destroyFlowGroupIn, undefined, destroyFlowGroup),
  command('SET_FLOW_TABLE_ENTRY', setFteIn, undefined, setFlowTableEntry),
  command('QUERY_FLOW_TABLE_ENTRY', queryFteIn, queryFteOut, queryFlowTableEntry),
  command('DELETE_FLOW_TABLE_ENTRY', deleteFteIn, undefined, (core, input) => {
    requireNicReceive(deleteFteIn.get(input, 'table_type'), deleteFteIn.get(input, 'other_vport'));
    const table = core.steering.tables.get(deleteFteIn.get(input, 'table_id'));
    table.deleteEntry(deleteFteIn.get(input, 'flow_index'));
  }),
];
