/** Objects that others refer to stay, whatever the driver says, until those others are gone. */
import { pack, unpack } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import { objectCodecs } from '../../../device-models/mlx5/migration/objects.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { syndrome } from '../../../device-models/mlx5/refusal.ts';
import type { StateRecord } from '../../../src/device/index.ts';
import type { FakeDriver } from './driver.ts';
import { FakeHost } from './fake-host.ts';
import { type Bench, bench, running } from './setup.ts';

const refusal = expect.objectContaining({
  status: prm.commandStatus.BAD_RES_STATE_ERR,
  syndrome: syndrome.objectInUse,
});
const channel = ({ channels }: FakeDriver) => channels[0] ?? expect.fail('no channel');

type Ending = (driver: FakeDriver) => void;
const ends =
  (name: keyof typeof prm.opcode, id: (driver: FakeDriver) => number): Ending =>
  (driver) =>
    driver.end(name, id(driver));

/** Without a word of its groups. */
const endsTable =
  (name: string): Ending =>
  (driver) => {
    const input = Buffer.alloc(prm.destroyFlowTableIn.size);
    prm.destroyFlowTableIn.set(input, 'table_id', driver.tables[name] ?? 0);
    driver.command('DESTROY_FLOW_TABLE', input);
  };

const uar = ends('DEALLOC_UAR', (driver) => driver.uar);
const pd = ends('DEALLOC_PD', (driver) => driver.pd);
const domain = ends('DEALLOC_TRANSPORT_DOMAIN', ({ td }) => td);

/** Who refers to what in a card that is up, and the other kinds that do as well. */
const used: readonly (readonly [what: string, others: readonly string[], end: Ending])[] = [
  ['the UAR of EQs', ['cq', 'sq'], uar],
  ['the UAR of CQs', ['eq', 'sq'], uar],
  ['the UAR of SQs', ['eq', 'cq'], uar],
  ['the PD of SQs', ['rq', 'mkey'], pd],
  ['the PD of RQs', ['sq', 'mkey'], pd],
  ['the PD of a key', ['sq', 'rq'], pd],
  ['the transport domain of TISes', ['tir'], domain],
  ['the transport domain of TIRs', ['tis'], domain],
  ['the counter set of RQs', [], ends('DEALLOC_Q_COUNTER', ({ qCounter }) => qCounter)],
  ['the EQ of CQs', [], ends('DESTROY_EQ', ({ eqs }) => eqs.comp[0]?.eqn ?? 0)],
  ['the CQ of an SQ', [], ends('DESTROY_CQ', (driver) => channel(driver).tx.cq.cqn)],
  ['the CQ of an RQ', [], ends('DESTROY_CQ', (driver) => channel(driver).rx.cq.cqn)],
  ['the TIS of an SQ', [], ends('DESTROY_TIS', ({ tis }) => tis)],
  ['the RQ of RQTs', [], ends('DESTROY_RQ', (driver) => channel(driver).rx.rqn)],
  ['the RQT of TIRs', [], ends('DESTROY_RQT', ({ rqt }) => rqt)],
  ['the TIR of a flow entry', [], ends('DESTROY_TIR', ({ tirs }) => tirs[3] ?? 0)],
  ['the flow table that frames miss to', [], endsTable('anchor')],
  ['a flow table with groups', [], endsTable('tc')],
];

/** How many objects of each kind there are. */
function sizes({ device }: Pick<Bench, 'device'>): Record<string, number> {
  return Object.fromEntries(
    objectCodecs.map((codec) => [codec.kind, codec.table(device.core).size] as const),
  );
}

function moved(source: Bench): Bench {
  source.host.mayInitiate = false;
  source.device.quiesce();
  const host = new FakeHost(source.host.dma);
  const to = bench(source.device.core.vectors, host);
  to.device.migration.beginLoad(stateVersions.current);
  for (const record of source.device.migration.save()) {
    to.device.migration.load(unpack(pack(record)) as StateRecord);
  }
  to.device.migration.endLoad();
  to.device.resume();
  Object.assign(source.driver, { host: to.host, device: to.device });
  return { ...to, driver: source.driver };
}

