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
import { type QueueState, queueState, readWorkQueue, wqType, writeWorkQueue } from '../work-queue.ts';
import { command } from './command.ts';

const sendStride = { min: 6, max: 6 } as const;
/** `MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_*`. */
const rqModify = { VSD: 1 << 1, SCATTER_FCS: 1 << 2, RQ_COUNTER_SET_ID: 1 << 3 } as const;
const memRqInline = 0;

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

function createSq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const at = createSqIn.byte('ctx');
  const cqn = sqc.get(input, 'cqn', at);
  const tises = sqc.get(input, 'tis_lst_sz', at);
  const tisn = tises === 0 ? 0 : sqc.get(input, 'tis_num_0', at);
  require(core.cqs.table.find(cqn) !== undefined, 'badDestination', `CQ ${cqn}`);
  require(tises <= 1, 'badSize', `${tises} TISes`);
  require(tises === 0 || core.tiss.find(tisn) !== undefined, 'badDestination', `TIS ${tisn}`);
  require(sqc.get(input, 'hairpin', at) === 0, 'unsupportedType', 'hairpin queue');
  require(sqc.get(input, 'state', at) === queueState.RST, 'badState', 'a queue is created in state RST');
  const wq = readWorkQueue(input, at + sqc.byte('wq'), sendStride);
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
  require(rqc.get(input, 'hairpin', at) === 0, 'unsupportedType', 'hairpin queue');
  require(rqc.get(input, 'state', at) === queueState.RST, 'badState', 'a queue is created in state RST');
  const wq = readWorkQueue(input, at + rqc.byte('wq'), limits.logReceiveStride);
  require(wq.wqType === wqType.CYCLIC, 'unsupportedType', `wq_type ${wq.wqType}`);
  const id = core.rqs.table.allocate();
  const rq = new ReceiveQueue(id, {
    wq,
    cqn,
    flushInError: rqc.get(input, 'flush_in_error_en', at) === 1,
    userIndex: rqc.get(input, 'user_index', at),
  });
  rq.vsd = rqc.get(input, 'vsd', at) === 1;
  rq.counterSetId = rqc.get(input, 'counter_set_id', at);
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
  const state = newState(rq.state, modifyRqIn.get(input, 'rq_state'), rqc.get(input, 'state', at));
  if ((mask & rqModify.VSD) !== 0) rq.vsd = rqc.get(input, 'vsd', at) === 1;
  if ((mask & rqModify.RQ_COUNTER_SET_ID) !== 0) rq.counterSetId = rqc.get(input, 'counter_set_id', at);
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
