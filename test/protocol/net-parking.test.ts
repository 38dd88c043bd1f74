import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { SwitchPort } from '../../src/net/switch/client.ts';
import type { Switch, SwitchOptions } from '../../src/net/switch/switch.ts';
import {
  acceptUnix,
  closeFd,
  connectUnix,
  listenUnix,
  recvBytes,
  sendMessage,
} from '../../src/posix/index.ts';
import { broadcast, type Inbox, inbox, mac, NetWorld, numbered, sequenceOf } from './net-world.ts';

let world: NetWorld;
beforeEach(() => {
  world = new NetWorld();
});
afterEach(() => world.close());

const [VM, PEER] = [mac(1), mac(2)];
const upTo = (n: number) => Array.from({ length: n }, (_, index) => index);

interface Stage {
  network: Switch;
  peer: SwitchPort;
  source: SwitchPort;
  sourceBox: Inbox;
  /** Sends the next `count` numbered frames to the VM, in bursts. */
  stream(count: number): Promise<void>;
}

/** A VM at `source` whose address is known, and a peer that sends numbered frames to it. */
async function stage(identity: string | undefined, options: Partial<SwitchOptions> = {}): Promise<Stage> {
  const network = world.makeSwitch(options);
  const named = identity === undefined ? {} : { identity };
  const [peer] = await world.joined(network);
  const [source, sourceBox] = await world.joined(network, named);
  source.send([numbered(PEER, VM, 0)], 64);
  await world.until(() => network.stats.addresses === 1);
  let next = 0;
  const stream = async (count: number) => {
    for (let n = 0; n < count; n++) {
      peer.send([numbered(VM, PEER, next++, 60 + (next % 5) * 300)], 60 + (next % 5) * 300);
      if (n % 16 === 15) world.reactor.turn(0);
    }
    await world.settle();
  };
  return { network, peer, source, sourceBox, stream };
}