describe.each([
  ['a card that is up', (made: Bench) => made],
  ['one that has come from a migration', moved],
])('%s', (_what, come) => {
  it.each(used)('keeps %s, were it not for %j', (_of, others, end) => {
    const up = running();
    up.driver.createGroup('tc', 0, 0, () => {});
    const made = come(up);
    for (const { kind, table } of objectCodecs) {
      if (others.includes(kind)) table(made.device.core).clear();
    }
    made.driver.eventMode &&= made.device.core.eqs.table.size > 0;
    const before = sizes(made);
    expect(() => end(made.driver)).toThrow(refusal);
    expect(sizes(made)).toEqual(before);
  });
});

describe('an object', () => {
  it('may go once nothing refers to it: a driver that ends its users first is refused nothing', () => {
    const made = running(2);
    const { device, driver } = made;
    driver.down();
    const { clearObjects } = device.core;
    let left: Record<string, number> | undefined;
    device.core.clearObjects = () => {
      left ??= sizes(made);
      clearObjects.call(device.core);
    };
    driver.remove();
    // Before TEARDOWN_HCA swept up.
    expect(left).toEqual(Object.fromEntries(objectCodecs.map(({ kind }) => [kind, 0])));
  });

  it('is used by a TIR of one RQ as long as that is of one RQ', () => {
    const { driver } = running();
    const rqn = driver.createRq(channel(driver).rx.cq, 0, 2048, 0).rqn;
    const input = Buffer.alloc(272);
    prm.tirc.set(input, 'inline_rqn', rqn, 0x20);
    prm.tirc.set(input, 'transport_domain', driver.td, 0x20);
    const tirn = prm.createTirOut.get(driver.command('CREATE_TIR', input), 'tirn');
    expect(() => driver.end('DESTROY_RQ', rqn)).toThrow(refusal);
    driver.end('DESTROY_TIR', tirn);
    // What a TIR says of the other way to dispatch is no reference.
    prm.tirc.set(input, 'disp_type', 1, 0x20);
    prm.tirc.set(input, 'indirect_table', driver.rqt, 0x20);
    driver.command('CREATE_TIR', input);
    driver.end('DESTROY_RQ', rqn);
  });

  it('is a flow table as long as another one sends frames to it, whether they match or miss', () => {
    const { driver } = running();
    driver.tables.one = driver.createTable(50, 0);
    driver.tables.two = driver.createTable(51, 0);
    driver.setMiss('one', 'two');
    expect(() => driver.destroyTable('two')).toThrow(refusal);
    driver.setMiss('one', 'two', false);
    driver.createGroup('one', 0, 0, () => {});
    driver.setEntry('one', 0, 0, { table: 'two' });
    expect(() => driver.destroyTable('two')).toThrow(refusal);
    // A TIR of that number is another thing.
    driver.setEntry('one', 0, 0, { tir: driver.tirs[0] ?? 0 });
    driver.destroyTable('two');
  });

  it('goes with everything else at TEARDOWN_HCA, and at a reset', () => {
    for (const end of [
      ({ driver }: Bench) => void driver.command('TEARDOWN_HCA'),
      ({ device }: Bench) => device.reset('flr'),
    ]) {
      const made = running();
      made.driver.eventMode = false;
      end(made);
      expect(Math.max(...Object.values(sizes(made)))).toBe(0);
    }
  });

  it('is not kept by what an older version has left dangling', () => {
    const source = running();
    // Up to now a table could go that another one forwards to, and its number come again for something else.
    source.device.core.steering.tables.delete(source.driver.tables.ttc ?? 0);
    source.device.core.pds.delete(source.driver.pd);
    const to = moved(source);
    expect(to.device.core.sqs.table.size).toBe(2);
    expect(() => to.driver.end('DEALLOC_PD', to.driver.pd)).toThrow(
      expect.objectContaining({ status: prm.commandStatus.BAD_RES_ERR }),
    );
    to.driver.down();
  });
});
