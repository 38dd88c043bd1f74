import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { shippedModel } from '../../device-models/index.ts';
import { command, registers } from '../../device-models/ram/registers.ts';
import type { DeviceModel } from '../../src/device/index.ts';
import { errno } from '../../src/errors.ts';
import { closeFd, MappedMemory, memfdCreate, sealSize, write } from '../../src/posix/index.ts';
import { pciRegion } from '../../src/vfio-user/constants.ts';
import { pageWindowSize } from '../../src/vfio-user/page-window.ts';
import { serversUnderTest } from './harness.ts';
import { Bench } from './runtime-harness.ts';

const model = (await shippedModel('ram')) as DeviceModel;
const page = 4096;
const guestPages = 64;
const slots = 16;
const size = pageWindowSize(slots);
const token = Buffer.from('sixteen bytes or');
const name = 'page-window-test';
const mappings = () =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(name)).length;
const refusal = (code: number) => expect.objectContaining({ errno: code });

describe.each(serversUnderTest)('pages through shared memory, $name server:', (under) => {
  let fd: number;
  let source: Bench;
  let target: Bench;
  let guests: { source: Buffer; target: Buffer };

  beforeEach(() => {
    fd = memfdCreate(name, size);
    sealSize(fd);
    write(fd, token);
    source = new Bench(model, {}, under);
    target = new Bench(model, {}, under);
    guests = {
      source: source.guestMemory(0, guestPages * page),
      target: target.guestMemory(0, guestPages * page),
    };
    guests.target.fill(0xee);
    source.client.writeRegister(pciRegion.config, 4, 6, 2);
    source.orchestrator.startDmaLogging(page);
  });
  afterEach(() => {
    for (const bench of [source, target]) bench.close();
    closeFd(fd);
  });

  const open = (bench: Bench, more: object = {}): unknown =>
    bench.orchestrator.companion('openPageWindow', { pid: process.pid, fd, size, token, slots, ...more });
  const ask = (bench: Bench, op: string, args: Record<string, unknown> = {}) =>
    bench.orchestrator.companion(op, args) as Record<string, number>;

  /** The device writes `count` bytes of `text`, over and over, to guest memory. */
  function dirty(address: number, text: string, count: number): void {
    source.client.regionWrite(2, 0, Buffer.alloc(count, text));
    for (const [register, value] of [
      [registers.GUEST_ADDRESS, address],
      [registers.DEVICE_ADDRESS, 0],
      [registers.LENGTH, count],
    ] as const) {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(BigInt(value));
      source.client.regionWrite(0, register.offset, bytes);
    }
    source.client.writeRegister(0, registers.COMMAND.offset, command.toGuest);
    source.settle();
  }

  it('arrive where they belong, and no others; the client is shown none of them', () => {
    dirty(2 * page + 100, 'carried', 3 * page);
    dirty(9 * page, 'alone', 10);
    for (const bench of [source, target]) open(bench);
    const shown: number[] = [];
    source.client.onDma = ({ write: isWrite, iova }) => void (isWrite && shown.push(iova));
    expect(ask(source, 'markDirty', { keep: 10 })).toMatchObject({ pages: 0, kept: 5, failed: 0 });
    expect(ask(source, 'dirtyEstimate')).toEqual({ pages: 0 });
    expect(ask(source, 'carryPages')).toMatchObject({ pages: 5 });
    ask(target, 'placePages', { pages: 5 });
    expect(shown).toEqual([]);
    for (let at = 0; at < guestPages; at++) {
      const expected = [2, 3, 4, 5, 9].includes(at)
        ? guests.source.subarray(at * page, (at + 1) * page)
        : Buffer.alloc(page, 0xee);
      expect(guests.target.subarray(at * page, (at + 1) * page).equals(expected), `page ${at}`).toBe(true);
    }
    // Once is enough.
    expect(ask(source, 'carryPages')).toMatchObject({ pages: 0 });
  });

  it('that have no slot are marked', () => {
    dirty(0, 'x', (slots + 4) * page);
    open(source);
    const shown = new Set<number>();
    source.client.onDma = ({ write: isWrite, iova, count }) => {
      if (isWrite) for (const at of [iova, iova + count - 1]) shown.add(Math.floor(at / page));
    };
    expect(ask(source, 'markDirty', { keep: 1000 })).toMatchObject({ pages: 4, kept: slots });
    expect([...shown].sort((a, b) => a - b)).toEqual([slots, slots + 1, slots + 2, slots + 3]);
  });

  it('are all marked without a window, or when none is asked for', () => {
    dirty(0, 'x', page);
    expect(ask(source, 'markDirty', { keep: 1000 })).toMatchObject({ pages: 1, kept: 0 });
    open(source);
    dirty(0, 'x', page);
    expect(ask(source, 'markDirty')).toMatchObject({ pages: 1, kept: 0 });
    expect(ask(source, 'carryPages')).toMatchObject({ pages: 0 });
  });

  it('need no Bus Master to be carried, as nothing is asked of the client', () => {
    dirty(3 * page, 'x', 2 * page);
    open(source);
    source.client.writeRegister(pciRegion.config, 4, 2, 2);
    expect(ask(source, 'markDirty', { keep: 1 })).toMatchObject({ pages: 0, kept: 0, deferred: true });
    expect(ask(source, 'markDirty', { keep: 2 })).toMatchObject({ pages: 0, kept: 2, deferred: false });
    expect(ask(source, 'carryPages')).toMatchObject({ pages: 2 });
  });

  it('can be looked at and touched in advance, which changes nothing', () => {
    dirty(page, 'look', 3 * page);
    dirty(8 * page, 'look', 2 * page);
    for (const bench of [source, target]) open(bench);
    const before = Buffer.from(guests.target);
    expect(ask(source, 'lookAtPages', { from: 0, slot: 0, limit: 2 })).toMatchObject({
      pages: 2,
      next: 3 * page,
    });
    expect(ask(source, 'lookAtPages', { from: 3 * page, slot: 2, limit: 9 })).toMatchObject({
      pages: 3,
      next: 10 * page,
    });
    expect(ask(source, 'lookAtPages', { from: 10 * page, slot: 5, limit: 2 })).toMatchObject({
      pages: 0,
      next: 10 * page,
    });
    ask(target, 'touchPages', { slot: 0, pages: 5 });
    expect(guests.target.equals(before)).toBe(true);
    expect(ask(source, 'dirtyEstimate')).toEqual({ pages: 5 });
    // What was looked at is what is carried: the slots hold it already.
    ask(target, 'placePages', { pages: 5 });
    for (const at of [1, 2, 3, 8, 9]) {
      const [theirs, ours] = [guests.source, guests.target].map((guest) =>
        guest.subarray(at * page, (at + 1) * page),
      );
      expect(ours?.equals(theirs ?? Buffer.alloc(0)), `page ${at}`).toBe(true);
    }
  });

  it('are refused where the window says what can not be', () => {
    open(target);
    const window = MappedMemory.map(fd, 0, size, 3);
    const bytes = window.windows[0] ?? Buffer.alloc(0);
    const before = Buffer.from(guests.target);
    const place = (address: bigint) => () => {
      bytes.writeBigUInt64LE(address, slots * page);
      return ask(target, 'placePages', { pages: 1 });
    };
    expect(place(8n)).toThrow(refusal(errno.EINVAL));
    for (const address of [0x1000_0000n, BigInt(guestPages * page), 1n << 52n, 0xffff_ffff_ffff_f000n]) {
      expect(place(address)).toThrow(expect.objectContaining({ errno: expect.any(Number) }));
      // Touching is a favour, which is not refused.
      ask(target, 'touchPages', { slot: 0, pages: 1 });
    }
    expect(guests.target.equals(before)).toBe(true);
    place(BigInt(page))();
    expect(guests.target.equals(before)).toBe(false);
    window.unmap();
  });

  it('whose memory the client has taken away end the migration, not the server', () => {
    dirty(0, 'x', page);
    open(source);
    expect(ask(source, 'markDirty', { keep: 1 })).toMatchObject({ kept: 1 });
    source.client.dmaUnmap(0, guestPages * page);
    expect(() => ask(source, 'carryPages')).toThrow(expect.objectContaining({ errno: expect.any(Number) }));
    expect(ask(source, 'dirtyEstimate')).toEqual({ pages: 0 });
  });

  it('keep to the window', () => {
    for (const [op, args] of [
      ['placePages', { pages: 1 }],
      ['touchPages', { slot: 0, pages: 1 }],
      ['lookAtPages', { from: 0, slot: 0, limit: 1 }],
    ] as const)
      expect(() => ask(target, op, args)).toThrow(refusal(errno.EINVAL));
    for (const more of [{ slots: 0 }, { slots: slots + 1 }, { slots: 1e6 }, { slots: -1 }, { slots: 'many' }])
      expect(() => open(target, more)).toThrow(refusal(errno.EINVAL));
    expect(() => open(target, { token: Buffer.from('sixteen bytes of') })).toThrow(refusal(errno.EPERM));
    expect(mappings()).toBe(0);
    open(target);
    expect(mappings()).toBe(1);
    for (const [op, args] of [
      ['placePages', { pages: slots + 1 }],
      ['touchPages', { slot: 1, pages: slots }],
      ['touchPages', { slot: 2 ** 52, pages: 1 }],
      ['touchPages', { slot: 0, pages: 100_000 }],
      ['lookAtPages', { from: 0, slot: slots, limit: 1 }],
      ['lookAtPages', { from: -1, slot: 0, limit: 1 }],
      ['markDirty', { keep: -1 }],
    ] as const)
      expect(() => ask(target, op, args), op).toThrow(refusal(errno.EINVAL));
    ask(target, 'closePageWindow');
    expect(mappings()).toBe(0);
  });

  it('are let go of when the orchestrator goes', () => {
    open(source);
    expect(mappings()).toBe(1);
    source.orchestrator.close();
    source.settle();
    expect(mappings()).toBe(0);
  });
});
