import type { Mlx5Core } from '../core.ts';
import { CompletionQueue, cqState, logCqeBytes } from '../cq.ts';
import { EventQueue, eqState, logEqeBytes } from '../eq.ts';
import { limits } from '../limits.ts';
import { PagedRing } from '../memory.ts';
import {
  cqc,
  createCqIn,
  createCqOut,
  createEqIn,
  createEqOut,
  destroyCqIn,
  destroyEqIn,
  eqc,
  modifyCqIn,
  queryCqIn,
  queryCqOut,
  queryEqIn,
  queryEqOut,
} from '../prm/index.ts';
import { unused } from '../references.ts';
import { require } from '../refusal.ts';
import { doorbellRecordBytes, isAddress, readPageList } from '../work-queue.ts';
import { command, opMod, requireZero } from './command.ts';

/** `modify_field_select` of MODIFY_CQ (`MLX5_CQ_MODIFY_*`). */
const cqModify = { PERIOD: 1, COUNT: 2, OVERRUN: 4, PERIOD_MODE: 16 } as const;
/** Not offered (`cq_resize`). */
const cqModifyResize = 1;
const cqPeriodMode = { FROM_EQE: 0, FROM_CQE: 1 } as const;
const cqModifySupported = cqModify.PERIOD | cqModify.COUNT | cqModify.PERIOD_MODE;

/** Number of pages of a ring made of 4 KiB pages or larger ones. */
function ringPages(input: Buffer, at: number, logSize: number, logPageSize: number): number[] {
  const count = PagedRing.pagesNeeded(logSize, logCqeBytes, logPageSize);
  return readPageList(input, at, count, logPageSize);
}

function createEq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const at = createEqIn.byte('eq_context_entry');
  const logSize = eqc.get(input, 'log_eq_size', at);
  const intr = eqc.get(input, 'intr', at);
  const uarPage = eqc.get(input, 'uar_page', at);
  require(logSize <= limits.logEqSize, 'badSize', `log_eq_size ${logSize}`);
  require(eqc.get(input, 'log_page_size', at) === 0, 'badSize', 'EQ page size');
  require(eqc.get(input, 'page_offset', at) === 0, 'badPageList', 'page_offset is not supported');
  require(intr < core.vectors, 'badVector', `interrupt vector ${intr}`);
  require(core.uars.find(uarPage) !== undefined, 'badUar', `UAR ${uarPage}`);
  const mask = createEqIn.byte('event_bitmask');
  const count = PagedRing.pagesNeeded(logSize, logEqeBytes);
  const pages = readPageList(input, createEqIn.byte('pas'), count);
  const id = core.eqs.table.allocate();
  core.eqs.add(
    new EventQueue(id, {
      pages,
      logSize,
      intr,
      uarPage,
      maskHigh: input.readUInt32BE(mask),
      maskLow: input.readUInt32BE(mask + 4),
    }),
  );
  createEqOut.set(output, 'eq_number', id);
}

function destroyEq(core: Mlx5Core, input: Buffer): void {
  core.eqs.remove(unused(core, core.eqs.table, destroyEqIn.get(input, 'eq_number')));
}

function queryEq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const eq = core.eqs.table.get(queryEqIn.get(input, 'eq_number'));
  const at = queryEqOut.byte('eq_context_entry');
  eqc.set(output, 'status', eq.status, at);
  eqc.set(output, 'st', eq.armed ? eqState.ARMED : eqState.FIRED, at);
  eqc.set(output, 'log_eq_size', eq.settings.logSize, at);
  eqc.set(output, 'uar_page', eq.settings.uarPage, at);
  eqc.set(output, 'intr', eq.settings.intr, at);
  eqc.set(output, 'consumer_counter', eq.ci, at);
  eqc.set(output, 'producer_counter', eq.pi, at);
}

/** From the last event or from the last CQE: `cq_period_start_from_cqe` offers both. */
function readPeriodMode(input: Buffer, at: number): number {
  const mode = cqc.get(input, 'cq_period_mode', at);
  require(mode <= cqPeriodMode.FROM_CQE, 'unsupportedType', `cq_period_mode ${mode}`);
  return mode;
}

