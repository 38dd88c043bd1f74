/** A send queue in error, recovered as Linux does it: its counters start anew, its doorbell record is left as it was. */
import { describe, expect, it } from 'vitest';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import { cqeOpcode } from '../../../device-models/mlx5/prm/index.ts';
import { queueState } from '../../../device-models/mlx5/work-queue.ts';
import type { Sq } from './driver-base.ts';
import { FakeHost } from './fake-host.ts';
import { buildFrame } from './frames.ts';
import { type Bench, bench, running } from './setup.ts';
import { travel } from './workload.ts';

const peer = Buffer.from('020000000009', 'hex');
const ringBlocks = 128;
const counterValues = 2 ** 16;

const frameOf = (made: Bench, mark: number): Buffer =>
  buildFrame({ dst: peer, src: made.driver.mac, payload: Buffer.alloc(100, mark) });

function sendQueue(made: Bench): Sq {
  return made.driver.channels[0]?.tx ?? expect.fail('no queue');
}

function send(made: Bench, count: number): void {
  for (let index = 0; index < count; index++) {
    made.driver.send(frameOf(made, index));
    made.driver.poll();
  }
}

/** A device whose queue has sent `count` frames, failed with the next, and was recovered. */
function recovered(count: number): Bench {
  const made = running();
  const sq = sendQueue(made);
  send(made, count);
  made.device.injectSendError();
  send(made, 1);
  expect(made.driver.querySqState(sq)).toBe(queueState.ERR);
  made.driver.modifySq(sq, queueState.ERR, queueState.RST);
  made.driver.modifySq(sq, queueState.RST, queueState.RDY);
  sq.pc = 0;
  made.port.sent.length = 0;
  made.driver.completions.length = 0;
  return made;
}

function stop(made: Bench): void {
  made.host.mayInitiate = false;
  made.device.quiesce();
}

function resume(made: Bench): Bench {
  made.host.mayInitiate = true;
  made.device.resume();
  made.driver.poll();
  return made;
}

/** The stopped device and its guest go on as another one over the same memory. */
function migrated(made: Bench): Bench {
  const host = new FakeHost(made.host.dma);
  host.mayInitiate = false;
  const to = bench(made.device.core.vectors, host);
  to.device.reset('client');
  to.device.migration.beginLoad(stateVersions.current);
  for (const record of made.device.migration.save()) to.device.migration.load(travel(record));
  to.device.migration.endLoad();
  Object.assign(made.driver, { host, device: to.device });
  return { ...to, driver: made.driver };
}

type Pause = readonly [what: string, pass: (made: Bench, meanwhile: () => void) => Bench];

const pauses: readonly Pause[] = [
  [
    'stops and goes on',
    (made, meanwhile) => {
      stop(made);
      meanwhile();
      return resume(made);
    },
  ],
  [
    'migrates',
    (made, meanwhile) => {
      stop(made);
      meanwhile();
      return resume(migrated(made));
    },
  ],
  [
    'loses bus mastering and gets it back',
    (made, meanwhile) => {
      made.host.pci.busMaster = false;
      made.device.commandChanged();
      meanwhile();
      made.host.pci.busMaster = true;
      made.device.commandChanged();
      made.driver.poll();
      return made;
    },
  ],
];

describe.each(pauses)('a device that %s after a send queue was recovered', (_what, pass) => {
  it.each([0, 5, ringBlocks - 1, ringBlocks, 300])(
    'sends nothing again that went before: %i frames',
    (count) => {
      const made = pass(recovered(count), () => {});
      const { driver, port } = made;
      expect(port.sent).toEqual([]);
      expect(driver.completions).toEqual([]);
      expect(driver.querySqState(sendQueue(made))).toBe(queueState.RDY);
      send(made, 2);
      expect(port.sent).toEqual([frameOf(made, 0), frameOf(made, 1)]);
      expect(driver.completions.map((cqe) => [(cqe[0x3f] ?? 0) >>> 4, cqe.readUInt16BE(0x3c)])).toEqual([
        [cqeOpcode.REQ, 0],
        [cqeOpcode.REQ, 1],
      ]);
    },
  );

  it('carries out the first doorbell of the recovered queue that rang meanwhile', () => {
    const made = recovered(5);
    const first = frameOf(made, 7);
    const after = pass(made, () => made.driver.send(first));
    expect(after.port.sent).toEqual([first]);
  });

  it('carries out a doorbell that rang meanwhile at a queue whose counters had just come around', () => {
    const made = running();
    const sq = sendQueue(made);
    const index = counterValues - 1;
    made.device.core.sqs.table.get(sq.sqn).ci = index;
    sq.pc = index;
    send(made, 1);
    expect(made.device.core.sqs.table.get(sq.sqn).ci).toBe(0);
    made.port.sent.length = 0;
    const next = frameOf(made, 9);
    const after = pass(made, () => made.driver.send(next));
    expect(after.port.sent).toEqual([next]);
  });
});

it('a doorbell that was not carried out is forgotten when its queue is reset', () => {
  const made = recovered(5);
  const sq = sendQueue(made);
  stop(made);
  made.driver.send(frameOf(made, 1));
  made.device.core.sqs.table.get(sq.sqn).setState(queueState.RST);
  made.device.core.sqs.table.get(sq.sqn).setState(queueState.RDY);
  resume(made);
  expect(made.port.sent).toEqual([]);
});
