/** What one frame may cost: the tables that it passes through, the queues that it is copied to. */
import { afterEach, expect, it, vi } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { destinationType, FlowTable, flowAction } from '../../../device-models/mlx5/steering/tables.ts';
import { buildFrame } from './frames.ts';
import { type Bench, running } from './setup.ts';

/** Below the driver's own tables there is room for many levels above them. */
const firstLevel = 100;

interface Destination {
  readonly type: number;
  readonly id: number;
}

/** A table with one entry, that any frame matches. */
function tableTo({ driver }: Bench, level: number, destinations: readonly Destination[]): number {
  const name = `at ${level}`;
  const id = driver.createTable(level, 0);
  driver.tables[name] = id;
  driver.groups[name] = [];
  driver.createGroup(name, 0, 0, () => {});
  const { destFormatStruct, flowContext, setFteIn } = prm;
  const at = setFteIn.byte('flow_context');
  const list = at + flowContext.byte('destination');
  const input = Buffer.alloc(list + destinations.length * destFormatStruct.size);
  setFteIn.set(input, 'table_id', id);
  flowContext.set(input, 'group_id', driver.groups[name]?.[0] ?? 0, at);
  flowContext.set(input, 'action', flowAction.FWD_DEST, at);
  flowContext.set(input, 'destination_list_size', destinations.length, at);
  for (const [index, { type, id: to }] of destinations.entries()) {
    destFormatStruct.set(input, 'destination_type', type, list + index * destFormatStruct.size);
    destFormatStruct.set(input, 'destination_id', to, list + index * destFormatStruct.size);
  }
  driver.command('SET_FLOW_TABLE_ENTRY', input);
  return id;
}

function setRoot({ driver }: Bench, id: number): void {
  driver.tables.first = id;
  driver.setRoot('first');
}

/** The TIR that takes any frame. */
const anyTir = ({ driver }: Bench): Destination => ({
  type: destinationType.TIR,
  id: driver.tirs[10] ?? expect.fail('no TIR'),
});

function times<T>(count: number, value: T): T[] {
  return Array.from({ length: count }, () => value);
}

/** One frame comes: how often the guest gets it. */
function received({ driver, port }: Bench): number {
  expect(port.inject(buildFrame({ dst: driver.mac }))).toBe(true);
  driver.poll();
  return driver.received.length;
}

afterEach(() => {
  vi.restoreAllMocks();
});

it.each([
  ['as many tables as it may', 0, 1],
  ['one more', 1, 0],
])('gives a frame to a queue behind %s', (_what, more, frames) => {
  const made = running();
  const tables = limits.steeringHops + more;
  let next = tableTo(made, firstLevel + tables, [anyTir(made)]);
  for (let left = 1; left < tables; left++) {
    next = made.driver.createTable(firstLevel + tables - left, 0, next);
  }
  setRoot(made, next);
  expect(received(made)).toBe(frames);
  expect(made.device.core.counters.events.rxFiltered).toBe(1 - frames);
});

it('looks into so many tables for a frame also where each leads to several', () => {
  const made = running();
  let next: Destination = {
    type: destinationType.FLOW_TABLE,
    id: tableTo(made, firstLevel + 9, [anyTir(made)]),
  };
  for (let level = firstLevel + 8; level >= firstLevel; level--) {
    next = { ...next, id: tableTo(made, level, [next, next]) };
  }
  setRoot(made, next.id);
  const lookup = vi.spyOn(FlowTable.prototype, 'lookup');
  received(made);
  expect(lookup).toHaveBeenCalledTimes(limits.steeringHops);
});

it('copies a frame to so many queues and no more', () => {
  const made = running();
  const copies = times(limits.flowDestinations, anyTir(made));
  const last = { type: destinationType.FLOW_TABLE, id: tableTo(made, firstLevel + 1, copies) };
  setRoot(made, tableTo(made, firstLevel, times(limits.flowDestinations, last)));
  expect(limits.flowDestinations ** 2).toBeGreaterThan(limits.steeringCopies);
  expect(received(made)).toBe(limits.steeringCopies);
});
