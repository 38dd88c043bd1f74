/** `rqc.flush_in_error_en`: a receive queue in error gives back the WQEs that were posted to it. */
import { describe, expect, it } from 'vitest';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { queueState } from '../../../device-models/mlx5/work-queue.ts';
import type { FakeDriver } from './driver.ts';
import type { Cq, Rq } from './driver-base.ts';
import { FakeHost } from './fake-host.ts';
import { buildFrame } from './frames.ts';
import { type Bench, bench, running } from './setup.ts';
import { travel } from './workload.ts';

const { RST, RDY, ERR } = queueState;
const { cqeSyndrome, cqeOpcode } = prm;
const logSize = 3;

interface Own extends Bench {
  readonly cq: Cq;
  readonly rq: Rq;
}

/** A card with one receive queue more, of eight WQEs, that all frames go to. */
function withQueue(flush: boolean, logCqSize = 5): Own {
  const made = running();
  const { driver } = made;
  const cq = driver.createCq(0, logCqSize);
  const rq = driver.createRq(cq, logSize, 2048, 0, flush);
  driver.modifyRqt(driver.rqt, [rq.rqn]);
  for (const rqtn of driver.directRqts) driver.modifyRqt(rqtn, [rq.rqn]);
  return { ...made, cq, rq };
}

/** Posts WQEs up to producer index `pi`, behind `lkey`. */
function post({ driver, rq }: Own, pi: number, lkey = driver.lkey): void {
  for (let index = 0; index < 2 ** logSize; index++) {
    const at = rq.ring + 16 * index;
    driver.memory.writeUInt32BE(rq.fragment, at);
    driver.memory.writeUInt32BE(lkey, at + 4);
    driver.memory.writeUInt32BE(rq.buffers + index * rq.fragment, at + 12);
  }
  driver.memory.writeUInt32BE(pi & 0xffff, rq.dbr);
}

/** All completions so far: opcode, syndrome, WQE counter. */
function completions({ device, driver, cq }: Own): number[][] {
  const count = device.core.cqs.table.get(cq.cqn).pi;
  return Array.from({ length: count }, (_, index) => {
    const cqe = driver.memory.subarray(cq.ring + 64 * index, cq.ring + 64 * (index + 1));
    return [(cqe[0x3f] ?? 0) >>> 4, cqe[0x37] ?? 0, cqe.readUInt16BE(0x3c)];
  });
}

const flushed = (from: number, to: number): number[][] =>
  Array.from({ length: to - from }, (_, index) => [
    cqeOpcode.RESP_ERR,
    cqeSyndrome.WR_FLUSH_ERR,
    (from + index) & 0xffff,
  ]);

function flushErrors(driver: FakeDriver): number {
  return prm.queryQCounterOut.get(driver.stats().qCounter, 'resp_cqe_flush_error');
}

describe('a receive queue that flushes in error', () => {
  it('gives back what it has when its driver puts it in error, and starts anew after that', () => {
    const own = withQueue(true);
    const { driver, port, rq } = own;
    post(own, 5);
    port.inject(buildFrame({ dst: driver.mac }));
    driver.modifyRq(rq.rqn, RDY, ERR);
    expect(completions(own).slice(1)).toEqual(flushed(1, 5));
    expect(flushErrors(driver)).toBe(4);
    // No more, whatever is posted or comes.
    post(own, 7);
    port.inject(buildFrame({ dst: driver.mac }));
    expect(completions(own)).toHaveLength(5);
    driver.modifyRq(rq.rqn, ERR, RST);
    post(own, 2);
    driver.modifyRq(rq.rqn, RST, RDY);
    port.inject(buildFrame({ dst: driver.mac }));
    expect(completions(own)[5]).toEqual([cqeOpcode.RESP_SEND, 0, 0]);
  });

  it('has counted at its destination what it gave back before', () => {
    const own = withQueue(true);
    post(own, 5);
    own.driver.modifyRq(own.rq.rqn, RDY, ERR);
    own.host.mayInitiate = false;
    own.device.quiesce();
    const to = bench(own.device.core.vectors, new FakeHost(own.host.dma));
    to.device.reset('client');
    to.device.migration.beginLoad(stateVersions.current);
    for (const record of own.device.migration.save()) to.device.migration.load(travel(record));
    to.device.migration.endLoad();
    const { counterSetId } = to.device.core.rqs.table.get(own.rq.rqn);
    expect(to.device.core.qCounters.get(counterSetId).flushErrors).toBe(5);
  });

  it('gives back what is left when a WQE fails', () => {
    const own = withQueue(true);
    post(own, 8, 0x4242);
    own.port.inject(buildFrame({ dst: own.driver.mac }));
    expect(completions(own)).toEqual([[cqeOpcode.RESP_ERR, cqeSyndrome.LOCAL_PROT_ERR, 0], ...flushed(1, 8)]);
  });

  it('ends with its CQ when that has no room, and gives nothing back that it can not have', () => {
    const small = withQueue(true, 2);
    post(small, 8);
    small.driver.modifyRq(small.rq.rqn, RDY, ERR);
    expect(completions(small)).toEqual(flushed(0, 4));
    expect(flushErrors(small.driver)).toBe(4);
    const wild = withQueue(true);
    post(wild, 9);
    wild.driver.modifyRq(wild.rq.rqn, RDY, ERR);
    expect(completions(wild)).toEqual([]);
  });
});

it('a receive queue that does not flush gives nothing back', () => {
  const own = withQueue(false);
  post(own, 8, 0x4242);
  own.port.inject(buildFrame({ dst: own.driver.mac }));
  expect(completions(own)).toEqual([[cqeOpcode.RESP_ERR, cqeSyndrome.LOCAL_PROT_ERR, 0]]);
  own.driver.modifyRq(own.rq.rqn, ERR, RST);
  own.driver.modifyRq(own.rq.rqn, RST, RDY);
  own.driver.modifyRq(own.rq.rqn, RDY, ERR);
  expect(completions(own)).toHaveLength(1);
  expect(flushErrors(own.driver)).toBe(0);
});