function createCq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const at = createCqIn.byte('cq_context');
  const logSize = cqc.get(input, 'log_cq_size', at);
  const logPageSize = cqc.get(input, 'log_page_size', at);
  const eqn = cqc.get(input, 'c_eqn_or_apu_element', at) & 0xff;
  const uarPage = cqc.get(input, 'uar_page', at);
  const dbr = cqc.get64(input, 'dbr_addr', at);
  require(logSize <= limits.logCqSize, 'badSize', `log_cq_size ${logSize}`);
  require(logPageSize <= 8, 'badSize', 'CQ page size');
  require(cqc.get(input, 'page_offset', at) === 0, 'badPageList', 'page_offset is not supported');
  requireZero(cqc, input, at, 'cqe_sz', 'cqe_comp_en', 'cc', 'scqe_break_moderation_en', 'apu_cq');
  requireZero(cqc, input, at, 'dbr_umem_valid');
  requireZero(createCqIn, input, 0, 'cq_umem_valid');
  const periodMode = readPeriodMode(input, at);
  require(core.eqs.table.find(eqn) !== undefined, 'badDestination', `EQ ${eqn}`);
  require(core.uars.find(uarPage) !== undefined, 'badUar', `UAR ${uarPage}`);
  require(isAddress(dbr, doorbellRecordBytes, doorbellRecordBytes), 'badAddress', 'doorbell record address');
  const pages = ringPages(input, createCqIn.byte('pas'), logSize, logPageSize);
  require(logPageSize === 0 || pages.length > 0, 'badPageList', 'no pages');
  const id = core.cqs.table.allocate();
  const cq = new CompletionQueue(id, {
    pages,
    logSize,
    logPageSize,
    eqn,
    uarPage,
    dbr,
    oi: cqc.get(input, 'oi', at) === 1,
  });
  cq.period = cqc.get(input, 'cq_period', at);
  cq.maxCount = cqc.get(input, 'cq_max_count', at);
  cq.periodMode = periodMode;
  core.cqs.table.add(cq);
  createCqOut.set(output, 'cqn', id);
}

function destroyCq(core: Mlx5Core, input: Buffer): void {
  core.cqs.remove(unused(core, core.cqs.table, destroyCqIn.get(input, 'cqn')));
}

function queryCq(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const cq = core.cqs.table.get(queryCqIn.get(input, 'cqn'));
  const at = queryCqOut.byte('cq_context');
  const armedState = cq.solicitedOnly ? cqState.SOLICITED_ARMED : cqState.ARMED;
  cqc.set(output, 'status', cq.status, at);
  cqc.set(output, 'st', cq.armed ? armedState : cqState.FIRED, at);
  cqc.set(output, 'oi', cq.settings.oi ? 1 : 0, at);
  cqc.set(output, 'cq_period_mode', cq.periodMode, at);
  cqc.set(output, 'log_cq_size', cq.settings.logSize, at);
  cqc.set(output, 'uar_page', cq.settings.uarPage, at);
  cqc.set(output, 'cq_period', cq.period, at);
  cqc.set(output, 'cq_max_count', cq.maxCount, at);
  cqc.set(output, 'c_eqn_or_apu_element', cq.settings.eqn, at);
  cqc.set(output, 'log_page_size', cq.settings.logPageSize, at);
  cqc.set(output, 'consumer_counter', cq.ci, at);
  cqc.set(output, 'producer_counter', cq.pi, at);
  cqc.set64(output, 'dbr_addr', cq.settings.dbr, at);
}

function modifyCq(core: Mlx5Core, input: Buffer): void {
  const cq = core.cqs.table.get(modifyCqIn.get(input, 'cqn'));
  const at = modifyCqIn.byte('cq_context');
  require(opMod(input) !== cqModifyResize, 'unsupportedType', 'resizing a CQ');
  const mask = modifyCqIn.get(input, 'modify_field_select_resize_field_select');
  require((mask & ~cqModifySupported) === 0, 'badModifyMask', `MODIFY_CQ mask ${mask}`);
  const periodMode = (mask & cqModify.PERIOD_MODE) === 0 ? cq.periodMode : readPeriodMode(input, at);
  if ((mask & cqModify.PERIOD) !== 0) cq.period = cqc.get(input, 'cq_period', at);
  if ((mask & cqModify.COUNT) !== 0) cq.maxCount = cqc.get(input, 'cq_max_count', at);
  cq.periodMode = periodMode;
  cq.touch();
  core.cqs.evaluate(cq);
}

/** Event and completion queues. */
export const queueCommands = [
  command('CREATE_EQ', createEqIn, createEqOut, createEq),
  command('DESTROY_EQ', destroyEqIn, undefined, destroyEq),
  command('QUERY_EQ', queryEqIn, queryEqOut, queryEq),
  command('CREATE_CQ', createCqIn, createCqOut, createCq),
  command('DESTROY_CQ', destroyCqIn, undefined, destroyCq),
  command('QUERY_CQ', queryCqIn, queryCqOut, queryCq),
  command('MODIFY_CQ', modifyCqIn, undefined, modifyCq),
];
