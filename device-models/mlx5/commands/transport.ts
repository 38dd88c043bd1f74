import type { Mlx5Core } from '../core.ts';
import { limits } from '../limits.ts';
import {
  createRqtIn,
  createRqtOut,
  createTirIn,
  createTirOut,
  createTisIn,
  createTisOut,
  destroyRqtIn,
  destroyTirIn,
  destroyTisIn,
  modifyRqtIn,
  modifyTirBitmask,
  modifyTirIn,
  modifyTisIn,
  queryRqtIn,
  queryRqtOut,
  queryTirIn,
  queryTirOut,
  queryTisIn,
  queryTisOut,
  rqtc,
  rxHashFieldSelect,
  tirc,
  tisc,
} from '../prm/index.ts';
import { unused } from '../references.ts';
import { require } from '../refusal.ts';
import { dispatchType, hashFunction, Rqt, Tir, type TirSettings } from '../steering/tir.ts';
import { toeplitzKeyBytes } from '../steering/toeplitz.ts';
import { Tis, type TisSettings } from '../tis.ts';
import { command, requirePd, requireZero } from './command.ts';

const rqnMask = 0xffffff;
/** `modify_rqt_in.bitmask`: the list. */
const rqtModifyList = 1;
const tisModifyPrio = 1;

function readTis(input: Buffer, at: number): TisSettings {
  return {
    prio: tisc.get(input, 'prio', at),
    transportDomain: tisc.get(input, 'transport_domain', at),
    pd: tisc.get(input, 'pd', at),
  };
}

function requireDomain(core: Mlx5Core, id: number): void {
  require(core.transportDomains.find(id) !== undefined, 'badDestination', `transport domain ${id}`);
}

function createTis(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const at = createTisIn.byte('ctx');
  const settings = readTis(input, at);
  requireDomain(core, settings.transportDomain);
  requirePd(core, settings.pd);
  requireZero(tisc, input, at, 'tls_en', 'underlay_qpn');
  createTisOut.set(output, 'tisn', core.tiss.add(new Tis(core.tiss.allocate(), settings)).id);
}

function modifyTis(core: Mlx5Core, input: Buffer): void {
  const tis = core.tiss.get(modifyTisIn.get(input, 'tisn'));
  const mask = modifyTisIn.get64(input, 'bitmask');
  require(mask <= 0xff, 'badModifyMask', 'MODIFY_TIS mask');
  const given = readTis(input, modifyTisIn.byte('ctx'));
  if ((mask & tisModifyPrio) !== 0) tis.change({ ...tis.settings, prio: given.prio });
}

/** The TIR context at byte `at`, checked against what exists. */
function readTir(core: Mlx5Core, input: Buffer, at: number): TirSettings {
  const dispType = tirc.get(input, 'disp_type', at);
  const rxHashFn = tirc.get(input, 'rx_hash_fn', at);
  const indirectTable = tirc.get(input, 'indirect_table', at);
  const inlineRqn = tirc.get(input, 'inline_rqn', at);
  const transportDomain = tirc.get(input, 'transport_domain', at);
  requireDomain(core, transportDomain);
  requireZero(tirc, input, at, 'tls_en', 'packet_merge_mask', 'tunneled_offload_en');
  require(rxHashFn <= hashFunction.TOEPLITZ, 'unsupportedType', `rx_hash_fn ${rxHashFn}`);
  if (dispType === dispatchType.INDIRECT) {
    require(core.rqts.find(indirectTable) !== undefined, 'badDestination', `RQT ${indirectTable}`);
  } else {
    require(dispType === dispatchType.DIRECT, 'unsupportedType', `disp_type ${dispType}`);
    require(core.rqs.table.find(inlineRqn) !== undefined, 'badDestination', `RQ ${inlineRqn}`);
  }
  const key = at + tirc.byte('rx_hash_toeplitz_key');
  const selector = at + tirc.byte('rx_hash_field_selector_outer');
  return {
    dispType,
    inlineRqn,
    indirectTable,
    rxHashFn,
    symmetric: tirc.get(input, 'rx_hash_symmetric', at) === 1,
    key: Uint8Array.from(input.subarray(key, key + toeplitzKeyBytes)),
    ipv6: rxHashFieldSelect.get(input, 'l3_prot_type', selector) === 1,
    udp: rxHashFieldSelect.get(input, 'l4_prot_type', selector) === 1,
    selectedFields: rxHashFieldSelect.get(input, 'selected_fields', selector),
    selfLoopback: tirc.get(input, 'self_lb_block', at),
    transportDomain,
  };
}

