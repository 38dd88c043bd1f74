import { BareObject, type Mlx5Core } from '../core.ts';
import { QueueCounter } from '../counters.ts';
import { CompletionQueue, logCqeBytes } from '../cq.ts';
import { EventQueue, logEqeBytes } from '../eq.ts';
import { limits } from '../limits.ts';
import { adapterPageBytes, PagedRing } from '../memory.ts';
import { Mkey } from '../mkeys.ts';
import type { DeviceObject, ObjectTable } from '../objects.ts';
import { ReceiveQueue } from '../rq.ts';
import { SendQueue } from '../sq.ts';
import { matchWords } from '../steering/match.ts';
import { destinationType, FlowTable, flowEntry, missAction } from '../steering/tables.ts';
import { Rqt, Tir } from '../steering/tir.ts';
import { toeplitzKeyBytes } from '../steering/toeplitz.ts';
import { Tis } from '../tis.ts';
import { Uar } from '../uar.ts';
import {
  doorbellRecordBytes,
  type QueueState,
  queueState,
  type WorkQueueSettings,
  wqType,
} from '../work-queue.ts';
import type { StateReader } from './reader.ts';

/**
 * How one kind of object is saved and made again. `save` is what a precopy sends early: it changes with `revision`.
 * `progress` is what moves with every packet: it is sent once, at the end.
 */
export interface ObjectCodec<T extends DeviceObject = DeviceObject> {
  /** Name of the section. */
  readonly kind: string;
  table(core: Mlx5Core): ObjectTable<T>;
  save(object: T): Record<string, unknown>;
  /** Makes an object from a record, every field of it checked; throws StateRefused. */
  load(core: Mlx5Core, id: number, state: StateReader): T;
  /** How much of what is limited over all objects together is in this one. */
  parts?(object: T): number;
  progress?(object: T): Record<string, unknown>;
  restore?(object: T, state: StateReader): void;
  /** Checks after everything is loaded that what the object needs exists. */
  check?(core: Mlx5Core, object: T, refuse: (what: string) => Error): void;
}

export function partsOf(codec: ObjectCodec, object: DeviceObject | undefined): number {
  return object === undefined ? 0 : (codec.parts?.(object) ?? 0);
}

const counter24 = 24;
const counter16 = 16;
const matchBytes = 4 * matchWords;

/** Erases the kind of a codec so that all of them fit in one list. */
function codec<T extends DeviceObject>(of: ObjectCodec<T>): ObjectCodec {
  return of as unknown as ObjectCodec;
}

function loadPages(state: StateReader, expected: number): number[] {
  const pages = state.numbers('pages', expected, Number.MAX_SAFE_INTEGER - adapterPageBytes);
  if (pages.length !== expected || pages.some((page) => page % adapterPageBytes !== 0)) {
    throw state.refuse('pages', `is not a list of ${expected} pages`);
  }
  return pages;
}

function saveWq(wq: WorkQueueSettings): Record<string, unknown> {
  return { ...wq, pages: [...wq.pages] };
}

function loadWq(state: StateReader, stride: { min: number; max: number }): WorkQueueSettings {
  const logSize = state.number('logSize', 0, limits.logWqSize);
  const logStride = state.number('logStride', stride.min, stride.max);
  const logPageSize = state.number('logPageSize', 0, 8);
  return {
    wqType: state.number('wqType', wqType.CYCLIC, wqType.CYCLIC),
    pd: state.uint('pd', counter24),
    dbr: state.address('dbr', doorbellRecordBytes, doorbellRecordBytes),
    logStride,
    logSize,
    logPageSize,
    pages: loadPages(state, PagedRing.pagesNeeded(logSize, logStride, logPageSize)),
  };
}

function loadState(state: StateReader): QueueState {
  const value = state.number('state', queueState.RST, queueState.ERR);
  if (value !== queueState.RST && value !== queueState.RDY && value !== queueState.ERR) {
    throw state.refuse('state', 'is no queue state');
  }
  return value;
}

function words(bytes: Uint8Array): Uint32Array {
  const view = Buffer.from(bytes);
  return Uint32Array.from({ length: matchWords }, (_, index) => view.readUInt32BE(4 * index));
}

