import { expect, it } from 'vitest';
import { type CompletionQueue, cqStatus } from '../../../device-models/mlx5/cq.ts';
import { eqStatus } from '../../../device-models/mlx5/eq.ts';
import type { Mlx5Device } from '../../../device-models/mlx5/index.ts';
import { limits } from '../../../device-models/mlx5/limits.ts';
import { cqeOpcode, cqeSyndrome, eventType } from '../../../device-models/mlx5/prm/index.ts';
import { queueState } from '../../../device-models/mlx5/work-queue.ts';
import { logCqSize, logRqSize } from './driver-base.ts';
import { buildFrame } from './frames.ts';
import { running } from './setup.ts';

const noise = 0xabcd0000;

it('counts in the low half of a doorbell record, whatever the high half is', () => {
  const { port, driver } = running();
  const { rx, tx } = driver.channels[0] ?? expect.fail('no channel');
  const frame = buildFrame({ dst: driver.mac });
  driver.build(tx, frame);
  driver.memory.writeUInt32BE((noise | tx.pc) >>> 0, tx.dbr + 4);
  driver.write64(driver.uarBase + 0x800, 0, tx.sqn << 8);
  expect(port.sent).toEqual([frame]);
  driver.memory.writeUInt32BE((noise | rx.pi) >>> 0, rx.dbr);
  for (let count = 0; count < 2 ** logRqSize; count++) expect(port.inject(frame)).toBe(true);
  // No buffer is left.
  expect(port.inject(frame)).toBe(false);
});

it.each([
  ['every frame that is posted to it', true, [cqeSyndrome.LOCAL_QP_OP_ERR, cqeSyndrome.WR_FLUSH_ERR]],
  ['its failure alone', false, [cqeSyndrome.LOCAL_QP_OP_ERR]],
] as const)('a send queue in error tells of %s, as its driver has asked', (_what, flush, syndromes) => {
  const { device, driver } = running();
  const { cq } = driver.channels[0]?.tx ?? expect.fail('no channel');
  const sq = driver.createSq(cq, driver.tis, undefined, flush);
  driver.completions.length = 0;
  device.injectSendError();
  for (let count = 0; count < 2; count++) {
    driver.build(sq, buildFrame({ dst: driver.mac }));
    driver.ring(sq);
    driver.poll();
  }
  expect(driver.completions.map((cqe) => [(cqe[0x3f] ?? 0) >>> 4, cqe[0x37]])).toEqual(
    syndromes.map((syndrome) => [cqeOpcode.REQ_ERR, syndrome]),
  );
});

it('refuses a WQE that names another queue', () => {
  const { port, driver } = running();
  const { ico, tx } = driver.channels[0] ?? expect.fail('no channel');
  driver.build(tx, buildFrame({ dst: driver.mac }));
  driver.memory.writeUInt32BE(((ico.sqn << 8) | 3) >>> 0, tx.ring + 4);
  driver.completions.length = 0;
  driver.ring(tx);
  driver.poll();
  expect(port.sent).toEqual([]);
  expect(driver.completions.map((cqe) => cqe[0x37])).toEqual([cqeSyndrome.LOCAL_QP_OP_ERR]);
});

it('refuses a WQE with more payload than one may carry', () => {
  const { port, driver } = running();
  const headers = buildFrame({ dst: driver.mac, protocol: 'tcp', padTo: 54 });
  const send = (payload: number): void =>
    driver.send(Buffer.concat([headers, Buffer.alloc(payload)]), { mss: 1400, inline: headers.length });
  driver.completions.length = 0;
  send(limits.lsoPayloadBytes);
  driver.poll();
  expect(port.sent.length).toBe(Math.ceil(limits.lsoPayloadBytes / 1400));
  port.sent.length = 0;
  send(limits.lsoPayloadBytes + 1);
  driver.poll();
  expect(port.sent).toEqual([]);
  expect(driver.completions.map((cqe) => cqe[0x37])).toEqual([0, cqeSyndrome.LOCAL_LENGTH_ERR]);
});