function createTir(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const settings = readTir(core, input, createTirIn.byte('ctx'));
  createTirOut.set(output, 'tirn', core.tirs.add(new Tir(core.tirs.allocate(), settings)).id);
  core.tirsChanged();
}

function modifyTir(core: Mlx5Core, input: Buffer): void {
  const tir = core.tirs.get(modifyTirIn.get(input, 'tirn'));
  const at = modifyTirIn.byte('ctx');
  const mask = modifyTirIn.byte('bitmask');
  const known = Object.values(modifyTirBitmask.fields).reduce((sum, [bit]) => sum + 2 ** (63 - bit), 0);
  const given = modifyTirIn.get64(input, 'bitmask');
  require(given <= known && (given & ~known) === 0, 'badModifyMask', `MODIFY_TIR mask ${given}`);
  const asks = (name: keyof typeof modifyTirBitmask.fields) => modifyTirBitmask.get(input, name, mask) === 1;
  let settings = tir.settings;
  if (asks('self_lb_en')) settings = { ...settings, selfLoopback: tirc.get(input, 'self_lb_block', at) };
  if (asks('hash')) {
    const key = at + tirc.byte('rx_hash_toeplitz_key');
    const selector = at + tirc.byte('rx_hash_field_selector_outer');
    const rxHashFn = tirc.get(input, 'rx_hash_fn', at);
    require(rxHashFn <= hashFunction.TOEPLITZ, 'unsupportedType', `rx_hash_fn ${rxHashFn}`);
    settings = {
      ...settings,
      rxHashFn,
      symmetric: tirc.get(input, 'rx_hash_symmetric', at) === 1,
      key: Uint8Array.from(input.subarray(key, key + toeplitzKeyBytes)),
      ipv6: rxHashFieldSelect.get(input, 'l3_prot_type', selector) === 1,
      udp: rxHashFieldSelect.get(input, 'l4_prot_type', selector) === 1,
      selectedFields: rxHashFieldSelect.get(input, 'selected_fields', selector),
    };
  }
  if (asks('packet_merge')) {
    require(tirc.get(input, 'packet_merge_mask', at) === 0, 'unsupportedType', 'LRO');
  }
  tir.change(settings);
  core.tirsChanged();
}

function queryTir(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const { settings } = core.tirs.get(queryTirIn.get(input, 'tirn'));
  const at = queryTirOut.byte('tir_context');
  tirc.set(output, 'disp_type', settings.dispType, at);
  tirc.set(output, 'inline_rqn', settings.inlineRqn, at);
  tirc.set(output, 'indirect_table', settings.indirectTable, at);
  tirc.set(output, 'rx_hash_fn', settings.rxHashFn, at);
  tirc.set(output, 'rx_hash_symmetric', settings.symmetric ? 1 : 0, at);
  tirc.set(output, 'self_lb_block', settings.selfLoopback, at);
  tirc.set(output, 'transport_domain', settings.transportDomain, at);
  output.set(settings.key, at + tirc.byte('rx_hash_toeplitz_key'));
  const selector = at + tirc.byte('rx_hash_field_selector_outer');
  rxHashFieldSelect.set(output, 'l3_prot_type', settings.ipv6 ? 1 : 0, selector);
  rxHashFieldSelect.set(output, 'l4_prot_type', settings.udp ? 1 : 0, selector);
  rxHashFieldSelect.set(output, 'selected_fields', settings.selectedFields, selector);
}