function wordBytes(values: Uint32Array): Uint8Array {
  const bytes = Buffer.alloc(matchBytes);
  for (let index = 0; index < matchWords; index++) bytes.writeUInt32BE(values[index] ?? 0, 4 * index);
  return bytes;
}

const bare = (kind: string, table: (core: Mlx5Core) => ObjectTable<BareObject>): ObjectCodec =>
  codec<BareObject>({ kind, table, save: () => ({}), load: (_core, id) => new BareObject(id) });

const eventQueue = codec<EventQueue>({
  kind: 'eq',
  table: (core) => core.eqs.table,
  save: ({ settings }) => ({ ...settings, pages: [...settings.pages] }),
  load(core, id, state) {
    const logSize = state.number('logSize', 0, limits.logEqSize);
    return new EventQueue(id, {
      logSize,
      pages: loadPages(state, PagedRing.pagesNeeded(logSize, logEqeBytes)),
      intr: state.number('intr', 0, core.vectors - 1),
      uarPage: state.uint('uarPage', counter24),
      maskLow: state.uint('maskLow', 32),
      maskHigh: state.uint('maskHigh', 32),
    });
  },
  progress: ({ pi, ci, armed, status }) => ({ pi, ci, armed, status }),
  restore(eq, state) {
    eq.pi = state.uint('pi', counter24);
    eq.ci = state.uint('ci', counter24);
    eq.armed = state.boolean('armed');
    eq.status = state.uint('status', 4);
  },
});

const completionQueue = codec<CompletionQueue>({
  kind: 'cq',
  table: (core) => core.cqs.table,
  save: ({ settings, period, maxCount, periodMode }) => ({
    ...settings,
    pages: [...settings.pages],
    period,
    maxCount,
    periodMode,
  }),
  load(_core, id, state) {
    const logSize = state.number('logSize', 0, limits.logCqSize);
    const logPageSize = state.number('logPageSize', 0, 8);
    const cq = new CompletionQueue(id, {
      logSize,
      logPageSize,
      pages: loadPages(state, PagedRing.pagesNeeded(logSize, logCqeBytes, logPageSize)),
      eqn: state.uint('eqn', 8),
      uarPage: state.uint('uarPage', counter24),
      dbr: state.address('dbr', doorbellRecordBytes, doorbellRecordBytes),
      oi: state.boolean('oi'),
    });
    cq.period = state.uint('period', 12);
    cq.maxCount = state.uint('maxCount', 16);
    cq.periodMode = state.uint('periodMode', 2);
    return cq;
  },
  progress: ({ pi, ci, armed, solicitedOnly, armCi, status, unreported }) => ({
    pi,
    ci,
    armed,
    solicitedOnly,
    armCi,
    status,
    unreported,
  }),
  restore(cq, state) {
    cq.pi = state.uint('pi', counter24);
    cq.ci = state.uint('ci', counter24);
    cq.armed = state.boolean('armed');
    cq.solicitedOnly = state.boolean('solicitedOnly');
    cq.armCi = state.uint('armCi', counter24);
    cq.status = state.uint('status', 4);
    cq.unreported = state.counter('unreported');
  },
  check(core, cq, refuse) {
    if (core.eqs.table.find(cq.settings.eqn) === undefined) throw refuse(`needs EQ ${cq.settings.eqn}`);
  },
});

const sendQueue = codec<SendQueue>({
  kind: 'sq',
  table: (core) => core.sqs.table,
  save: ({ settings }) => ({ ...settings, wq: saveWq(settings.wq) }),
  load(_core, id, state) {
    const uarPage = state.optionalUint('uarPage', counter24);
    return new SendQueue(id, {
      wq: loadWq(state.record('wq'), { min: 6, max: 6 }),
      cqn: state.uint('cqn', counter24),
      tisn: state.uint('tisn', counter24),
      flushInError: state.boolean('flushInError'),
      minInlineMode: state.uint('minInlineMode', 3),
      userIndex: state.uint('userIndex', counter24),
      ...(uarPage !== undefined && { uarPage }),
    });
  },
  progress: ({ state, ci, pending }) => ({ state, ci, pending }),
  restore(sq, state) {
    sq.state = loadState(state);
    sq.ci = state.uint('ci', counter16);
    sq.pending = state.boolean('pending');
  },
  check(core, { settings }, refuse) {
    if (core.cqs.table.find(settings.cqn) === undefined) throw refuse(`needs CQ ${settings.cqn}`);
    const { tisn } = settings;
    if (tisn !== 0 && core.tiss.find(tisn) === undefined) throw refuse(`needs TIS ${tisn}`);
  },
});