it('writes nothing more to a completion queue that has run over, whatever room there is later', () => {
  const { device, driver } = running();
  const { tx } = driver.channels[0] ?? expect.fail('no channel');
  const cq = device.core.cqs.table.get(tx.cq.cqn);
  for (let count = 0; count <= 2 ** logCqSize; count++) driver.postNop(tx);
  expect(cq.status).toBe(cqStatus.OVERFLOW);
  const written = cq.pi;
  driver.poll();
  driver.modifySq(tx, queueState.ERR, queueState.RST);
  driver.modifySq(tx, queueState.RST, queueState.RDY);
  tx.pc = 0;
  driver.postNop(tx);
  expect(cq.pi).toBe(written);
  expect(driver.querySqState(tx)).toBe(queueState.ERR);
  driver.poll();
  expect(driver.events.filter(({ type }) => type === eventType.CQ_ERROR)).toHaveLength(1);
});

function eqOf(device: Mlx5Device, cq: CompletionQueue) {
  return device.core.eqs.table.get(cq.settings.eqn);
}

/** A device that has told of one frame, and holds the event of the next one back for `microseconds`. */
function moderated(microseconds: number) {
  const { host, device, port, driver } = running();
  driver.moderate(microseconds);
  const frame = buildFrame({ dst: driver.mac });
  port.inject(frame);
  driver.poll();
  return { host, device, port, driver, frame, fired: host.fired.length };
}

it.each([
  ['the function is reset', ({ device }) => device.reset('flr')],
  ['its CQ is destroyed', ({ driver }) => driver.down()],
] as readonly [string, (made: ReturnType<typeof moderated>) => void][])(
  'forgets an event that moderation holds back when %s',
  (_what, end) => {
    const made = moderated(50);
    const { host, port, frame } = made;
    const timers = host.timers.size;
    port.inject(frame);
    const waiting = () => [...host.timers].filter((timer) => timer.armed).length;
    expect(waiting()).toBe(1);
    end(made);
    expect(waiting()).toBe(0);
    expect(host.timers.size).toBeLessThanOrEqual(timers);
  },
);

it('holds an event back from the last one on, though one that was held back before had its own time', () => {
  const { host, device, port, driver, frame, fired } = moderated(1000);
  const cq = device.core.cqs.table.get(driver.channels[0]?.rx.cq.cqn ?? 0);
  port.inject(frame);
  host.advance(500_000);
  // All that may wait: the event comes before its time.
  for (let count = 1; count < 32; count++) port.inject(frame);
  expect(host.fired.length).toBe(fired + 1);
  // The driver has seen all but the last completion.
  driver.write32(driver.uarBase + 0x40, (((driver.eqs.comp[0]?.eqn ?? 0) << 24) | eqOf(device, cq).pi) >>> 0);
  device.core.cqs.arm(cq.id, cq.pi - 1, false);
  host.advance(900_000);
  expect(host.fired.length).toBe(fired + 1);
  host.advance(100_000);
  expect(host.fired.length).toBe(fired + 2);
});

it('tells at once of what a CQ or an EQ has already when it is armed, and of nothing when all was seen', () => {
  const { host, device, port, driver } = running();
  const frame = buildFrame({ dst: driver.mac });
  driver.poll();
  const cq = device.core.cqs.table.get(driver.channels[0]?.rx.cq.cqn ?? 0);
  const eq = eqOf(device, cq);
  const arm = (ci: number) => driver.write64(driver.uarBase + 0x20, ci, cq.id);
  const armEq = (ci: number) => driver.write32(driver.uarBase + 0x40, ((eq.id << 24) | ci) >>> 0);
  /** Events and interrupts that come of something. */
  const news = (act: () => void) => {
    const before = { events: eq.pi, interrupts: host.fired.length };
    act();
    return [eq.pi - before.events, host.fired.length - before.interrupts];
  };
  expect(news(() => port.inject(frame))).toEqual([1, 1]);
  expect(news(() => port.inject(frame))).toEqual([0, 0]);
  expect(news(() => arm(cq.pi))).toEqual([0, 0]);
  expect(news(() => arm(cq.pi - 1))).toEqual([1, 0]);
  expect(news(() => armEq(eq.pi - 1))).toEqual([0, 1]);
  expect(news(() => armEq(eq.pi))).toEqual([0, 0]);
  expect(news(() => arm(cq.pi - 1))).toEqual([1, 1]);
});