describe.each([
  ['by identity', 'nic0'],
  ['by MAC address', undefined],
])('parking, %s', (_, identity) => {
  const named = identity === undefined ? {} : { identity };

  test('nothing is lost, doubled or out of order across a move under traffic', async () => {
    const { network, source, sourceBox, stream } = await stage(identity);
    await stream(100);
    // The device stops taking frames a moment before and after it is parked: those go back.
    sourceBox.room = false;
    await stream(150);
    expect(source.park()).toBe(true);
    await stream(150);
    const [destination, box] = await world.joined(network, named);
    await stream(100);
    expect(sourceBox.sequences).toEqual(upTo(100));
    expect(box.frames).toEqual([]);
    destination.announce(VM);
    await stream(100);
    await world.until(() => box.frames.length >= 500);
    const numbers = box.frames
      .filter((frame) => frame.readUInt16BE(12) === 0x88b5)
      .map((f) => f.readUInt32BE(14));
    expect(numbers).toEqual(upTo(600).slice(100));
    sourceBox.room = true;
    source.ready();
    await world.settle();
    expect(sourceBox.sequences).toEqual(upTo(100));
    expect(source.state).toBe('standby');
    expect(source.send([numbered(PEER, VM, 0)], 64)).toBe(false);
    expect(network.stats.ports.reduce((sum, port) => sum + port.dropped + port.parkDropped, 0)).toBe(0);
  });

  test('a parked port still sends what its device has begun, until another takes its place', async () => {
    const { source, peer } = await stage(identity);
    const peerBox = inbox(peer);
    expect(source.park()).toBe(true);
    for (let n = 1; n < 4; n += 1) {
      expect(source.send([numbered(PEER, VM, n)], 64)).toBe(true);
      await world.settle();
    }
    await world.until(() => peerBox.frames.length >= 3);
    expect(peerBox.sequences.slice(-3)).toEqual([1, 2, 3]);
  });

  test.each([
    ['parked', (port: SwitchPort) => port.park()],
    ['standby', (port: SwitchPort) => port.standby()],
  ] as const)(
    'the last word counts, before the switch has answered the first, too: %s',
    async (state, say) => {
      const { network, source } = await stage(identity);
      expect(source.park()).toBe(true);
      source.activate();
      say(source);
      await world.settle();
      expect(source.state).toBe(state);
      expect(network.stats.ports.find(({ port }) => port === 1)?.state).toBe(state);
    },
  );

  test('control: without parking, what arrives in between is lost', async () => {
    const { network, source, sourceBox, stream } = await stage(identity);
    await stream(10);
    sourceBox.room = false;
    await stream(10);
    const [destination, box] = await world.joined(network, named);
    await stream(10);
    source.close();
    destination.announce(VM);
    await stream(10);
    await world.until(() => box.sequences.includes(39));
    expect(upTo(40).every((n) => [...sourceBox.sequences, ...box.sequences].includes(n))).toBe(false);
  });

  test('a migration that does not happen: the source gets everything, in order', async () => {
    const { source, sourceBox, stream } = await stage(identity);
    await stream(10);
    sourceBox.room = false;
    await stream(10);
    source.park();
    await stream(30);
    source.activate();
    sourceBox.room = true;
    source.ready();
    await stream(10);
    await world.until(() => sourceBox.frames.length === 60);
    expect(sourceBox.sequences).toEqual(upTo(60));
    expect(source.state).toBe('active');
    expect(source.send([numbered(PEER, VM, 0)], 64)).toBe(true);
  });

  test('activated before the switch has even answered', async () => {
    const { source, sourceBox, stream } = await stage(identity);
    sourceBox.room = false;
    await stream(20);
    source.park();
    source.activate();
    sourceBox.room = true;
    await stream(20);
    await world.until(() => sourceBox.frames.length === 40);
    expect(sourceBox.sequences).toEqual(upTo(40));
  });

  test('the source dies while parked: what is kept waits for the successor', async () => {
    const { network, source, sourceBox, stream } = await stage(identity);
    source.park();
    await stream(40);
    source.close();
    await stream(40);
    expect(sourceBox.frames).toEqual([]);
    const [destination, box] = await world.joined(network, named);
    destination.announce(VM);
    await stream(10);
    await world.until(() => box.frames.length >= 90);
    expect(box.sequences.slice(0, 90)).toEqual(upTo(90));
    expect(network.stats.ports.length).toBe(2);
  });

  test('a guest that had been silent for longer than addresses are remembered finds what is kept for it', async () => {
    const { network, source, stream } = await stage(identity, { ageSeconds: 0.02 });
    await new Promise((resolve) => setTimeout(resolve, 50));
    source.park();
    await world.until(() => source.state === 'parked');
    await stream(5);
    expect(network.stats.ports[1]?.queued).toBe(5);
    const [destination, box] = await world.joined(network, named);
    destination.announce(VM);
    await world.until(() => box.frames.length === 5);
    expect(box.sequences).toEqual(upTo(5));
  });

  test('keeps up to its bound, then drops the newest and counts them', async () => {
    const { network, source, stream } = await stage(identity, { parkLimits: { frames: 64, bytes: 1e6 } });
    source.park();
    await stream(100);
    expect(network.stats.ports[1]).toMatchObject({ state: 'parked', queued: 64, parkDropped: 36 });
    const [destination, box] = await world.joined(network, named);
    destination.announce(VM);
    await world.until(() => box.frames.length >= 64);
    expect(box.sequences.slice(0, 64)).toEqual(upTo(64));
  });
});

/** A port that is nobody's: says what it is told to, and reads nothing. */
function rawPort() {
  const fd = connectUnix(world.path('sw'), 'seqpacket');
  world.onClose(() => closeFd(fd));
  const send = (kind: number, body: Buffer): void => {
    sendMessage(fd, Buffer.from([kind, 0, body.length >> 8, body.length & 0xff]), 4, body, undefined, true);
  };
  return {
    say: (message: object) => send(2, Buffer.from(JSON.stringify(message))),
    frame: (frame: Buffer) => send(0, frame),
    giveBack: (frame: Buffer) => send(1, frame),
  };
}

