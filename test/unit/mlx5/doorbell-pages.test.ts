/** UAR pages: a queue is rung through the one that it was made with, and through no other. */
import { pack } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import type { StateRecord } from '../../../src/device/index.ts';
import { pageBytes } from './driver-base.ts';
import { FakeHost } from './fake-host.ts';
import { buildFrame } from './frames.ts';
import { type Bench, bench, running } from './setup.ts';

const register = { cq: 0x20, eq: 0x40, sq: 0x800 } as const;

/** Another page of the same driver. */
const another = ({ driver }: Bench): number => prm.allocUarOut.get(driver.command('ALLOC_UAR'), 'uar');

/** Posts a frame and rings through `page`; returns how many frames left. */
function sendThrough({ driver, port }: Bench, page: number): number {
  const sq = driver.channels[0]?.tx ?? expect.fail('no queue');
  driver.build(sq, buildFrame({ src: driver.mac }));
  driver.memory.writeUInt32BE(sq.pc & 0xffff, sq.dbr + 4);
  driver.write64(page * pageBytes + register.sq, 0, sq.sqn << 8);
  return port.sent.splice(0).length;
}

/** The same card elsewhere, of a state whose SQs have lost the page that they were made with. */
function fromOlderServer(source: Bench): { to: Bench; records: StateRecord[] } {
  source.host.mayInitiate = false;
  source.device.quiesce();
  const records = [...source.device.migration.save()].map((record) => {
    if (record.section !== 'sq' || !('value' in record)) return record;
    const { uarPage: _lost, ...value } = record.value as Record<string, unknown>;
    return { section: 'sq', value };
  });
  const to = bench(source.device.core.vectors, new FakeHost(source.host.dma));
  to.device.migration.beginLoad(stateVersions.current);
  for (const record of records) to.device.migration.load(record);
  to.device.migration.endLoad();
  Object.assign(source.driver, { host: to.host, device: to.device });
  return { to: { ...to, driver: source.driver }, records };
}

describe('a doorbell through another UAR page', () => {
  it('sends nothing, until the right one is written', () => {
    const made = running();
    expect(sendThrough(made, another(made))).toBe(0);
    expect(sendThrough(made, made.driver.uar)).toBe(2);
  });

  it('arms no CQ, and moves and arms no EQ', () => {
    const made = running();
    const { device, driver } = made;
    const page = another(made) * pageBytes;
    const cq = device.core.cqs.table.get(driver.channels[0]?.rx.cq.cqn ?? 0);
    const eq = device.core.eqs.table.get(driver.eqs.comp[0]?.eqn ?? 0);
    cq.armed = false;
    eq.armed = false;
    const word = ((eq.id << 24) | eq.pi) >>> 0;
    for (const [base, armed] of [
      [page, false],
      [driver.uarBase, true],
    ] as const) {
      driver.write64(base + register.cq, cq.pi, cq.id);
      driver.write32(base + register.eq, word);
      expect([cq.armed, eq.armed]).toEqual([armed, armed]);
    }
    cq.armed = false;
    // As a 32-bit processor writes.
    driver.write32(page + register.cq, cq.pi);
    driver.write32(page + register.cq + 4, cq.id);
    expect(cq.armed).toBe(false);
  });

  it('is taken for an SQ of which an older server has not told the page, and the state stays as it came', () => {
    const { to, records } = fromOlderServer(running());
    const again = [...to.device.migration.save()];
    expect(again.map((record) => pack(record))).toEqual(records.map((record) => pack(record)));
    to.device.resume();
    expect(sendThrough(to, another(to))).toBe(1);
    expect(sendThrough(to, to.driver.uar)).toBe(1);
  });
});

it('QUERY_SQ tells the page', () => {
  const { driver } = running();
  const input = Buffer.alloc(16);
  prm.querySqIn.set(input, 'sqn', driver.channels[0]?.tx.sqn ?? 0);
  const context = driver.command('QUERY_SQ', input, 272).subarray(prm.querySqOut.byte('sq_context'));
  expect(prm.wq.get(context, 'uar_page', prm.sqc.byte('wq'))).toBe(driver.uar);
});