/** The RQ numbers of the RQT context at byte `at`, all of them existing. */
function readRqns(core: Mlx5Core, input: Buffer, at: number): number[] {
  const size = rqtc.get(input, 'rqt_actual_size', at);
  const list = at + rqtc.byte('rq_num');
  require(size > 0 && size <= limits.rqtEntries, 'badSize', `rqt_actual_size ${size}`);
  require(input.length >= list + 4 * size, 'badPageList', 'RQ list is cut off');
  const rqns: number[] = [];
  for (let index = 0; index < size; index++) {
    const rqn = input.readUInt32BE(list + 4 * index) & rqnMask;
    require(core.rqs.table.find(rqn) !== undefined, 'badDestination', `RQ ${rqn}`);
    rqns.push(rqn);
  }
  return rqns;
}

function createRqt(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const at = createRqtIn.byte('rqt_context');
  const maxSize = rqtc.get(input, 'rqt_max_size', at);
  requireZero(rqtc, input, at, 'list_q_type', 'rq_vhca_id_format');
  const rqns = readRqns(core, input, at);
  require(maxSize >= rqns.length && maxSize <= limits.rqtEntries, 'badSize', `rqt_max_size ${maxSize}`);
  createRqtOut.set(output, 'rqtn', core.rqts.add(new Rqt(core.rqts.allocate(), maxSize, rqns)).id);
}

function modifyRqt(core: Mlx5Core, input: Buffer): void {
  const rqt = core.rqts.get(modifyRqtIn.get(input, 'rqtn'));
  require(modifyRqtIn.get64(input, 'bitmask') === rqtModifyList, 'badModifyMask', 'MODIFY_RQT mask');
  const rqns = readRqns(core, input, modifyRqtIn.byte('ctx'));
  require(rqns.length <= rqt.maxSize, 'badSize', `${rqns.length} entries`);
  rqt.change(rqns);
}

function queryRqt(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const rqt = core.rqts.get(queryRqtIn.get(input, 'rqtn'));
  const at = queryRqtOut.byte('rqt_context');
  rqtc.set(output, 'rqt_max_size', rqt.maxSize, at);
  rqtc.set(output, 'rqt_actual_size', rqt.rqns.length, at);
  const list = at + rqtc.byte('rq_num');
  rqt.rqns.forEach((rqn, index) => {
    if (list + 4 * index + 4 <= output.length) output.writeUInt32BE(rqn, list + 4 * index);
  });
}

/** TIS, TIR and RQT. */
export const transportCommands = [
  command('CREATE_TIS', createTisIn, createTisOut, createTis),
  command('MODIFY_TIS', modifyTisIn, undefined, modifyTis),
  command('DESTROY_TIS', destroyTisIn, undefined, (core, input) => {
    core.tiss.delete(unused(core, core.tiss, destroyTisIn.get(input, 'tisn')));
  }),
  command('QUERY_TIS', queryTisIn, queryTisOut, (core, input, output) => {
    const { settings } = core.tiss.get(queryTisIn.get(input, 'tisn'));
    const at = queryTisOut.byte('tis_context');
    tisc.set(output, 'prio', settings.prio, at);
    tisc.set(output, 'transport_domain', settings.transportDomain, at);
    tisc.set(output, 'pd', settings.pd, at);
  }),
  command('CREATE_TIR', createTirIn, createTirOut, createTir),
  command('MODIFY_TIR', modifyTirIn, undefined, modifyTir),
  command('DESTROY_TIR', destroyTirIn, undefined, (core, input) => {
    core.tirs.delete(unused(core, core.tirs, destroyTirIn.get(input, 'tirn')));
    core.tirsChanged();
  }),
  command('QUERY_TIR', queryTirIn, queryTirOut, queryTir),
  command('CREATE_RQT', createRqtIn, createRqtOut, createRqt),
  command('MODIFY_RQT', modifyRqtIn, undefined, modifyRqt),
  command('DESTROY_RQT', destroyRqtIn, undefined, (core, input) => {
    core.rqts.delete(unused(core, core.rqts, destroyRqtIn.get(input, 'rqtn')));
  }),
  command('QUERY_RQT', queryRqtIn, queryRqtOut, queryRqt),
];