/** Reads what comes on `fd`, from `startMs` on, on a thread of its own; resolves to the bytes when `total` have come. */
function slowReader(fd: number, startMs: number, total: number): Promise<number> {
  const source = `
    const { workerData: { fd, startMs, total }, parentPort } = require('node:worker_threads');
    const { readSync } = require('node:fs');
    const bytes = Buffer.alloc(1 << 20);
    setTimeout(() => {
      let read = 0;
      const deadline = Date.now() + 10_000;
      while (read < total && Date.now() < deadline) {
        try { read += readSync(fd, bytes); } catch (error) { if (error.code !== 'EAGAIN') throw error; }
      }
      parentPort.postMessage(read);
    }, startMs);`;
  const worker = new Worker(source, { eval: true, workerData: { fd, startMs, total } });
  return new Promise((resolve, reject) => {
    worker.once('message', resolve).once('error', reject);
  });
}

describe('a port whose switch does not read', () => {
  const frameBytes = 1400;
  const recordBytes = 4 + frameBytes;
  let switchEnd: number;
  let port: SwitchPort;
  /** More than the socket takes. */
  const fill = (): number => {
    let sent = 0;
    while (port.send([numbered(PEER, VM, sent, frameBytes)], frameBytes)) sent++;
    return sent * recordBytes;
  };

  beforeEach(() => {
    const listener = listenUnix(world.path('sw'), { type: 'seqpacket' });
    world.onClose(() => closeFd(listener));
    port = world.port({ identity: 'nic0' });
    switchEnd = acceptUnix(listener) ?? -1;
    world.onClose(() => closeFd(switchEnd));
    // The hello.
    expect(recvBytes(switchEnd, Buffer.alloc(4096), 0, 4096, false)).toBeGreaterThan(0);
  });

  test('waits for it when the device has stopped, and gets rid of everything', async () => {
    const total = fill();
    const reading = slowReader(switchEnd, 50, total);
    port.drain(10_000);
    port.close();
    expect(await reading).toBe(total);
  });

  test('gives back, before it closes, what it has not looked at when it is parked', async () => {
    inbox(port);
    port.park();
    // On its way before the switch knew; then the switch's word, from a thread that is not held up by the closing.
    const frame = numbered(VM, PEER, 7);
    sendMessage(switchEnd, Buffer.from([0, 0, 0, frame.length]), 4, frame, undefined, true);
    const source = `
      const { workerData: fd, parentPort } = require('node:worker_threads');
      const body = Buffer.from(JSON.stringify({ op: 'parked' }));
      setTimeout(() => {
        require('node:fs').writeSync(fd, Buffer.concat([Buffer.from([2, 0, 0, body.length]), body]));
        parentPort.postMessage('said');
      }, 50);`;
    const worker = new Worker(source, { eval: true, workerData: switchEnd });
    world.onClose(() => void worker.terminate());
    await new Promise((resolve) => worker.once('online', resolve));
    port.close();
    const bytes = Buffer.alloc(64 * 1024);
    let all = '';
    for (let length = 0; ; ) {
      length = recvBytes(switchEnd, bytes, 0, bytes.length, false);
      if (length <= 0) break;
      all += bytes.toString('latin1', 0, length);
    }
    expect(all).toContain(frame.toString('latin1'));
    expect(all).toContain('"returned"');
  });

  test('does not wait for ever, nor forgets what is left', async () => {
    const total = fill();
    port.drain(5);
    const reading = slowReader(switchEnd, 0, total);
    let read = 0;
    void reading.then((bytes) => {
      read = bytes;
    });
    await world.until(() => read > 0);
    expect(read).toBe(total);
  });

  test('control: a switch that never reads gets what the socket holds, and no more', async () => {
    const total = fill();
    port.close();
    const after = recvAll(switchEnd);
    expect(after).toBeGreaterThan(0);
    expect(after).toBeLessThan(total);
  });
});

function recvAll(fd: number): number {
  const bytes = Buffer.alloc(1 << 20);
  let all = 0;
  for (;;) {
    const length = recvBytes(fd, bytes, 0, bytes.length, false);
    if (length <= 0) return all;
    all += length;
  }
}