const receiveQueue = codec<ReceiveQueue>({
  kind: 'rq',
  table: (core) => core.rqs.table,
  save: ({ settings, vsd, counterSetId }) => ({ ...settings, wq: saveWq(settings.wq), vsd, counterSetId }),
  load(_core, id, state) {
    const rq = new ReceiveQueue(id, {
      wq: loadWq(state.record('wq'), limits.logReceiveStride),
      cqn: state.uint('cqn', counter24),
      flushInError: state.boolean('flushInError'),
      userIndex: state.uint('userIndex', counter24),
    });
    rq.vsd = state.boolean('vsd');
    rq.counterSetId = state.uint('counterSetId', 8);
    return rq;
  },
  progress: ({ state, ci, pi, fed }) => ({ state, ci, pi, fed }),
  restore(rq, state) {
    rq.state = loadState(state);
    rq.ci = state.uint('ci', counter16);
    rq.pi = state.uint('pi', counter16);
    rq.fed = state.boolean('fed');
  },
  check(core, { settings }, refuse) {
    if (core.cqs.table.find(settings.cqn) === undefined) throw refuse(`needs CQ ${settings.cqn}`);
  },
});

const mkey = codec<Mkey>({
  kind: 'mkey',
  table: (core) => core.mkeys.table,
  save: ({ settings }) => ({ ...settings }),
  load(_core, id, state) {
    const length = state.number('length', 0, Number.MAX_SAFE_INTEGER);
    const qpn = state.optionalUint('qpn', counter24);
    return new Mkey(id, {
      variant: state.uint('variant', 8),
      pd: state.uint('pd', counter24),
      localRead: state.boolean('localRead'),
      localWrite: state.boolean('localWrite'),
      wholeSpace: state.boolean('wholeSpace'),
      start: state.address('start', length),
      length,
      accessMode: state.number('accessMode', 0, 0),
      ...(qpn !== undefined && { qpn }),
    });
  },
});

const tis = codec<Tis>({
  kind: 'tis',
  table: (core) => core.tiss,
  save: ({ settings }) => ({ ...settings }),
  load: (_core, id, state) =>
    new Tis(id, {
      prio: state.uint('prio', 4),
      transportDomain: state.uint('transportDomain', counter24),
      pd: state.uint('pd', counter24),
    }),
});

const tir = codec<Tir>({
  kind: 'tir',
  table: (core) => core.tirs,
  save: ({ settings }) => ({ ...settings }),
  load: (_core, id, state) =>
    new Tir(id, {
      dispType: state.number('dispType', 0, 1),
      inlineRqn: state.uint('inlineRqn', counter24),
      indirectTable: state.uint('indirectTable', counter24),
      rxHashFn: state.number('rxHashFn', 0, 2),
      symmetric: state.boolean('symmetric'),
      key: state.bytes('key', toeplitzKeyBytes),
      ipv6: state.boolean('ipv6'),
      udp: state.boolean('udp'),
      selectedFields: state.uint('selectedFields', 30),
      selfLoopback: state.uint('selfLoopback', 2),
      transportDomain: state.uint('transportDomain', counter24),
    }),
});

const rqt = codec<Rqt>({
  kind: 'rqt',
  table: (core) => core.rqts,
  save: ({ maxSize, rqns }) => ({ maxSize, rqns: [...rqns] }),
  load(_core, id, state) {
    const rqns = state.numbers('rqns', limits.rqtEntries, 0xffffff);
    if (rqns.length === 0) throw state.refuse('rqns', 'is empty');
    return new Rqt(id, state.number('maxSize', rqns.length, limits.rqtEntries), rqns);
  },
});

