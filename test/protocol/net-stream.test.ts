import { existsSync, readdirSync, statSync, symlinkSync, unlinkSync } from 'node:fs';
import { createServer, type Socket, connect as tcpConnect } from 'node:net';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ready } from '../../src/loop/index.ts';
import { StreamPort, type StreamPortOptions } from '../../src/net/stream.ts';
import {
  acceptUnix,
  closeFd,
  connectUnix,
  listenUnix,
  pollFd,
  rawArea,
  recvBytes,
  sendMessage,
} from '../../src/posix/index.ts';
import { libc } from '../../src/posix/libc.ts';
import { inbox, mac, NetWorld, numbered } from './net-world.ts';

let world: NetWorld;
beforeEach(() => {
  world = new NetWorld();
});
afterEach(() => world.close());

const [A, B] = [mac(1), mac(2)];
/** As QEMU writes it, made without the code under test. */
function framed(frame: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(frame.length);
  return Buffer.concat([length, frame]);
}

function port(options: Partial<StreamPortOptions> = {}): StreamPort {
  return world.own(
    new StreamPort({
      reactor: world.reactor,
      log: world.log,
      address: { type: 'unix', path: world.path('stream') },
      ...options,
    }),
  );
}

/** A server port with a hand-made peer connected to it. */
async function connected(): Promise<[StreamPort, number]> {
  const server = port({ server: true });
  const fd = connectUnix(world.path('stream'));
  world.onClose(() => {
    try {
      closeFd(fd);
    } catch {
      // The test has.
    }
  });
  await world.until(() => server.linkUp);
  return [server, fd];
}

const write = (fd: number, bytes: Buffer) => sendMessage(fd, bytes, bytes.length, undefined, undefined, true);
const hungUp = (fd: number) => (pollFd(fd, ready.read, 0) & ready.hangup) !== 0;

/** A TCP port that nobody listens on. */
async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', () => resolve()));
  const { port: number } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return number;
}

/** An option of a descriptor that is a number; undefined when its socket has none such. */
function option(fd: number, level: number, name: number): number | undefined {
  const [value, length] = [rawArea(4), rawArea(4)];
  length.bytes.writeUInt32LE(4);
  const result = libc.getsockopt(fd, level, name, value.address, length.address);
  return result === 0 ? value.bytes.readInt32LE() : undefined;
}
const [SOL_SOCKET, IPPROTO_TCP] = [1, 6];
const noDelay = (fd: number) => option(fd, IPPROTO_TCP, 1);
/** SO_KEEPALIVE and after how many seconds of silence. */
const keepAlive = (fd: number) => [option(fd, SOL_SOCKET, 9), option(fd, IPPROTO_TCP, 4)];

