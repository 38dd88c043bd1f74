/** Memory keys: what a work queue may read and write with one, byte by byte. */
import { describe, expect, it } from 'vitest';
import { anyQueue } from '../../../device-models/mlx5/mkeys.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { CommandFailed, type FakeDriver } from './driver.ts';
import { buildFrame } from './frames.ts';
import { type Bench, running } from './setup.ts';

const mkcByte = 16;
const frameBytes = 200;
const localProtection = 4;
const requesterError = 13;
const responderError = 14;

interface Key {
  readonly pd?: number;
  readonly lr?: 0 | 1;
  readonly lw?: 0 | 1;
  readonly variant?: number;
  readonly qpn?: number;
  /** Start and length; without them it is of all memory. */
  readonly range?: readonly [number, number];
}

/** CREATE_MKEY; returns the key that WQEs use. */
function createMkey(driver: FakeDriver, key: Key): number {
  const input = Buffer.alloc(272);
  prm.mkc.set(input, 'lr', key.lr ?? 1, mkcByte);
  prm.mkc.set(input, 'lw', key.lw ?? 1, mkcByte);
  prm.mkc.set(input, 'pd', key.pd ?? driver.pd, mkcByte);
  prm.mkc.set(input, 'mkey_7_0', key.variant ?? 0, mkcByte);
  prm.mkc.set(input, 'qpn', key.qpn ?? anyQueue, mkcByte);
  prm.mkc.set(input, 'length64', key.range === undefined ? 1 : 0, mkcByte);
  if (key.range !== undefined) {
    prm.mkc.set64(input, 'start_addr', key.range[0], mkcByte);
    prm.mkc.set64(input, 'len', key.range[1], mkcByte);
  }
  const index = prm.createMkeyOut.get(driver.command('CREATE_MKEY', input), 'mkey_index');
  return ((index << 8) | (key.variant ?? 0)) >>> 0;
}

const anotherPd = (driver: FakeDriver): number => prm.allocPdOut.get(driver.command('ALLOC_PD'), 'pd');

function queryMkey(driver: FakeDriver, lkey: number): Buffer {
  const input = Buffer.alloc(16);
  prm.queryMkeyIn.set(input, 'mkey_index', lkey >>> 8);
  const output = driver.command('QUERY_MKEY', input, 304);
  return output.subarray(prm.queryMkeyOut.byte('memory_key_mkey_entry'));
}

const someFrame = (driver: FakeDriver) =>
  buildFrame({ dst: driver.mac, src: driver.mac, payload: Buffer.alloc(frameBytes - 42, 3) });

function firstChannel({ driver }: Bench) {
  const channel = driver.channels[0];
  if (channel === undefined) throw new Error('no channel');
  return channel;
}

/** Sends a frame whose bytes are all behind one key; returns the syndrome of the error completion, 0 for none. */
function sendWith(bench: Bench, lkeyFor: (address: number) => number): number {
  const { driver, port } = bench;
  const sq = firstChannel(bench).tx;
  const at = sq.ring + (sq.pc % 2 ** sq.logSize) * 64 + 32;
  const frame = buildFrame({ dst: Buffer.alloc(6, 2), src: driver.mac, payload: Buffer.alloc(100, 7) });
  driver.build(sq, frame);
  expect(driver.memory.readUInt32BE(at)).toBe(frame.length);
  driver.memory.writeUInt32BE(lkeyFor(driver.memory.readUInt32BE(at + 12)), at + 4);
  driver.ring(sq);
  driver.poll();
  const last = driver.completions.at(-1);
  const failed = (last?.[0x3f] ?? 0) >>> 4 === requesterError;
  expect(port.sent.splice(0).length).toBe(failed ? 0 : 1);
  driver.completions.length = 0;
  if (failed) {
    driver.modifySq(sq, 3, 0);
    sq.pc = 0;
    driver.modifySq(sq, 0, 1);
  }
  return failed ? (last?.[0x37] ?? 0) : 0;
}

/** Receives a frame into a buffer behind a key; returns the syndrome of the error completion, 0 for none. */
function receiveWith(bench: Bench, lkeyFor: (address: number, length: number) => number): number {
  const { driver, port } = bench;
  const { rx } = firstChannel(bench);
  const buffer = driver.memory.readUInt32BE(rx.ring + 12);
  driver.memory.writeUInt32BE(frameBytes, rx.ring);
  driver.memory.writeUInt32BE(lkeyFor(buffer, frameBytes), rx.ring + 4);
  port.inject(someFrame(driver));
  driver.poll();
  const last = driver.completions.at(-1);
  const failed = (last?.[0x3f] ?? 0) >>> 4 === responderError;
  expect(driver.received.length).toBe(failed ? 0 : 1);
  // Nothing of a frame that may not be written is.
  if (failed)
    expect(driver.memory.subarray(buffer, buffer + frameBytes).every((byte) => byte === 0)).toBe(true);
  return failed ? (last?.[0x37] ?? 0) : 0;
}

/** What is done with a key whose range is moved against the buffer of `length` bytes at `address`. */
const ranges: readonly [string, (address: number, length: number) => readonly [number, number], boolean][] = [
  ['just the buffer', (address, length) => [address, length], true],
  ['more on both sides', (address, length) => [address - 8, length + 16], true],
  ['a byte less at the end', (address, length) => [address, length - 1], false],
  ['a byte less at the start', (address, length) => [address + 1, length], false],
  ['no bytes', (address) => [address, 0], false],
  ['all from 0 to a byte before the end', (address, length) => [0, address + length - 1], false],
];