const queueCounter = codec<QueueCounter>({
  kind: 'q_counter',
  table: (core) => core.qCounters,
  save: () => ({}),
  load: (_core, id) => new QueueCounter(id),
  progress: ({ outOfBuffer, lengthErrors, protectionErrors, cqeErrors, flushErrors }) => ({
    outOfBuffer,
    lengthErrors,
    protectionErrors,
    cqeErrors,
    // Left out by servers that did not count them.
    ...(flushErrors !== 0 && { flushErrors }),
  }),
  restore(object, state) {
    object.outOfBuffer = state.counter('outOfBuffer');
    object.lengthErrors = state.counter('lengthErrors');
    object.protectionErrors = state.counter('protectionErrors');
    object.cqeErrors = state.counter('cqeErrors');
    object.flushErrors = state.optionalUint('flushErrors', 53) ?? 0;
  },
});

const uar = codec<Uar>({
  kind: 'uar',
  table: (core) => core.uars,
  save: () => ({}),
  load: (_core, id) => new Uar(id),
  progress: ({ cqArmHigh }) => ({ cqArmHigh }),
  restore(object, state) {
    object.cqArmHigh = state.uint('cqArmHigh', 32);
  },
});

const flowTable = codec<FlowTable>({
  kind: 'flow_table',
  table: (core) => core.steering.tables,
  parts: ({ groups, entries }) => groups.size + entries.length,
  save: (table) => ({
    level: table.level,
    logSize: table.logSize,
    missAction: table.missAction,
    missTable: table.missTable,
    nextGroup: table.nextGroup,
    groups: [...table.groups.values()].map((group) => ({ ...group, mask: wordBytes(group.mask) })),
    entries: table.entries.map(({ index, groupId, flowTag, action, destinations, value }) => ({
      index,
      groupId,
      flowTag,
      action,
      destinations: destinations.map(({ type, id }) => ({ type, id })),
      value: wordBytes(value),
    })),
  }),
  load(_core, id, state) {
    const table = new FlowTable(
      id,
      state.uint('level', 8),
      state.number('logSize', 0, limits.logFlowTableSize),
      {
        action: state.number('missAction', missAction.DEFAULT, missAction.FWD),
        table: state.uint('missTable', counter24),
      },
    );
    const last = 2 ** table.logSize - 1;
    for (const group of state.records('groups', limits.flowGroups)) {
      const start = group.number('start', 0, last);
      const groupId = group.number('id', 0, 2 * limits.flowGroups);
      const end = group.number('end', start, last);
      table.groups.set(groupId, { id: groupId, start, end, mask: words(group.bytes('mask', matchBytes)) });
    }
    table.nextGroup = state.number('nextGroup', 0, 2 * limits.flowGroups);
    let before = -1;
    for (const entry of state.records('entries', limits.flowEntries)) {
      const group = table.groups.get(entry.uint('groupId', 32));
      if (group === undefined) throw entry.refuse('groupId', 'is no group');
      const index = entry.number('index', group.start, group.end);
      // As they are saved. In another order each would have to be put between those that are there.
      if (index <= before) throw entry.refuse('index', 'does not ascend');
      before = index;
      table.setEntry(
        flowEntry(group, {
          index,
          groupId: group.id,
          flowTag: entry.uint('flowTag', counter24),
          action: entry.uint('action', 16),
          destinations: entry.records('destinations', limits.flowDestinations).map((to) => ({
            type: to.number('type', destinationType.FLOW_TABLE, destinationType.TIR),
            id: to.uint('id', counter24),
          })),
          value: words(entry.bytes('value', matchBytes)),
        }),
      );
    }
    table.revision = 0;
    return table;
  },
});

/** All kinds, in the order in which they are saved: what others need comes first. */
export const objectCodecs: readonly ObjectCodec[] = [
  uar,
  bare('pd', (core) => core.pds),
  bare('transport_domain', (core) => core.transportDomains),
  mkey,
  queueCounter,
  eventQueue,
  completionQueue,
  tis,
  sendQueue,
  receiveQueue,
  rqt,
  tir,
  flowTable,
];