it('sends an event that moderation holds back when the driver ends moderation', () => {
  const { host, port, driver, frame, fired } = moderated(50);
  port.inject(frame);
  expect(host.fired.length).toBe(fired);
  expect(driver.received.length).toBe(1);
  driver.moderate(0);
  driver.poll();
  expect(driver.received.length).toBe(2);
});

/** `fm_ce_se`: what a WQE asks to be completed with. */
const completionModes = [
  ['nothing', 0x0, 0, false],
  ['the first error alone', 0x4, 0, false],
  ['a CQE', 0x8, 1, false],
  ['a CQE and an event', 0xc, 1, true],
] as const;

it.each(completionModes)('completes a WQE that asks for %s so', (_what, flags, completions, solicited) => {
  const { host, device, driver } = running();
  const { tx } = driver.channels[0] ?? expect.fail('no channel');
  const cq = device.core.cqs.table.get(tx.cq.cqn);
  driver.poll();
  // Armed for solicited completions only: command 1.
  driver.write64(driver.uarBase + 0x20, ((1 << 24) | (tx.cq.ci & 0xffffff)) >>> 0, tx.cq.cqn);
  const [before, fired] = [cq.pi, host.fired.length];
  driver.postNop(tx, false);
  driver.memory[tx.ring + ((tx.pc - 1) % 2 ** tx.logSize) * 64 + 11] = flags;
  driver.ring(tx);
  expect(cq.pi - before).toBe(completions);
  expect(host.fired.length - fired).toBe(solicited ? 1 : 0);
});

it('tells of a failure also where a CQ is armed for solicited completions only', () => {
  const { host, port, device, driver } = running();
  const { tx, rx } = driver.channels[0] ?? expect.fail('no channel');
  driver.poll();
  const armSolicited = (cq: { ci: number; cqn: number }) =>
    driver.write64(driver.uarBase + 0x20, ((1 << 24) | (cq.ci & 0xffffff)) >>> 0, cq.cqn);
  armSolicited(tx.cq);
  device.injectSendError();
  let fired = host.fired.length;
  driver.send(buildFrame({ dst: driver.mac }));
  expect(host.fired.length).toBe(fired + 1);
  driver.poll();
  armSolicited(rx.cq);
  fired = host.fired.length;
  port.inject(buildFrame({ dst: driver.mac }));
  expect(host.fired.length).toBe(fired);
  driver.memory.writeUInt32BE(0x4242, rx.ring + 16 + 4);
  port.inject(buildFrame({ dst: driver.mac }));
  expect(host.fired.length).toBe(fired + 1);
});

it('sends an event that moderation holds back with the last completion that it may wait for', () => {
  const { host, port, frame, fired } = moderated(1000);
  // `cq_max_count` is 32.
  for (let count = 1; count < 32; count++) port.inject(frame);
  expect(host.fired.length).toBe(fired);
  port.inject(frame);
  expect(host.fired.length).toBe(fired + 1);
});

it('fills an event queue to its last entry, and fails it with one more', () => {
  const { device, driver } = running();
  const { eqs } = device.core;
  const eq = eqs.table.get(driver.eqs.pages?.eqn ?? 0);
  const post = (): number => {
    eqs.post(eq, eventType.PAGE_REQUEST, 0, 0, 1);
    return eq.status;
  };
  while ((eq.pi - eq.ci) % 2 ** 24 < eq.ring.size - 1) expect(post()).toBe(eqStatus.OK);
  expect([post(), eq.pi - eq.ci]).toEqual([eqStatus.OK, eq.ring.size]);
  expect([post(), eq.pi - eq.ci]).toEqual([eqStatus.EQ_WRITE_FAILURE, eq.ring.size]);
});
