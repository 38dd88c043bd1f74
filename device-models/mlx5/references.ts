import type { Mlx5Core } from './core.ts';
import type { DeviceObject, ObjectTable } from './objects.ts';
import { inUse } from './refusal.ts';
import type { FlowTable } from './steering/tables.ts';
import { destinationType, missAction } from './steering/tables.ts';
import { dispatchType } from './steering/tir.ts';

type Table<T extends DeviceObject = DeviceObject> = (core: Mlx5Core) => ObjectTable<T>;

/** Objects of `from` refer to objects of `to`. */
interface Reference<T extends DeviceObject = DeviceObject> {
  from(core: Mlx5Core): ObjectTable<T>;
  to(core: Mlx5Core): ObjectTable<DeviceObject>;
  /** Whether `object` refers to the one with `id`. */
  holds(object: T, id: number): boolean;
}

function reference<T extends DeviceObject>(
  from: Table<T>,
  to: Table,
  holds: (object: T, id: number) => boolean,
): Reference {
  return { from, to, holds } as Reference<T> as unknown as Reference;
}

const uars: Table = (core) => core.uars;
const pds: Table = (core) => core.pds;
const transportDomains: Table = (core) => core.transportDomains;
const counterSets: Table = (core) => core.qCounters;
const eqs = (core: Mlx5Core) => core.eqs.table;
const cqs = (core: Mlx5Core) => core.cqs.table;
const sqs = (core: Mlx5Core) => core.sqs.table;
const rqs = (core: Mlx5Core) => core.rqs.table;
const mkeys = (core: Mlx5Core) => core.mkeys.table;
const tiss = (core: Mlx5Core) => core.tiss;
const rqts = (core: Mlx5Core) => core.rqts;
const tirs = (core: Mlx5Core) => core.tirs;
const flowTables = (core: Mlx5Core) => core.steering.tables;

function forwards({ entries }: FlowTable, type: number, id: number): boolean {
  return entries.some(({ destinations }) => destinations.some((to) => to.type === type && to.id === id));
}

/**
 * Who refers to what. Looked up when an object is to go, which is seldom and within the limits of what there may be: a
 * state that was loaded needs no counters, and one of an older version may refer to what is gone.
 *
 * The root flow table is no reference: a driver destroys its last table without having disabled the root first.
 */
const references: readonly Reference[] = [
  reference(eqs, uars, ({ settings }, id) => settings.uarPage === id),
  reference(cqs, uars, ({ settings }, id) => settings.uarPage === id),
  reference(sqs, uars, ({ settings }, id) => settings.uarPage === id),
  reference(cqs, eqs, ({ settings }, id) => settings.eqn === id),
  reference(sqs, cqs, ({ settings }, id) => settings.cqn === id),
  reference(rqs, cqs, ({ settings }, id) => settings.cqn === id),
  reference(sqs, pds, ({ settings }, id) => settings.wq.pd === id),
  reference(rqs, pds, ({ settings }, id) => settings.wq.pd === id),
  reference(mkeys, pds, ({ settings }, id) => settings.pd === id),
  reference(sqs, tiss, ({ settings }, id) => settings.tisn === id),
  reference(rqs, counterSets, ({ counterSetId }, id) => counterSetId === id),
  reference(tiss, transportDomains, ({ settings }, id) => settings.transportDomain === id),
  reference(tirs, transportDomains, ({ settings }, id) => settings.transportDomain === id),
  reference(rqts, rqs, ({ rqns }, id) => rqns.includes(id)),
  reference(
    tirs,
    rqs,
    ({ settings }, id) => settings.dispType === dispatchType.DIRECT && settings.inlineRqn === id,
  ),
  reference(
    tirs,
    rqts,
    ({ settings }, id) => settings.dispType === dispatchType.INDIRECT && settings.indirectTable === id,
  ),
  reference(flowTables, tirs, (table, id) => forwards(table, destinationType.TIR, id)),
  reference(flowTables, flowTables, (table, id) => forwards(table, destinationType.FLOW_TABLE, id)),
  reference(
    flowTables,
    flowTables,
    (table, id) => table.missAction === missAction.FWD && table.missTable === id,
  ),
];

/**
 * `id` of `table`, for a command that ends it.
 * @throws CommandRefused when there is no such object, or another one refers to it
 */
export function unused(core: Mlx5Core, table: ObjectTable<DeviceObject>, id: number): number {
  table.get(id);
  for (const { from, to, holds } of references) {
    if (to(core) !== table) continue;
    const users = from(core);
    for (const user of users.values()) {
      if (holds(user, id))
        throw inUse(`${table.kind} 0x${id.toString(16)}`, `${users.kind} 0x${user.id.toString(16)}`);
    }
  }
  return id;
}
