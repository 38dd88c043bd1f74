import { existsSync, unlinkSync } from 'node:fs';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NetError } from '../../src/net/errors.ts';
import { MAX_FRAME } from '../../src/net/ethernet.ts';
import { broadcast, mac, NetWorld, numbered } from './net-world.ts';

let world: NetWorld;
beforeEach(() => {
  world = new NetWorld();
});
afterEach(() => world.close());

const [A, B, C] = [mac(1), mac(2), mac(3)];

function send(port: { send(parts: readonly Uint8Array[], length: number): boolean }, frame: Buffer): boolean {
  return port.send([frame.subarray(0, 20), frame.subarray(20)], frame.length);
}

describe('switch', () => {
  test('floods what it does not know, learns, then sends to one place only', async () => {
    const network = world.makeSwitch();
    const [a, boxA] = await world.joined(network);
    const [b, boxB] = await world.joined(network);
    const [, boxC] = await world.joined(network);
    send(a, numbered(B, A, 1));
    await world.until(() => boxB.frames.length === 1 && boxC.frames.length === 1);
    expect(boxB.frames[0]).toEqual(numbered(B, A, 1));
    send(b, numbered(A, B, 2));
    await world.until(() => boxA.frames.length === 1);
    send(a, numbered(B, A, 3));
    await world.until(() => boxB.frames.length === 2);
    await world.settle();
    expect(boxC.sequences).toEqual([1]);
    send(a, numbered(broadcast, A, 4));
    await world.until(() => boxC.frames.length === 2 && boxB.frames.length === 3);
    expect(boxA.sequences).toEqual([2]);
  });

  test('ports that come at the same time are different ones', async () => {
    const network = world.makeSwitch();
    const ports = ['a', 'b', 'c'].map((name) => world.port({ name }));
    await world.until(() => network.stats.ports.length === ports.length);
    expect(network.stats.ports.map(({ name, port }) => [name, port])).toEqual([
      ['a', 0],
      ['b', 1],
      ['c', 2],
    ]);
  });

  test('a port more than it takes is refused, until one has left; others are not held up', async () => {
    const said: string[] = [];
    const log = pino({ level: 'warn' }, { write: (line: string) => void said.push(JSON.parse(line).msg) });
    const network = world.makeSwitch({ maxPorts: 2, log });
    const [a] = await world.joined(network);
    const [b, boxB] = await world.joined(network);
    const third = world.port({ name: 'third', reconnectMs: 1 });
    await world.until(() => said.includes('too many ports: one is refused (--max-ports)'));
    await world.settle();
    expect(network.stats.ports).toHaveLength(2);
    send(a, numbered(B, A, 1));
    await world.until(() => boxB.frames.length === 1);
    b.close();
    await world.until(() => network.stats.ports.some(({ name }) => name === 'third'));
    await world.until(() => third.linkUp);
  });

  test('frames for several places, mixed in one burst, arrive in order', async () => {
    const network = world.makeSwitch();
    const [a] = await world.joined(network);
    const [b, boxB] = await world.joined(network);
    const [c, boxC] = await world.joined(network);
    send(b, numbered(broadcast, B, 0));
    send(c, numbered(broadcast, C, 0));
    await world.until(() => network.stats.addresses === 2);
    await world.settle();
    boxB.frames = [];
    boxC.frames = [];
    const targets = [B, C, B, B, broadcast, C, C, B, broadcast, B];
    for (let n = 0; n < 300; n++) send(a, numbered(targets[n % 10] as Uint8Array, A, n, 60 + (n % 7) * 200));
    const forB = Array.from({ length: 300 }, (_, n) => n).filter((n) => targets[n % 10] !== C);
    const forC = Array.from({ length: 300 }, (_, n) => n).filter((n) => targets[n % 10] !== B);
    await world.until(() => boxB.frames.length === forB.length && boxC.frames.length === forC.length);
    expect(boxB.sequences).toEqual(forB);
    expect(boxC.sequences).toEqual(forC);
    expect(boxB.frames[7]?.length).toBe(numbered(B, A, forB[7] ?? 0, 60 + ((forB[7] ?? 0) % 7) * 200).length);
  });

  test('one that was replaced leaves the socket of its successor alone', async () => {
    const first = world.makeSwitch();
    unlinkSync(world.path('sw'));
    const second = world.makeSwitch();
    first.close();
    await world.joined(second);
  });

  test('forgets an address after its age', async () => {
    const network = world.makeSwitch({ ageSeconds: 0.05 });
    const [a] = await world.joined(network);
    const [b] = await world.joined(network);
    const [, boxC] = await world.joined(network);
    send(b, numbered(A, B, 0));
    await world.until(() => boxC.frames.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 60));
    send(a, numbered(B, A, 1));
    await world.until(() => boxC.frames.length === 2);
  });

  test('carries the longest frames and refuses longer and shorter ones', async () => {
    const network = world.makeSwitch();
    const [a] = await world.joined(network);
    const [, boxB] = await world.joined(network);
    const longest = 0xffff + 22;
    expect(send(a, numbered(B, A, 1, longest))).toBe(true);
    expect(send(a, numbered(B, A, 2, longest + 1))).toBe(false);
    expect(a.send([new Uint8Array(13)], 13)).toBe(false);
    await world.until(() => boxB.frames.length === 1);
    expect(boxB.frames[0]?.length).toBe(longest);
    expect(a.stats).toMatchObject({ sentFrames: 1, sendDropped: 2 });
  });

  test('the longest frames wait behind shorter ones and still go in datagrams that a port can take', async () => {
    const network = world.makeSwitch({ queueLimits: { frames: 1000, bytes: 8e6 } });
    const [a] = await world.joined(network);
    const [b, box] = await world.joined(network);
    box.room = false;
    // Two of them in a row are a little more than the longest datagram.
    const lengths = Array.from({ length: 60 }, (_, n) => (n % 2 === 0 ? 65_516 : MAX_FRAME));
    for (const [n, length] of lengths.entries()) {
      a.send([numbered(mac(2), mac(1), n, length)], length);
      await world.settle();
    }
    expect(network.stats.ports[1]?.queued).toBeGreaterThan(4);
    box.room = true;
    b.ready();
    await world.until(() => box.frames.length === lengths.length || !b.linkUp);
    expect(box.frames.map(({ length }) => length)).toEqual(lengths);
  });

  test('a port without room loses nothing up to the bounds, then drops are counted, order kept', async () => {
    const network = world.makeSwitch({ queueLimits: { frames: 50, bytes: 1e6 } });
    const [a] = await world.joined(network);
    const [b, boxB] = await world.joined(network);
    send(b, numbered(broadcast, B, 0));
    await world.until(() => network.stats.addresses === 1);
    boxB.room = false;
    const total = 4000;
    for (let n = 0; n < total; n++) {
      expect(send(a, numbered(B, A, n, 1500))).toBe(true);
      if (n % 20 === 0) await world.settle();
    }
    await world.settle();
    const dropped = network.stats.ports[1]?.dropped ?? 0;
    expect(network.stats.ports[1]?.queued).toBe(50);
    expect(dropped).toBeGreaterThan(0);
    boxB.room = true;
    b.ready();
    await world.until(() => boxB.frames.length === total - dropped);
    expect(boxB.sequences).toEqual([...boxB.sequences].sort((x, y) => x - y));
    expect(boxB.sequences.slice(0, 50)).toEqual(Array.from({ length: 50 }, (_, n) => n));
  });

  test('link: pulled at the switch, at the port, and when the switch dies and comes back', async () => {
    const network = world.makeSwitch();
    const [a] = await world.joined(network, { name: 'vm', reconnectMs: 5 });
    const [, boxB] = await world.joined(network);
    const seen: boolean[] = [];
    a.onLink((up) => seen.push(up));
    network.setLink('vm', false);
    await world.until(() => !a.linkUp);
    expect(send(a, numbered(B, A, 1))).toBe(false);
    network.setLink('vm', true);
    await world.until(() => a.linkUp);
    a.setLink(false);
    expect(send(a, numbered(B, A, 1))).toBe(false);
    a.setLink(true);
    expect(send(a, numbered(B, A, 2))).toBe(true);
    await world.until(() => boxB.frames.length === 1);
    network.close();
    await world.until(() => !a.linkUp);
    expect(send(a, numbered(B, A, 3))).toBe(false);
    expect(existsSync(world.path('sw'))).toBe(false);
    const again = world.makeSwitch();
    await world.until(() => a.linkUp);
    const [, boxC] = await world.joined(again);
    expect(send(a, numbered(B, A, 4))).toBe(true);
    await world.until(() => boxC.frames.length === 1);
    expect(seen).toEqual([false, true, false, true, false, true]);
    expect(() => network.setLink('nobody', true)).toThrow(NetError);
  });

  test('a switch that refuses whoever comes back does not plug the cable in and pull it all the time', async () => {
    const said: string[] = [];
    const log = pino({ level: 'info' }, { write: (line: string) => void said.push(JSON.parse(line).msg) });
    const first = world.makeSwitch();
    const [a] = await world.joined(first, { reconnectMs: 1, log });
    const seen: boolean[] = [];
    a.onLink((up) => seen.push(up));
    first.close();
    await world.until(() => !a.linkUp);
    let refused = 0;
    const second = world.makeSwitch({
      maxPorts: 0,
      log: pino({ level: 'warn' }, { write: () => void refused++ }),
    });
    await world.until(() => refused === 5);
    await world.settle();
    expect(seen).toEqual([false]);
    expect(said).toEqual([
      'switch is gone',
      expect.stringMatching(/^the switch refuses this port: .*--max-ports/),
    ]);
    second.close();
    world.makeSwitch();
    await world.until(() => a.linkUp);
    expect(said.at(-1)).toBe('switch is back');
  });

  test('all addresses of a port are announced several times, until it is parked or in stand-by', async () => {
    const network = world.makeSwitch();
    const [, box] = await world.joined(network);
    const [a] = await world.joined(network);
    const heard = (from: Uint8Array): number =>
      box.frames.filter((frame) => frame.subarray(6, 12).equals(from)).length;
    for (const end of [() => a.park(), () => a.standby(), () => a.close()]) {
      box.frames.length = 0;
      a.activate();
      a.announce(A);
      a.announce(B);
      await world.until(() => heard(A) >= 2 && heard(B) >= 2);
      end();
      await world.settle();
      const before = [heard(A), heard(B), a.stats.sendDropped];
      // As long as it takes to the next one.
      await new Promise((resolve) => setTimeout(resolve, 200));
      await world.settle();
      expect([heard(A), heard(B), a.stats.sendDropped]).toEqual(before);
    }
  });

  test('no switch there: says how to start one', () => {
    expect(() => world.port()).toThrow(/no switch at/);
  });

  test('a port that leaves is forgotten', async () => {
    const network = world.makeSwitch();
    const [a] = await world.joined(network);
    const [b] = await world.joined(network);
    send(b, numbered(broadcast, B, 0));
    await world.until(() => network.stats.addresses === 1);
    b.close();
    await world.until(() => network.stats.ports.length === 1);
    expect(network.stats.addresses).toBe(0);
    expect(send(a, numbered(B, A, 1))).toBe(true);
  });
});
