import type { Mlx5Core } from '../core.ts';
import { limits } from '../limits.ts';
import {
  createRqIn,
  createRqOut,
  createSqIn,
  createSqOut,
  destroyRqIn,
  destroySqIn,
  modifyRqIn,
  modifySqIn,
  queryRqIn,
  queryRqOut,
  querySqIn,
  querySqOut,
  rqc,
  sqc,
  wq as wqLayout,
} from '../prm/index.ts';
import { unused } from '../references.ts';
import { require } from '../refusal.ts';
import { ReceiveQueue } from '../rq.ts';
import { SendQueue } from '../sq.ts';
import {
  type QueueState,
  queueState,
  readWorkQueue,
  type WorkQueueSettings,
  wqType,
  writeWorkQueue,
} from '../work-queue.ts';
import { command, requirePd, requireZero } from './command.ts';

const sendStride = { min: 6, max: 6 } as const;
/** `MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_*`. */
const rqModify = { VSD: 1 << 1, SCATTER_FCS: 1 << 2, RQ_COUNTER_SET_ID: 1 << 3 } as const;
const memRqInline = 0;
/** `ts_format`: without `sq_ts_format` and `rq_ts_format` there is only the clock of the initialization segment. */
const timestampFormat = { FREE_RUNNING: 0, DEFAULT: 1, REAL_TIME: 2 } as const;

/** State changes that MODIFY_SQ and MODIFY_RQ may ask for (PRM "SQ/RQ state machine"). */
const transitions: Readonly<Record<QueueState, readonly number[]>> = {
  [queueState.RST]: [queueState.RST, queueState.RDY],
  [queueState.RDY]: [queueState.RDY, queueState.RST, queueState.ERR],
  [queueState.ERR]: [queueState.ERR, queueState.RST],
};

/** Checks "from" against the queue and "to" against the table. */
function newState(current: QueueState, claimed: number, wanted: number): QueueState {
  require(claimed === current, 'badState', `queue is in state ${current}, not ${claimed}`);
  require(transitions[current].includes(wanted), 'badState', `state ${current} to ${wanted}`);
  return wanted as QueueState;
}

/** The WQ of a queue, of a PD that there is or of none, as Linux makes the RQ that drops everything. */
function readOffered(
  core: Mlx5Core,
  input: Buffer,
  at: number,
  stride: { readonly min: number; readonly max: number },
): WorkQueueSettings {
  requireZero(wqLayout, input, at, 'wq_signature', 'dbr_umem_valid', 'wq_umem_valid');
  requireZero(wqLayout, input, at, 'two_byte_shift_en', 'shampo_enable');
  const settings = readWorkQueue(input, at, stride);
  requirePd(core, settings.pd);
  return settings;
}

/** The counter set of an RQ context; 0 for none. */
function readCounterSet(core: Mlx5Core, input: Buffer, at: number): number {
  const id = rqc.get(input, 'counter_set_id', at);
  require(id === 0 || core.qCounters.find(id) !== undefined, 'badDestination', `counter set ${id}`);
  return id;
}

function createSq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const at = createSqIn.byte('ctx');
  const cqn = sqc.get(input, 'cqn', at);
  const tises = sqc.get(input, 'tis_lst_sz', at);
  const tisn = tises === 0 ? 0 : sqc.get(input, 'tis_num_0', at);
  require(core.cqs.table.find(cqn) !== undefined, 'badDestination', `CQ ${cqn}`);
  require(tises <= 1, 'badSize', `${tises} TISes`);
  require(tises === 0 || core.tiss.find(tisn) !== undefined, 'badDestination', `TIS ${tisn}`);
  requireZero(sqc, input, at, 'hairpin', 'allow_multi_pkt_send_wqe', 'reg_umr', 'allow_swp', 'cd_master');
  requireZero(sqc, input, at, 'ts_cqe_to_dest_cqn', 'packet_pacing_rate_limit_index', 'qos_queue_group_id');
  require(sqc.get(input, 'ts_format', at) !== timestampFormat.REAL_TIME, 'unsupportedType', 'ts_format');
  require(sqc.get(input, 'state', at) === queueState.RST, 'badState', 'a queue is created in state RST');
  const wq = readOffered(core, input, at + sqc.byte('wq'), sendStride);
  require(wq.wqType === wqType.CYCLIC, 'unsupportedType', `wq_type ${wq.wqType}`);
  const uarPage = wqLayout.get(input, 'uar_page', at + sqc.byte('wq'));
  require(core.uars.find(uarPage) !== undefined, 'badUar', `UAR ${uarPage}`);
  const id = core.sqs.table.allocate();
  core.sqs.table.add(
    new SendQueue(id, {
      wq,
      cqn,
      tisn,
      flushInError: sqc.get(input, 'flush_in_error_en', at) === 1,
      minInlineMode: sqc.get(input, 'min_wqe_inline_mode', at),
      userIndex: sqc.get(input, 'user_index', at),
      uarPage,
    }),
  );
  createSqOut.set(output, 'sqn', id);
}

function modifySq(core: Mlx5Core, input: Buffer): void {
  const sq = core.sqs.table.get(modifySqIn.get(input, 'sqn'));
  // Rates and groups, which are not offered.
  require(modifySqIn.get64(input, 'modify_bitmask') === 0, 'badModifyMask', 'MODIFY_SQ mask');
  const wanted = sqc.get(input, 'state', modifySqIn.byte('ctx'));
  sq.setState(newState(sq.state, modifySqIn.get(input, 'sq_state'), wanted));
}

