import { BareObject, type Mlx5Core } from '../core.ts';
import { QueueCounter } from '../counters.ts';
import { anyQueue, Mkey, mkeyAccessMode } from '../mkeys.ts';
import type { ObjectTable } from '../objects.ts';
import {
  allocPdOut,
  allocQCounterOut,
  allocTransportDomainOut,
  allocUarOut,
  createMkeyIn,
  createMkeyOut,
  deallocPdIn,
  deallocQCounterIn,
  deallocTransportDomainIn,
  deallocUarIn,
  destroyMkeyIn,
  mkc,
  queryMkeyIn,
  queryMkeyOut,
  queryQCounterIn,
  queryQCounterOut,
} from '../prm/index.ts';
import { unused } from '../references.ts';
import { require } from '../refusal.ts';
import { Uar } from '../uar.ts';
import { command, requirePd, requireZero } from './command.ts';

function allocateBare(table: ObjectTable<BareObject>): number {
  return table.add(new BareObject(table.allocate())).id;
}

function createMkey(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const at = createMkeyIn.byte('memory_key_mkey_entry');
  const accessMode = mkc.get(input, 'access_mode_1_0', at) | (mkc.get(input, 'access_mode_4_2', at) << 2);
  require(accessMode === mkeyAccessMode.PA, 'unsupportedType', `mkey access mode ${accessMode}`);
  // One that is free would wait for UMR to put it to use.
  requireZero(mkc, input, at, 'free', 'umr_en', 'bsf_en', 'translations_octword_size');
  requireZero(createMkeyIn, input, 0, 'pg_access', 'mkey_umem_valid', 'translations_octword_actual_size');
  const pd = mkc.get(input, 'pd', at);
  requirePd(core, pd);
  const start = mkc.get64(input, 'start_addr', at);
  const length = mkc.get64(input, 'len', at);
  const wholeSpace = mkc.get(input, 'length64', at) === 1;
  require(wholeSpace || Number.isSafeInteger(start + length), 'badAddress', 'mkey range');
  const qpn = mkc.get(input, 'qpn', at);
  const { table } = core.mkeys;
  const id = table.allocate();
  table.add(
    new Mkey(id, {
      variant: mkc.get(input, 'mkey_7_0', at),
      pd,
      localRead: mkc.get(input, 'lr', at) === 1,
      localWrite: mkc.get(input, 'lw', at) === 1,
      wholeSpace,
      start: wholeSpace ? 0 : start,
      length: wholeSpace ? 0 : length,
      accessMode,
      ...(qpn !== anyQueue && { qpn }),
    }),
  );
  createMkeyOut.set(output, 'mkey_index', id);
}

function queryMkey(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const { settings } = core.mkeys.table.get(queryMkeyIn.get(input, 'mkey_index'));
  const at = queryMkeyOut.byte('memory_key_mkey_entry');
  mkc.set(output, 'qpn', settings.qpn ?? anyQueue, at);
  mkc.set(output, 'mkey_7_0', settings.variant, at);
  mkc.set(output, 'pd', settings.pd, at);
  mkc.set(output, 'lr', settings.localRead ? 1 : 0, at);
  mkc.set(output, 'lw', settings.localWrite ? 1 : 0, at);
  mkc.set(output, 'length64', settings.wholeSpace ? 1 : 0, at);
  mkc.set64(output, 'start_addr', settings.start, at);
  mkc.set64(output, 'len', settings.length, at);
}

function queryQCounter(core: Mlx5Core, input: Buffer, output: Buffer): void {
  const counter = core.qCounters.get(queryQCounterIn.get(input, 'counter_set_id'));
  queryQCounterOut.set(output, 'out_of_buffer', counter.outOfBuffer);
  queryQCounterOut.set(output, 'resp_local_length_error', counter.lengthErrors);
  queryQCounterOut.set(output, 'resp_local_protection', counter.protectionErrors);
  queryQCounterOut.set(output, 'resp_cqe_error', counter.cqeErrors);
  queryQCounterOut.set(output, 'resp_cqe_flush_error', counter.flushErrors);
  if (queryQCounterIn.get(input, 'clear') === 1) {
    counter.outOfBuffer = 0;
    counter.lengthErrors = 0;
    counter.protectionErrors = 0;
    counter.cqeErrors = 0;
    counter.flushErrors = 0;
  }
}

/** UARs, protection and transport domains, memory keys, queue counters. */
export const resourceCommands = [
  command('ALLOC_UAR', undefined, allocUarOut, (core, _input, output) => {
    allocUarOut.set(output, 'uar', core.uars.add(new Uar(core.uars.allocate())).id);
  }),
  command('DEALLOC_UAR', deallocUarIn, undefined, (core, input) => {
    core.uars.delete(unused(core, core.uars, deallocUarIn.get(input, 'uar')));
  }),
  command('ALLOC_PD', undefined, allocPdOut, (core, _input, output) => {
    allocPdOut.set(output, 'pd', allocateBare(core.pds));
  }),
  command('DEALLOC_PD', deallocPdIn, undefined, (core, input) => {
    core.pds.delete(unused(core, core.pds, deallocPdIn.get(input, 'pd')));
  }),
  command('ALLOC_TRANSPORT_DOMAIN', undefined, allocTransportDomainOut, (core, _input, output) => {
    allocTransportDomainOut.set(output, 'transport_domain', allocateBare(core.transportDomains));
  }),
  command('DEALLOC_TRANSPORT_DOMAIN', deallocTransportDomainIn, undefined, (core, input) => {
    const { transportDomains } = core;
    const id = deallocTransportDomainIn.get(input, 'transport_domain');
    transportDomains.delete(unused(core, transportDomains, id));
  }),
  command('CREATE_MKEY', createMkeyIn, createMkeyOut, createMkey),
  command('QUERY_MKEY', queryMkeyIn, queryMkeyOut, queryMkey),
  command('DESTROY_MKEY', destroyMkeyIn, undefined, (core, input) => {
    core.mkeys.table.delete(destroyMkeyIn.get(input, 'mkey_index'));
  }),
  command('ALLOC_Q_COUNTER', undefined, allocQCounterOut, (core, _input, output) => {
    const counter = core.qCounters.add(new QueueCounter(core.qCounters.allocate()));
    allocQCounterOut.set(output, 'counter_set_id', counter.id);
  }),
  command('DEALLOC_Q_COUNTER', deallocQCounterIn, undefined, (core, input) => {
    core.qCounters.delete(unused(core, core.qCounters, deallocQCounterIn.get(input, 'counter_set_id')));
  }),
  command('QUERY_Q_COUNTER', queryQCounterIn, queryQCounterOut, queryQCounter),
];