describe('stand-by', () => {
  /** The switch looks at nothing before all of it has happened, as on a machine that gives it no processor for a while. */
  test.each([
    ['the new place speaks first', true, 'nic0'],
    ['the old place has gone first', false, 'nic0'],
    ['the new place, known by its address only, speaks first', true, undefined],
    ['the old place, known by its address only, has gone first', false, undefined],
  ])('nothing is lost when the whole move passes a switch by: %s', async (_name, early, identity) => {
    const { network, peer, source, sourceBox } = await stage(identity);
    const peerBox = inbox(peer);
    const [destination, box] = await world.joined(network, identity === undefined ? {} : { identity });
    destination.standby();
    // On its way to the old place, which has no room for it...
    sourceBox.room = false;
    for (const n of [0, 1, 2]) peer.send([numbered(VM, PEER, n)], 64);
    await world.settle();
    peerBox.frames.length = 0;
    // ...and will not even look at these.
    for (const n of [3, 4]) peer.send([numbered(VM, PEER, n)], 64);
    const move = (): void => {
      for (const n of [10, 11]) source.send([numbered(PEER, VM, n)], 64);
      source.park();
      source.send([numbered(PEER, VM, 12)], 64);
    };
    const arrive = (): void => {
      destination.announce(VM);
      destination.send([numbered(PEER, VM, 13)], 64);
    };
    // Who became readable first is looked at first.
    if (early) destination.standby();
    move();
    if (early) arrive();
    source.close();
    if (!early) arrive();
    await world.until(() => peerBox.sequences.includes(13) && box.sequences.includes(4));
    const data = peerBox.frames.filter((frame) => frame.readUInt16BE(12) === 0x88b5).map(sequenceOf);
    expect(data).toEqual([10, 11, 12, 13]);
    expect(box.sequences).toEqual([0, 1, 2, 3, 4]);
    const { ports, departed } = network.stats;
    expect([departed, ...ports].map(({ dropped, parkDropped }) => dropped + parkDropped)).toEqual([0, 0, 0]);
  });

  test("a guest's last frames go before its first ones from where it is now, though the switch is late", async () => {
    const network = world.makeSwitch();
    const [peer, peerBox] = await world.joined(network);
    const source = rawPort();
    source.say({ op: 'hello', version: 1, identity: 'nic0' });
    source.say({ op: 'announce', mac: '52:54:00:00:00:01' });
    source.say({ op: 'park' });
    source.say({ op: 'returned' });
    peer.announce(PEER);
    const [destination] = await world.joined(network, { identity: 'nic0' });
    // More than the switch takes from one port before the others have their turn, and it has not looked at any yet.
    for (const n of upTo(50)) source.frame(numbered(PEER, VM, n));
    destination.announce(VM);
    destination.send([numbered(PEER, VM, 50)], 64);
    const numbers = () =>
      peerBox.frames.filter((frame) => frame.readUInt16BE(12) === 0x88b5).map((f) => f.readUInt32BE(14));
    await world.until(() => numbers().includes(50));
    await world.settle();
    expect(numbers()).toEqual(upTo(51));
    expect(network.stats.ports.reduce((sum, port) => sum + port.dropped, 0)).toBe(0);
  });

  test('a second port of an identity hears and says nothing until it takes over', async () => {
    const { network, peer, source, sourceBox } = await stage('nic0');
    const [destination, box] = await world.joined(network, { identity: 'nic0' });
    expect(destination.state).toBe('standby');
    expect(destination.linkUp).toBe(true);
    peer.send([numbered(broadcast, PEER, 7)], 64);
    await world.until(() => sourceBox.frames.length === 1);
    await world.settle();
    expect(box.frames).toEqual([]);
    expect(destination.send([numbered(PEER, VM, 1)], 64)).toBe(false);
    destination.activate();
    await world.until(() => source.state === 'standby');
    peer.send([numbered(VM, PEER, 8)], 64);
    await world.until(() => box.frames.length === 1);
    // And back again, as when the destination fails before the guest runs there.
    destination.close();
    await world.until(() => source.state === 'active');
    peer.send([numbered(VM, PEER, 9)], 64);
    await world.until(() => sourceBox.frames.length === 2);
  });

  test('a wish to be parked that crosses the word that another is in charge leaves the port as it should be', async () => {
    const { network, peer, source, sourceBox } = await stage('nic0');
    const [destination] = await world.joined(network, { identity: 'nic0' });
    destination.activate();
    await world.until(() => network.stats.ports[1]?.state === 'standby');
    expect(source.state).toBe('active');
    source.park();
    await world.settle();
    expect(source.state).toBe('standby');
    source.activate();
    await world.until(() => network.stats.ports[1]?.state === 'active');
    peer.send([numbered(VM, PEER, 7)], 64);
    await world.until(() => sourceBox.sequences.includes(7));
  });

  test('a wish to be parked before the switch has said that another is in charge leaves the port as it should be', async () => {
    const { network, peer } = await stage('nic0');
    const late = world.port({ identity: 'nic0', name: 'late' });
    const box = inbox(late);
    late.park();
    await world.settle();
    expect(late.state).toBe('standby');
    late.activate();
    await world.until(() => network.stats.ports.find(({ name }) => name === 'late')?.state === 'active');
    peer.send([numbered(VM, PEER, 7)], 64);
    await world.until(() => box.sequences.includes(7));
  });

  test('what is kept for a port that is gone is dropped after a while', async () => {
    const { network, source, stream } = await stage('nic0', { parkSeconds: 0.02 });
    source.park();
    await stream(5);
    source.close();
    await world.until(() => network.stats.ports.length === 1);
    const [again] = await world.joined(network, { identity: 'nic0' });
    expect(again.state).toBe('active');
  });

  test('a port that never finishes parking holds its successor up for a moment only', async () => {
    const network = world.makeSwitch({ returnSeconds: 0.02 });
    const [peer] = await world.joined(network);
    // A process that asks to be parked and then hangs: it never says that it has returned everything.
    const { say, giveBack } = rawPort();
    say({ op: 'hello', version: 1, identity: 'nic0' });
    say({ op: 'announce', mac: '52:54:00:00:00:01' });
    say({ op: 'park' });
    await world.until(() => network.stats.ports[1]?.state === 'parked');
    for (const n of upTo(3)) peer.send([numbered(VM, PEER, n)], 64);
    const [destination, box] = await world.joined(network, { identity: 'nic0' });
    destination.announce(VM);
    expect(destination.state).toBe('active');
    await world.until(() => box.frames.length >= 3);
    expect(box.sequences.slice(0, 3)).toEqual(upTo(3));
    // Too late, and no reason to hang up: its time was over.
    giveBack(numbered(VM, PEER, 9));
    await world.settle();
    expect(network.stats.ports.length).toBe(3);
    expect(box.sequences).not.toContain(9);
  });

  test.each([
    ['of the same identity', 'nic0'],
    ['known by its address only', undefined],
  ])(
    'what a successor, %s, sends goes on while it waits for its predecessor, and what comes for it is kept',
    async (_name, identity) => {
      const network = world.makeSwitch({ returnSeconds: 60 });
      const [peer, peerBox] = await world.joined(network);
      peer.send([numbered(VM, PEER, 0)], 64);
      const { say, frame: sends } = rawPort();
      say({ op: 'hello', version: 1, identity });
      say({ op: 'announce', mac: '52:54:00:00:00:01' });
      say({ op: 'park' });
      await world.until(() => network.stats.ports[1]?.state === 'parked');
      const [destination, box] = await world.joined(network, identity === undefined ? {} : { identity });
      peerBox.frames.length = 0;
      // Two of the old place that the switch has not looked at, then the new place, which can't take over yet.
      for (const n of [1, 2]) sends(numbered(PEER, VM, n));
      destination.announce(VM);
      for (const n of [3, 4]) destination.send([numbered(PEER, VM, n)], 64);
      await world.until(() => peerBox.frames.some((frame) => sequenceOf(frame) === 4));
      expect(network.stats.ports[1]?.state).toBe('parked');
      peer.send([numbered(VM, PEER, 5)], 64);
      await world.settle();
      expect(box.frames).toEqual([]);
      say({ op: 'returned' });
      await world.until(() => box.sequences.includes(5));
      destination.send([numbered(PEER, VM, 6)], 64);
      await world.until(() => peerBox.sequences.includes(6));
      const data = peerBox.frames.filter((frame) => frame.readUInt16BE(12) === 0x88b5).map(sequenceOf);
      expect(data).toEqual([1, 2, 3, 4, 6]);
      const { ports, departed } = network.stats;
      expect([departed.dropped, ...ports.map(({ dropped }) => dropped)]).toEqual([0, 0, 0, 0]);
    },
  );
});
