import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { timer } from '../../../device-models/timer/index.ts';
import type { Device, StateRecord } from '../../../src/device/index.ts';
import { createTestDevice, type TestHost, transplant } from '../../../src/device/testing.ts';

const start = 1_700_000_000;
const second = 1e9;

function setTime(device: Device, seconds: bigint): void {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(seconds);
  device.bars[0]?.write(0, 8, bytes, 0);
}

function age(device: Device): bigint {
  const bytes = Buffer.alloc(8);
  device.bars[0]?.read(0, 8, bytes, 0);
  return bytes.readBigInt64LE();
}

/** Two regions of guest memory at 0x1000 and 0x8000, as the device sees them. */
function withRegions(host: TestHost): TestHost {
  const size = 0x1000;
  host.dma.regions = () => [0x1000, 0x8000].map((iova) => ({ iova, size, prot: 3, mapped: true }));
  return host;
}

describe('timer', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['Date'], now: start * 1000 });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  function pass(host: TestHost, seconds: number): void {
    vi.setSystemTime(Date.now() + seconds * 1000);
    host.advance(seconds * second);
  }

  it('interrupts when the time has come, and tells how long ago it was', () => {
    const { device, host } = createTestDevice(timer, { dma: false });
    setTime(device, BigInt(start + 5));
    expect(age(device)).toBe(-5n);
    pass(host, 4);
    expect(host.intx).toBe(false);
    pass(host, 1);
    expect(host.intx).toBe(true);
    pass(host, 3);
    expect(age(device)).toBe(3n);
    setTime(device, BigInt(start + 20));
    expect(host.intx).toBe(false);
  });

  it.each([0n, -1n, -(2n ** 63n), BigInt(start)])('a time in the past (%d) comes at once', (time) => {
    const { device, host } = createTestDevice(timer, { dma: false });
    setTime(device, time);
    host.advance(0);
    expect(host.intx).toBe(true);
    expect(age(device)).toBe(BigInt.asIntN(64, BigInt(start) - time));
  });

  it('a time out of reach does not come early', () => {
    const { device, host } = createTestDevice(timer, { dma: false });
    setTime(device, 2n ** 63n - 1n);
    pass(host, 3 * 2 ** 22);
    expect(host.intx).toBe(false);
  });

  it('writes the second region by mapping and then the first by message', () => {
    const { device, host } = createTestDevice(timer);
    withRegions(host);
    setTime(device, 0n);
    host.advance(0);
    expect(host.intx).toBe(true);
    for (const iova of [0x1000, 0x8000]) {
      const bytes = host.dma.bytes.subarray(iova, iova + 4096);
      expect(bytes.toString('latin1')).toBe(
        ['A', 'B', 'C', 'D'].map((letter) => letter.repeat(1024)).join(''),
      );
    }
    expect(host.dma.writes.map(({ iova }) => iova)).toEqual([0x8000, 0x8400, 0x8800, 0x8c00]);
    expect(host.messageLog.map(({ kind, iova, length }) => [kind, iova, length])).toEqual([
      ...[0x1000, 0x1400, 0x1800, 0x1c00].map((iova) => ['write', iova, 1024]),
      ['read', 0x1000, 2048],
      ['read', 0x1800, 2048],
    ]);
  });

  it('writes nowhere when a guest that decodes its BARs lets it be no bus master', () => {
    const { device, host } = createTestDevice(timer);
    withRegions(host);
    host.pci.busMaster = false;
    setTime(device, 0n);
    host.advance(0);
    expect([host.intx, host.dma.writes, host.messageLog]).toEqual([true, [], []]);
    host.pci.memorySpace = false;
    setTime(device, 0n);
    host.advance(0);
    expect([host.dma.writes.length, host.messageLog.length]).toEqual([4, 6]);
  });

  it('keeps 0x3000 bytes and refuses what lies behind', () => {
    const { device } = createTestDevice(timer);
    const written = Buffer.from(Uint8Array.from({ length: 0x3000 }, (_, i) => i % 251));
    device.bars[1]?.write(0, written.length, written, 0);
    const read = Buffer.alloc(0x4000, 0xff);
    device.bars[1]?.read(0, 0x4000, read, 0);
    expect(read.subarray(0, 0x3000).equals(written)).toBe(true);
    expect(read.subarray(0x3000).every((byte) => byte === 0)).toBe(true);
    expect(() => device.bars[1]?.write(0x2fff, 2, Buffer.alloc(2), 0)).toThrow('0x3000');
    for (const width of [1, 4]) {
      expect(() => device.bars[0]?.read(0, width, Buffer.alloc(8), 0)).toThrow('8 bytes');
      expect(() => device.bars[0]?.write(0, width, Buffer.alloc(8), 0)).toThrow('8 bytes');
    }
  });

  it('rings at the destination when the time comes there', () => {
    const source = createTestDevice(timer, { dma: false });
    const target = createTestDevice(timer, { dma: false });
    setTime(source.device, BigInt(start + 10));
    source.device.bars[1]?.write(0x2ffe, 2, Buffer.from([7, 8]), 0);
    source.device.quiesce?.();
    pass(source.host, 20);
    expect(source.host.intx).toBe(false);
    vi.setSystemTime(start * 1000);
    transplant(source.device, target.device, timer.stateVersion);
    pass(target.host, 8);
    expect(target.host.intx).toBe(false);
    target.device.resume?.();
    pass(target.host, 2);
    expect(target.host.intx).toBe(true);
    const bytes = Buffer.alloc(2);
    target.device.bars[1]?.read(0x2ffe, 2, bytes, 0);
    expect([...bytes]).toEqual([7, 8]);
  });

  it('sends a preview once while it runs, and everything when it is stopped', () => {
    const { device } = createTestDevice(timer);
    const session = device.migration?.preCopy?.();
    if (!session) throw new Error('timer has no precopy');
    expect(session.initialBytes()).toBeGreaterThan(0);
    expect(session.next()).toMatchObject({ section: 'storage' });
    expect([session.next(), session.initialBytes()]).toEqual([undefined, 0]);
    const sections = [...session.final()].map(({ section }) => section);
    expect(sections).toEqual(['storage', 'time']);
    session.end();
  });

  it('forgets its alarm, not its storage, when it is reset', () => {
    const { device, host } = createTestDevice(timer, { dma: false });
    setTime(device, BigInt(start + 1));
    device.bars[1]?.write(0, 1, Buffer.from([9]), 0);
    device.reset('client');
    pass(host, 5);
    expect(host.intx).toBe(false);
    const byte = Buffer.alloc(1);
    device.bars[1]?.read(0, 1, byte, 0);
    expect(byte[0]).toBe(9);
  });

  it.each([
    ['storage outside BAR 1', { section: 'storage', offset: 0x2fff, bytes: new Uint8Array(2) }],
    ['storage before BAR 1', { section: 'storage', offset: -1, bytes: new Uint8Array(2) }],
    ['a time that is a string', { section: 'time', value: { time: '5', armed: true } }],
    ['a time that is a fraction', { section: 'time', value: { time: 0.5, armed: true } }],
    ['an alarm that is neither set nor not', { section: 'time', value: { time: 5 } }],
    ['no time at all', { section: 'time', value: null }],
    ['a section that it has not', { section: 'space', value: 1 }],
  ] satisfies [string, StateRecord][])('refuses a state with %s', (_what, record) => {
    const { device } = createTestDevice(timer);
    device.migration?.beginLoad(timer.stateVersion);
    expect(() => device.migration?.load(record)).toThrow(expect.objectContaining({ code: 'VC_TIMER_STATE' }));
  });
});