describe('a send queue', () => {
  const bench = running();
  const { driver } = bench;

  it.each(ranges)('reads by a key of %s', (_what, range, allowed) => {
    const syndrome = sendWith(bench, (address) => createMkey(driver, { range: range(address, 142) }));
    expect(syndrome).toBe(allowed ? 0 : localProtection);
  });

  it('needs local read, and not local write', () => {
    expect(sendWith(bench, () => createMkey(driver, { lw: 0 }))).toBe(0);
    expect(sendWith(bench, () => createMkey(driver, { lr: 0 }))).toBe(localProtection);
  });

  it('reads by a key of its own protection domain only', () => {
    expect(sendWith(bench, () => createMkey(driver, { pd: anotherPd(driver) }))).toBe(localProtection);
  });

  it('reads by a key of its own, and of no other queue: not by one whose driver forgot to say that it is for all', () => {
    const { sqn } = firstChannel(bench).tx;
    expect(sendWith(bench, () => createMkey(driver, { qpn: sqn }))).toBe(0);
    expect(sendWith(bench, () => createMkey(driver, { qpn: sqn + 1 }))).toBe(localProtection);
    expect(sendWith(bench, () => createMkey(driver, { qpn: 0 }))).toBe(localProtection);
  });

  it('needs the whole key, with the byte that its driver chose', () => {
    expect(sendWith(bench, () => createMkey(driver, { variant: 0x5a }))).toBe(0);
    expect(sendWith(bench, () => createMkey(driver, { variant: 0x5a }) ^ 1)).toBe(localProtection);
  });
});

describe('a receive queue', () => {
  it.each(ranges.slice(0, 4))('writes by a key of %s', (_what, range, allowed) => {
    const bench = running();
    const { driver } = bench;
    const syndrome = receiveWith(bench, (address, length) =>
      createMkey(driver, { range: range(address, length) }),
    );
    expect(syndrome).toBe(allowed ? 0 : localProtection);
  });

  it('needs local write, and not local read: without it, it stops with a local protection error that is counted', () => {
    const writes = running();
    expect(receiveWith(writes, () => createMkey(writes.driver, { lr: 0 }))).toBe(0);
    const reads = running();
    expect(receiveWith(reads, () => createMkey(reads.driver, { lw: 0 }))).toBe(localProtection);
    const input = Buffer.alloc(32);
    prm.queryQCounterIn.set(input, 'counter_set_id', reads.driver.qCounter);
    const counters = reads.driver.command('QUERY_Q_COUNTER', input, 256);
    expect(prm.queryQCounterOut.get(counters, 'resp_local_protection')).toBe(1);
    const query = Buffer.alloc(16);
    prm.queryRqIn.set(query, 'rqn', firstChannel(reads).rx.rqn);
    const state = prm.rqc.get(reads.driver.command('QUERY_RQ', query, 272), 'state', 0x20);
    expect(state).toBe(3);
  });

  it('writes by a key of its own, and of no other queue', () => {
    for (const [offset, expected] of [
      [0, 0],
      [1, localProtection],
    ] as const) {
      const bench = running();
      const qpn = firstChannel(bench).rx.rqn + offset;
      expect(receiveWith(bench, () => createMkey(bench.driver, { qpn }))).toBe(expected);
    }
  });

  it('writes by a key of its own protection domain only', () => {
    const bench = running();
    expect(receiveWith(bench, () => createMkey(bench.driver, { pd: anotherPd(bench.driver) }))).toBe(
      localProtection,
    );
  });
});

describe('CREATE_MKEY and QUERY_MKEY', () => {
  it('have the same to say of a key', () => {
    const { driver } = running();
    const range = [0x1_2345_6000, 0x9_8765_4000] as const;
    const { pd } = driver;
    const lkey = createMkey(driver, { lr: 0, lw: 1, variant: 0xa7, qpn: 0x12345, range });
    const context = queryMkey(driver, lkey);
    const fields = (['pd', 'lr', 'lw', 'mkey_7_0', 'qpn', 'length64'] as const).map((name) =>
      prm.mkc.get(context, name),
    );
    expect(fields).toEqual([pd, 0, 1, 0xa7, 0x12345, 0]);
    expect([prm.mkc.get64(context, 'start_addr'), prm.mkc.get64(context, 'len')]).toEqual([...range]);
    const whole = queryMkey(driver, createMkey(driver, { lr: 1, lw: 0 }));
    expect((['lr', 'lw', 'qpn', 'length64'] as const).map((name) => prm.mkc.get(whole, name))).toEqual([
      1,
      0,
      anyQueue,
      1,
    ]);
  });

  it('refuse a range that ends beyond what an address can be, and a key of translated addresses', () => {
    const { driver } = running();
    expect(() => createMkey(driver, { range: [2 ** 53 - 4096, 8192] })).toThrow(CommandFailed);
    expect(createMkey(driver, { range: [2 ** 53 - 8192, 8191] })).toBeGreaterThan(0);
    const input = Buffer.alloc(272);
    prm.mkc.set(input, 'access_mode_1_0', 1, mkcByte);
    expect(() => driver.command('CREATE_MKEY', input)).toThrow(CommandFailed);
    prm.mkc.set(input, 'access_mode_1_0', 0, mkcByte);
    prm.mkc.set(input, 'access_mode_4_2', 1, mkcByte);
    expect(() => driver.command('CREATE_MKEY', input)).toThrow(CommandFailed);
  });
});
