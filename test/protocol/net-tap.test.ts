import { existsSync } from 'node:fs';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ready } from '../../src/loop/index.ts';
import { openPort } from '../../src/net/index.ts';
import { StreamPort } from '../../src/net/stream.ts';
import { TestPeer } from '../../src/net/testing/test-peer.ts';
import { canUseTaps, TestNet } from '../../src/net/testnet.ts';
import { closeFd, connectTcp, inNetworkNamespace, pollFd } from '../../src/posix/index.ts';
import { mac, NetWorld, numbered } from './net-world.ts';

const able = canUseTaps();
const why = able.ok ? '' : ` (skipped: ${able.reason})`;

describe.skipIf(!able.ok)(`tap and a Linux network stack${why}`, () => {
  let world: NetWorld;
  let net: TestNet;
  beforeEach(async () => {
    world = new NetWorld();
    net = await TestNet.create({ taps: 2, mtu: 9000 });
  });
  afterEach(async () => {
    try {
      world.close();
    } finally {
      await net.close();
    }
    expect(existsSync(net.namespace)).toBe(false);
  });

  /** Opens a tap and waits until the bridge has noticed. */
  const open = async (spec: string) => {
    const port = world.own(openPort(spec, { reactor: world.reactor, log: world.log }));
    await world.until(() => port.linkUp);
    return port;
  };

  test('ping through the bridge, small and jumbo, then the link goes down and up', async () => {
    const port = await open(net.tapSpec(0));
    const pongs: number[] = [];
    const peer = new TestPeer(
      port,
      { mac: '52:54:00:00:00:01', ip: '10.77.0.2' },
      { pong: (sequence) => pongs.push(sequence) },
    );
    for (const [n, size] of [48, 1400, 8900].entries()) {
      peer.ping(net.address, n, Buffer.alloc(size, n));
      await world.until(() => pongs.length === n + 1);
    }
    expect(pongs).toEqual([0, 1, 2]);
    expect(peer.badChecksums).toBe(0);
    const links: boolean[] = [];
    port.onLink((up) => links.push(up));
    port.setLink(false);
    expect(await net.run('ip', '-o', 'link', 'show', 'tap0')).toContain('NO-CARRIER');
    port.setLink(true);
    await net.run('ip', 'link', 'set', 'tap0', 'down');
    await world.until(() => !port.linkUp);
    await net.run('ip', 'link', 'set', 'tap0', 'up');
    await world.until(() => port.linkUp);
    expect(links).toEqual([false, true, false, true]);
  });

  test('a tap that was not there is made, and told of', () => {
    const warnings: unknown[] = [];
    const log = pino({ level: 'warn' }, { write: (line: string) => void warnings.push(JSON.parse(line)) });
    const context = { reactor: world.reactor, log };
    world.own(openPort(net.tapSpec(0), context));
    expect(warnings).toEqual([]);
    world.own(openPort(`tap:tpa0@${net.namespace}`, context));
    expect(warnings).toMatchObject([{ tap: 'tpa0', msg: expect.stringContaining('a tap was made') }]);
  });

  test('two taps, one port: after an announcement the bridge sends to the new place', async () => {
    const source = await open(net.tapSpec(0));
    const destination = await open(net.tapSpec(1));
    const pongs: string[] = [];
    const who = { mac: '52:54:00:00:00:01', ip: '10.77.0.2' };
    const before = new TestPeer(source, who, { pong: () => pongs.push('source') });
    const after = new TestPeer(destination, who, { pong: () => pongs.push('destination') });
    before.ping(net.address, 1);
    await world.until(() => pongs.length === 1);
    destination.announce(after.mac);
    const where = await net.run('bridge', 'fdb', 'show', 'br', 'br0');
    expect(where).toMatch(/52:54:00:00:00:01 dev tap1/);
    after.ping(net.address, 2);
    await world.until(() => pongs.length === 2);
    expect(pongs).toEqual(['source', 'destination']);
  });

  test('a stream whose peer has vanished with its host, without a word, takes the next', async () => {
    for (const n of [2, 3]) await net.run('ip', 'address', 'add', `10.9.0.${n}/32`, 'dev', 'br0');
    const [host, port] = ['0.0.0.0', 7777];
    const connect = (to: string): number => {
      const fd = inNetworkNamespace(net.namespace, () => connectTcp(to, port));
      world.onClose(() => closeFd(fd));
      return fd;
    };
    // Nobody sends it anything, so that there is nothing to read but the end.
    const hungUp = (fd: number) => pollFd(fd, ready.read, 0) !== 0;
    const server = inNetworkNamespace(net.namespace, () =>
      world.own(
        new StreamPort({
          reactor: world.reactor,
          log: world.log,
          address: { type: 'tcp', host, port },
          server: true,
        }),
      ),
    );
    connect('10.9.0.2');
    await world.until(() => server.linkUp);
    // While the first one answers there is no other.
    const early = connect('10.9.0.3');
    await world.until(() => hungUp(early));
    await net.run('ip', 'address', 'del', '10.9.0.2/32', 'dev', 'br0');
    server.send([numbered(mac(1), mac(2), 1)], 64);
    const links: boolean[] = [];
    server.onLink((up) => links.push(up));
    for (let last = 0; links.length < 2; ) {
      if (last === 0 || hungUp(last)) last = connect('10.9.0.3');
      await world.until(() => links.length === 2 || hungUp(last));
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(links).toEqual([false, true]);
  });

  test('checksums and segmentation left to the kernel', async () => {
    const port = await open(net.tapSpec(0));
    const other = await open(net.tapSpec(1));
    expect(port.offloads).toBe(true);
    const received: Buffer[] = [];
    other.receive((frame) => {
      const copy = Buffer.from(frame);
      if (copy.readUInt16BE(12) === 0x0800 && copy[23] === 6) received.push(copy);
      return true;
    });
    // One TCP segment of 20,000 bytes, to be cut into pieces of 1,400, to an address that is behind tap1.
    const payload = Buffer.from(Array.from({ length: 20_000 }, (_, n) => (n * 7) & 0xff));
    const frame = tcpSegment(payload);
    const offload = { gsoType: 1, headerLength: 54, gsoSize: 1400, checksumStart: 34, checksumOffset: 16 };
    expect(port.send([frame.subarray(0, 54), frame.subarray(54)], frame.length, offload)).toBe(true);
    await world.until(() => received.length === Math.ceil(20_000 / 1400));
    expect(Buffer.concat(received.map((piece) => piece.subarray(54)))).toEqual(payload);
    for (const piece of received) expect(transportSum(piece)).toBe(0);
    // A device that has room for three frames at a time gets the rest when it says so, nothing twice.
    received.length = 0;
    let room = 3;
    other.receive((piece) => {
      if (piece[23] !== 6) return true;
      if (room === 0) return false;
      room--;
      received.push(Buffer.from(piece));
      return true;
    });
    expect(port.send([frame], frame.length, offload)).toBe(true);
    while (received.length < Math.ceil(20_000 / 1400)) {
      await world.until(() => room === 0);
      room = 3;
      other.ready();
    }
    expect(Buffer.concat(received.map((piece) => piece.subarray(54)))).toEqual(payload);
    // The same frame uncut, for a user that takes it so.
    const whole: { length: number; gso: number | undefined }[] = [];
    other.receiveOffloaded(
      (got, details) => {
        if (got.length > 9014) whole.push({ length: got.length, gso: details?.gsoSize });
        return true;
      },
      { checksum: true, segmentation: true },
    );
    port.send([frame], frame.length, offload);
    await world.until(() => whole.length === 1);
    expect(whole).toEqual([{ length: frame.length, gso: 1400 }]);
  });

  test('long UDP datagrams are cut by a kernel that says so, and refused by one that does not', async () => {
    const port = await open(net.tapSpec(0));
    const other = await open(net.tapSpec(1));
    const received: Buffer[] = [];
    other.receive((frame) => {
      if (Buffer.from(frame).readUInt16BE(12) === 0x0800 && frame[23] === 17)
        received.push(Buffer.from(frame));
      return true;
    });
    const payload = Buffer.from(Array.from({ length: 5000 }, (_, n) => (n * 7) & 0xff));
    const frame = udpDatagram(payload);
    const offload = { gsoType: 5, headerLength: 42, gsoSize: 1400, checksumStart: 34, checksumOffset: 6 };
    expect(port.send([frame], frame.length, offload)).toBe(port.segmentsUdp);
    if (port.segmentsUdp !== true) return;
    await world.until(() => received.length === Math.ceil(5000 / 1400));
    expect(Buffer.concat(received.map((piece) => piece.subarray(42)))).toEqual(payload);
    for (const piece of received) expect(transportSum(piece)).toBe(0);
    // Nothing of the probe is left: the kernel still cuts for a reader that takes frames as they would be on a wire.
    expect(received.every((piece) => piece.length <= 42 + 1400)).toBe(true);
  });

  test('a device without room: frames wait in the kernel, in order', async () => {
    const port = await open(net.tapSpec(0));
    const other = await open(net.tapSpec(1));
    let room = false;
    const seen: number[] = [];
    other.receive((frame) => {
      if (frame[12] !== 0x88 || frame[13] !== 0xb5) return true;
      if (room) seen.push(Buffer.from(frame).readUInt32BE(14));
      return room;
    });
    for (let n = 0; n < 100; n++) {
      const frame = Buffer.alloc(64);
      frame.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
      frame.writeUInt32BE(n, 14);
      port.send([frame], 64);
      await world.settle();
    }
    expect(seen).toEqual([]);
    room = true;
    other.ready();
    await world.until(() => seen.length === 100);
    expect(seen).toEqual(Array.from({ length: 100 }, (_, n) => n));
  });

  test('an interface that is deleted takes the link down, not the process', async () => {
    const port = await open(net.tapSpec(0));
    port.receive(() => true);
    await net.run('ip', 'link', 'delete', 'tap0');
    await world.until(() => !port.linkUp);
    expect(port.send([Buffer.alloc(60)], 60)).toBe(false);
  });

  test('programs are found that lie where only root looks', async () => {
    vi.stubEnv('PATH', '/usr/bin:/bin');
    try {
      expect(await net.run('bridge', 'link')).toContain('tap0');
    } finally {
      vi.unstubAllEnvs();
    }
  });

  test('errors say what is wrong', async () => {
    await open(net.tapSpec(0));
    expect(() => openPort(net.tapSpec(0), world)).toThrow(/EBUSY/);
    expect(() => openPort('tap:tap0@nowhere', world)).toThrow(/ENOENT/);
    expect(() => openPort('tap:far-too-long-a-name', world)).toThrow(/no interface name/);
    const bridge = net.tapSpec(0).replace('tap:tap0', 'tap:br0');
    expect(() => openPort(bridge, world)).toThrow(
      expect.objectContaining({ hint: expect.stringContaining('br0 is no tap') }),
    );
  });
});

/** A TCP segment with the pseudo-header's sum in its checksum field, as the kernel wants it. */
function tcpSegment(payload: Buffer): Buffer {
  const frame = Buffer.alloc(54 + payload.length);
  frame.set([0x52, 0x54, 0, 0, 0, 9, 0x52, 0x54, 0, 0, 0, 8, 0x08, 0x00]);
  frame[14] = 0x45;
  frame.writeUInt16BE(40 + payload.length, 16);
  frame[22] = 64;
  frame[23] = 6;
  frame.set([10, 77, 0, 8, 10, 77, 0, 9], 26);
  frame.writeUInt16BE(~sum(frame.subarray(14, 34)) & 0xffff, 24);
  frame[46] = 0x50;
  frame[47] = 0x10;
  frame.writeUInt16BE(sum(frame.subarray(26, 34), 6 + 20 + payload.length), 50);
  frame.set(payload, 54);
  return frame;
}

/** A UDP datagram of the same kind. */
function udpDatagram(payload: Buffer): Buffer {
  const frame = Buffer.alloc(42 + payload.length);
  tcpSegment(Buffer.alloc(0)).copy(frame, 0, 0, 34);
  const length = 8 + payload.length;
  frame.writeUInt16BE(20 + length, 16);
  frame[23] = 17;
  frame.writeUInt16BE(0, 24);
  frame.writeUInt16BE(~sum(frame.subarray(14, 34)) & 0xffff, 24);
  frame.writeUInt16BE(4000, 34);
  frame.writeUInt16BE(4001, 36);
  frame.writeUInt16BE(length, 38);
  frame.writeUInt16BE(sum(frame.subarray(26, 34), 17 + length), 40);
  frame.set(payload, 42);
  return frame;
}

function sum(bytes: Buffer, start = 0): number {
  let total = start;
  for (let at = 0; at < bytes.length; at += 2)
    total += ((bytes[at] ?? 0) << 8) | (at + 1 < bytes.length ? (bytes[at + 1] ?? 0) : 0);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

/** 0 when the checksum of the TCP segment or UDP datagram in `frame` is right. */
function transportSum(frame: Buffer): number {
  const length = frame.readUInt16BE(16) - 20;
  return (
    ~sum(frame.subarray(34, 34 + length), sum(frame.subarray(26, 34), (frame[23] ?? 0) + length)) & 0xffff
  );
}