describe('stream', () => {
  test('frames split at every byte', async () => {
    const [server, fd] = await connected();
    const box = inbox(server);
    const frames = [0, 1, 2].map((n) => numbered(A, B, n, 60 + n));
    const length = Buffer.concat(frames.map(framed)).length;
    for (let split = 1; split < length; split++) {
      box.frames = [];
      // Of each round's own, for what is left of the round before lies in the same place.
      for (const frame of frames) frame.fill(split, 18);
      const bytes = Buffer.concat(frames.map(framed));
      write(fd, bytes.subarray(0, split));
      world.reactor.turn(0);
      write(fd, bytes.subarray(split));
      await world.until(() => box.frames.length === 3);
      expect(box.frames).toEqual(frames);
    }
  });

  test('frames byte by byte', async () => {
    const [server, fd] = await connected();
    const box = inbox(server);
    const frames = [0, 1].map((n) => numbered(A, B, n, 60));
    for (const byte of Buffer.concat(frames.map(framed))) {
      write(fd, Buffer.from([byte]));
      world.reactor.turn(0);
    }
    await world.until(() => box.frames.length === 2);
    expect(box.frames).toEqual(frames);
  });

  test('sends what QEMU and passt read, longest frames included', async () => {
    const [server, fd] = await connected();
    const frames = [numbered(A, B, 1), numbered(A, B, 2, 0xffff + 22), numbered(A, B, 3, 14 + 50)];
    for (const frame of frames)
      expect(server.send([frame.subarray(0, 30), frame.subarray(30)], frame.length)).toBe(true);
    const expected = Buffer.concat(frames.map(framed));
    const got: Buffer[] = [];
    const buffer = Buffer.alloc(65536);
    await world.until(() => {
      const length = recvBytes(fd, buffer, 0, buffer.length, false);
      if (length > 0) got.push(Buffer.from(buffer.subarray(0, length)));
      return Buffer.concat(got).length === expected.length;
    });
    expect(Buffer.concat(got).equals(expected)).toBe(true);
  });

  test('a slow reader: bounded, drops counted, what arrives is whole and in order', async () => {
    const [server, fd] = await connected();
    let taken = 0;
    const total = 3000;
    for (let n = 0; n < total; n++) if (server.send([numbered(A, B, n, 1500)], 1500)) taken++;
    expect(taken).toBeLessThan(total);
    expect(server.stats.sendDropped).toBe(total - taken);
    const got: Buffer[] = [];
    let size = 0;
    const buffer = Buffer.alloc(100_003);
    await world.until(() => {
      const length = recvBytes(fd, buffer, 0, 1 + (size % 100_003), false);
      if (length > 0) {
        got.push(Buffer.from(buffer.subarray(0, length)));
        size += length;
      }
      return size === taken * 1504;
    });
    const stream = Buffer.concat(got);
    for (let n = 0, last = -1; n < taken; n++) {
      expect(stream.readUInt32BE(n * 1504)).toBe(1500);
      const sequence = stream.readUInt32BE(n * 1504 + 18);
      expect(sequence).toBeGreaterThan(last);
      last = sequence;
    }
  });

  test('a device without room: the stream waits, nothing is lost', async () => {
    const [server, fd] = await connected();
    const box = inbox(server);
    box.room = false;
    const frames = Array.from({ length: 400 }, (_, n) => framed(numbered(A, B, n, 1000)));
    let at = 0;
    const feed = () => {
      const bytes = Buffer.concat(frames);
      const sent = sendMessage(fd, bytes.subarray(at), bytes.length - at, undefined, undefined, false);
      if (sent > 0) at += sent;
      return at === bytes.length;
    };
    feed();
    await world.settle();
    expect(box.frames.length).toBe(0);
    box.room = true;
    server.ready();
    await world.until(() => feed() && box.frames.length === 400);
    expect(box.sequences).toEqual(Array.from({ length: 400 }, (_, n) => n));
    expect(server.stats.receiveDropped).toBe(0);
  });

  test.each([
    ['nothing', 0],
    ['more than any frame', 0xffff + 23],
    ['4 GiB', 0xffffffff],
  ])('hostile length, %s: the peer is disconnected, the next one is welcome', async (_, length) => {
    const [server, fd] = await connected();
    const box = inbox(server);
    const header = Buffer.alloc(4);
    header.writeUInt32BE(length);
    write(fd, Buffer.concat([framed(numbered(A, B, 1)), header]));
    await world.until(() => hungUp(fd));
    expect(box.sequences).toEqual([1]);
    expect(server.linkUp).toBe(false);
    const again = connectUnix(world.path('stream'));
    world.onClose(() => closeFd(again));
    write(again, framed(numbered(A, B, 2)));
    await world.until(() => box.sequences.length === 2);
  });

  test('too short for an Ethernet header: dropped, no more', async () => {
    const [server, fd] = await connected();
    const box = inbox(server);
    write(fd, Buffer.concat([framed(Buffer.alloc(13)), framed(numbered(A, B, 1))]));
    await world.until(() => box.frames.length === 1);
    expect(server.stats.receiveDropped).toBe(1);
  });

  test('peers that come, send nonsense and go, over and over, do not flood the log', async () => {
    const lines: string[] = [];
    const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) });
    const server = port({ server: true, log });
    for (let round = 0; round < 100; round++) {
      const fd = connectUnix(world.path('stream'));
      const refused = connectUnix(world.path('stream'));
      write(fd, Buffer.alloc(4));
      await world.until(() => hungUp(fd) && hungUp(refused));
      closeFd(fd);
      closeFd(refused);
    }
    expect(server.linkUp).toBe(false);
    expect(lines.length).toBeGreaterThan(20);
    expect(lines.length).toBeLessThan(250);
  });

  test('a second peer is refused while there is one', async () => {
    const [server] = await connected();
    const second = connectUnix(world.path('stream'));
    world.onClose(() => closeFd(second));
    await world.until(() => hungUp(second));
    expect(server.linkUp).toBe(true);
    expect(statSync(world.path('stream')).mode & 0o777).toBe(0o600);
  });

  test('a client comes back after its peer died in the middle of a frame', async () => {
    const listener = listenUnix(world.path('stream'));
    world.onClose(() => closeFd(listener));
    const client = port({ reconnectMs: 5 });
    const box = inbox(client);
    const links: boolean[] = [];
    client.onLink((up) => links.push(up));
    const peers: number[] = [];
    const accept = () => {
      const fd = acceptUnix(listener);
      if (fd !== undefined) peers.push(fd);
      return fd !== undefined;
    };
    await world.until(accept);
    write(
      peers[0] as number,
      Buffer.concat([framed(numbered(A, B, 1)), framed(numbered(A, B, 2)).subarray(0, 30)]),
    );
    await world.until(() => box.frames.length === 1);
    closeFd(peers[0] as number);
    await world.until(() => !client.linkUp);
    await world.until(accept);
    write(peers[1] as number, framed(numbered(A, B, 3)));
    await world.until(() => box.frames.length === 2);
    expect(box.sequences).toEqual([1, 3]);
    expect(links).toEqual([false, true]);
    closeFd(peers[1] as number);
  });

  test('leaves no socket file behind', () => {
    const server = port({ server: true });
    expect(existsSync(world.path('stream'))).toBe(true);
    server.close();
    expect(existsSync(world.path('stream'))).toBe(false);
  });

  test('one that was replaced leaves the socket of its successor alone', async () => {
    const first = port({ server: true });
    unlinkSync(world.path('stream'));
    const second = port({ server: true });
    first.close();
    port();
    await world.until(() => second.linkUp);
  });

  test('TCP in both roles, and a peer that comes late', async () => {
    const address = { type: 'tcp', host: 'localhost', port: await freePort() } as const;
    const client = port({ address, reconnectMs: 5 });
    const box = inbox(client);
    await world.settle();
    expect(client.linkUp).toBe(false);
    const server = port({ address, server: true });
    await world.until(() => client.linkUp && server.linkUp);
    server.send([numbered(A, B, 1)], 64);
    await world.until(() => box.frames.length === 1);
    client.close();
    await world.until(() => !server.linkUp);
    const socket = await new Promise<Socket>((resolve) => {
      const made = tcpConnect(address.port, address.host, () => resolve(made));
    });
    const other = inbox(server);
    socket.write(framed(numbered(A, B, 5)));
    await world.until(() => other.frames.length === 1);
    socket.destroy();
  });

  test('over TCP, in either role, small frames do not wait for an acknowledgement, and a silent peer is asked whether it is there', async () => {
    const sockets = () => readdirSync('/proc/self/fd').filter((fd) => noDelay(Number(fd)) !== undefined);
    const before = sockets();
    const address = { type: 'tcp', host: '127.0.0.1', port: await freePort() } as const;
    const server = port({ address, server: true });
    const listening = sockets();
    const client = port({ address, reconnectMs: 5 });
    await world.until(() => client.linkUp && server.linkUp);
    const ends = sockets().filter((fd) => !before.includes(fd) && !listening.includes(fd));
    expect(ends.map((fd) => noDelay(Number(fd)))).toEqual([1, 1]);
    expect(ends.map((fd) => keepAlive(Number(fd)))).toEqual([
      [1, 10],
      [1, 10],
    ]);
  });

  test('a client whose attempts fail for another reason than that nobody is there goes on trying', async () => {
    const warnings: unknown[] = [];
    const log = pino({ level: 'warn' }, { write: (line: string) => void warnings.push(JSON.parse(line)) });
    const client = port({ reconnectMs: 1, log });
    const place = world.path('stream');
    // ELOOP, at every attempt; said once.
    symlinkSync(place, place);
    await world.until(() => warnings.length === 1);
    for (let round = 0; round < 10; round++) {
      await new Promise((resolve) => setTimeout(resolve, 2));
      await world.settle();
    }
    expect(warnings).toMatchObject([{ peer: place, err: { message: expect.stringContaining('ELOOP') } }]);
    unlinkSync(place);
    port({ server: true });
    await world.until(() => client.linkUp);
    expect(world.errors).toEqual([]);
    // What it fails with from the beginning on is the user's mistake, and said so.
    symlinkSync(world.path('circle'), world.path('circle'));
    const address = { type: 'unix', path: world.path('circle') } as const;
    expect(() => port({ address, reconnectMs: 1 })).toThrow(/ELOOP/);
  });

  test('further attempts find the address of a host without holding the device loop up', async () => {
    const address = { type: 'tcp', host: '127.0.0.1', port: await freePort() } as const;
    // Longer than a label may be, so that getaddrinfo fails without asking a name server.
    const host = 'x'.repeat(64);
    const answers = [new Error('no name server'), undefined];
    const asked: string[] = [];
    const client = port({
      address: { ...address, host },
      reconnectMs: 1,
      lookup: (name, found) => {
        asked.push(name);
        setImmediate(() => found(answers.shift() ?? null, [address.host]));
      },
    });
    port({ address, server: true });
    await world.until(() => client.linkUp);
    expect(asked).toEqual([host, host]);
  });

  test('further attempts try every address that a host has, for a peer may listen at one of them only', async () => {
    const address = { type: 'tcp', host: '127.0.0.1', port: await freePort() } as const;
    const client = port({
      address: { ...address, host: 'x'.repeat(64) },
      reconnectMs: 1,
      lookup: (_, found) => found(null, ['127.0.0.2', '127.0.0.3', address.host]),
    });
    port({ address, server: true });
    await world.until(() => client.linkUp);
  });

  test('a port that is closed while the address of its host is looked for stays closed', async () => {
    let answer: (() => void) | undefined;
    const client = port({
      address: { type: 'tcp', host: 'x'.repeat(64), port: await freePort() },
      reconnectMs: 1,
      lookup: (_, found) => {
        answer = () => found(null, ['127.0.0.1']);
      },
    });
    await world.until(() => answer !== undefined);
    client.close();
    answer?.();
    await world.settle();
    expect(client.linkUp).toBe(false);
  });

  test('nobody there and no reconnecting: an error that names the place', () => {
    expect(() => port({ reconnectMs: 0 })).toThrow(/no stream at .*stream/);
  });
});