function querySq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const sq = core.sqs.table.get(querySqIn.get(input, 'sqn'));
  const at = querySqOut.byte('sq_context');
  const { settings } = sq;
  sqc.set(output, 'state', sq.state, at);
  sqc.set(output, 'flush_in_error_en', settings.flushInError ? 1 : 0, at);
  sqc.set(output, 'min_wqe_inline_mode', settings.minInlineMode, at);
  sqc.set(output, 'user_index', settings.userIndex, at);
  sqc.set(output, 'cqn', settings.cqn, at);
  sqc.set(output, 'tis_lst_sz', settings.tisn === 0 ? 0 : 1, at);
  sqc.set(output, 'tis_num_0', settings.tisn, at);
  writeWorkQueue(output, at + sqc.byte('wq'), settings.wq, { hw: sq.ci, sw: sq.ci });
  wqLayout.set(output, 'uar_page', settings.uarPage ?? 0, at + sqc.byte('wq'));
}

function createRq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const at = createRqIn.byte('ctx');
  const cqn = rqc.get(input, 'cqn', at);
  require(core.cqs.table.find(cqn) !== undefined, 'badDestination', `CQ ${cqn}`);
  require(rqc.get(input, 'mem_rq_type', at) === memRqInline, 'unsupportedType', 'mem_rq_type');
  requireZero(rqc, input, at, 'hairpin', 'delay_drop_en', 'scatter_fcs');
  require(rqc.get(input, 'ts_format', at) !== timestampFormat.REAL_TIME, 'unsupportedType', 'ts_format');
  const counterSetId = readCounterSet(core, input, at);
  require(rqc.get(input, 'state', at) === queueState.RST, 'badState', 'a queue is created in state RST');
  const wq = readOffered(core, input, at + rqc.byte('wq'), limits.logReceiveStride);
  require(wq.wqType === wqType.CYCLIC, 'unsupportedType', `wq_type ${wq.wqType}`);
  const id = core.rqs.table.allocate();
  const rq = new ReceiveQueue(id, {
    wq,
    cqn,
    flushInError: rqc.get(input, 'flush_in_error_en', at) === 1,
    userIndex: rqc.get(input, 'user_index', at),
  });
  rq.vsd = rqc.get(input, 'vsd', at) === 1;
  rq.counterSetId = counterSetId;
  core.rqs.table.add(rq);
  createRqOut.set(output, 'rqn', id);
}

function modifyRq(core: Mlx5Core, input: Buffer): void {
  const rq = core.rqs.table.get(modifyRqIn.get(input, 'rqn'));
  const at = modifyRqIn.byte('ctx');
  const mask = modifyRqIn.get64(input, 'modify_bitmask');
  const supported = rqModify.VSD | rqModify.SCATTER_FCS | rqModify.RQ_COUNTER_SET_ID;
  require(mask <= supported && (mask & ~supported) === 0, 'badModifyMask', `MODIFY_RQ mask ${mask}`);
  const scatterFcs = (mask & rqModify.SCATTER_FCS) !== 0 && rqc.get(input, 'scatter_fcs', at) === 1;
  require(!scatterFcs, 'unsupportedType', 'scatter FCS');
  const counterSetId =
    (mask & rqModify.RQ_COUNTER_SET_ID) === 0 ? rq.counterSetId : readCounterSet(core, input, at);
  const state = newState(rq.state, modifyRqIn.get(input, 'rq_state'), rqc.get(input, 'state', at));
  if ((mask & rqModify.VSD) !== 0) rq.vsd = rqc.get(input, 'vsd', at) === 1;
  rq.counterSetId = counterSetId;
  if (state !== rq.state) core.rqs.setState(rq, state);
  rq.touch();
}

function queryRq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const rq = core.rqs.table.get(queryRqIn.get(input, 'rqn'));
  const at = queryRqOut.byte('rq_context');
  const { settings } = rq;
  rqc.set(output, 'state', rq.state, at);
  rqc.set(output, 'vsd', rq.vsd ? 1 : 0, at);
  rqc.set(output, 'flush_in_error_en', settings.flushInError ? 1 : 0, at);
  rqc.set(output, 'user_index', settings.userIndex, at);
  rqc.set(output, 'cqn', settings.cqn, at);
  rqc.set(output, 'counter_set_id', rq.counterSetId, at);
  writeWorkQueue(output, at + rqc.byte('wq'), settings.wq, { hw: rq.ci, sw: rq.pi });
}

/** Send and receive queues. */
export const workQueueCommands = [
  command('CREATE_SQ', createSqIn, createSqOut, createSq),
  command('MODIFY_SQ', modifySqIn, undefined, modifySq),
  command('DESTROY_SQ', destroySqIn, undefined, (core, input) => {
    core.sqs.table.delete(destroySqIn.get(input, 'sqn'));
  }),
  command('QUERY_SQ', querySqIn, querySqOut, querySq),
  command('CREATE_RQ', createRqIn, createRqOut, createRq),
  command('MODIFY_RQ', modifyRqIn, undefined, modifyRq),
  command('DESTROY_RQ', destroyRqIn, undefined, (core, input) => {
    core.rqs.table.delete(unused(core, core.rqs.table, destroyRqIn.get(input, 'rqn')));
  }),
  command('QUERY_RQ', queryRqIn, queryRqOut, queryRq),
];
