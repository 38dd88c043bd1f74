import { beforeEach, describe, expect, test } from 'vitest';
import { TimerQueue } from '../../../src/loop/timers.ts';
import type { Reactor } from '../../../src/loop/types.ts';
import { Announcer } from '../../../src/net/announcer.ts';
import { formatMac, rarpFrame } from '../../../src/net/ethernet.ts';

const mac = (n: number): Uint8Array => Uint8Array.from([2, 0, 0, 0, n >> 8, n & 0xff]);
const name = (n: number): string => formatMac(mac(n));
const REPEATS = 4;

let sent: string[];
let announcer: Announcer;
let onSend: () => void;
let now: number;
let timers: TimerQueue;
/** Lets time pass until the next repeat. */
const next = (): void => {
  now += timers.next() ?? 0;
  timers.runDue();
};

beforeEach(() => {
  sent = [];
  now = 0;
  timers = new TimerQueue(() => now);
  const reactor = { timer: (callback: () => void) => timers.create(callback) } as unknown as Reactor;
  onSend = () => {};
  announcer = new Announcer(reactor, (frame) => {
    sent.push(formatMac(frame.subarray(6, 12)));
    onSend();
  });
});

describe('announcements', () => {
  test('of several addresses are all repeated, in their order', () => {
    for (const n of [1, 2, 3]) announcer.announce(mac(n));
    expect(sent).toEqual([name(1), name(2), name(3)]);
    for (let repeat = 0; repeat < REPEATS; repeat++) next();
    expect(sent).toEqual(Array.from({ length: 1 + REPEATS }, () => [1, 2, 3].map(name)).flat());
    expect(timers.next()).toBeUndefined();
  });

  test('in a VLAN are made beside those without', () => {
    const rarp = `80350001080006040003${'020000000001'}00000000${'020000000001'}00000000`;
    const frame = (tag: string) => `${'ff'.repeat(6)}020000000001${tag}${rarp}${'00'.repeat(18)}`;
    expect(rarpFrame(mac(1)).toString('hex')).toBe(frame(''));
    expect(rarpFrame(mac(1), 0xabc).toString('hex')).toBe(frame('81000abc'));
    announcer.announce(mac(1));
    announcer.announce(mac(1), 5);
    announcer.announce(mac(1), 6);
    sent.length = 0;
    next();
    expect(sent).toEqual([name(1), name(1), name(1)]);
  });

  test('of an address that is announced again are not doubled', () => {
    announcer.announce(mac(1));
    next();
    announcer.announce(mac(1));
    sent.length = 0;
    for (let repeat = 0; repeat < REPEATS; repeat++) next();
    expect(sent).toEqual(Array.from({ length: REPEATS }, () => name(1)));
    expect(timers.next()).toBeUndefined();
  });

  test('beyond a bound are made once', () => {
    for (let n = 0; n < 1000; n++) announcer.announce(mac(n));
    expect(sent.length).toBe(1000);
    sent.length = 0;
    next();
    expect(sent).toEqual(Array.from({ length: 256 }, (_, n) => name(n)));
  });

  test.each([
    ['stopped', () => announcer.stop()],
    ['closed', () => announcer.close()],
  ])('are not repeated when they have been %s', (_, end) => {
    announcer.announce(mac(1));
    announcer.announce(mac(2));
    next();
    sent.length = 0;
    end();
    expect(timers.next()).toBeUndefined();
    expect(sent).toEqual([]);
  });

  test('end in the middle when sending one has the port closed', () => {
    announcer.announce(mac(1));
    announcer.announce(mac(2));
    sent.length = 0;
    onSend = () => announcer.close();
    next();
    expect(sent).toEqual([name(1)]);
    expect(timers.next()).toBeUndefined();
  });

  test('after a stop are those of the new addresses only', () => {
    announcer.announce(mac(1));
    announcer.stop();
    announcer.announce(mac(2));
    sent.length = 0;
    next();
    expect(sent).toEqual([name(2)]);
  });
});
