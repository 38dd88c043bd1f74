import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type CompanionError, errno } from '../../src/errors.ts';
import { silentLogger } from '../../src/log.ts';
import { createReactor } from '../../src/loop/index.ts';
import type { Reactor } from '../../src/loop/types.ts';
import { closeFd, connectUnix, eventfdCreate, listenUnix, memfdCreate } from '../../src/posix/index.ts';
import { NativeServer, type NativeServerOptions } from '../../src/transport/native/index.ts';
import {
  AsyncVfioUserClient,
  ConnectionError,
  operations,
  VfioUserClient,
} from '../../src/vfio-user/client/index.ts';
import { encodeReply, encodeRequest, messages, readHeader } from '../../src/vfio-user/messages.ts';
import { FakeDevice, FakeMigration } from './fake-device.ts';

let directory: string;
let path: string;
let reactor: Reactor;
let device: FakeDevice;
let server: NativeServer | undefined;
const clients: VfioUserClient[] = [];

const turn = () => {
  for (let i = 0; i < 8; i++) reactor.turn(0);
};

function start(options: Partial<NativeServerOptions> = {}): NativeServer {
  device = new FakeDevice(new FakeMigration());
  server = new NativeServer({ reactor, device, path, role: 'device', log: silentLogger, ...options });
  return server;
}

function connect(): VfioUserClient {
  const client = VfioUserClient.connect(path, { pump: turn });
  clients.push(client);
  return client;
}

/** Ends tests soon, and is long enough for a client that does as it should on a machine that is busy. */
const limitMs = 300;

/** Waits until the server has dropped its client. */
const gone = () =>
  vi.waitUntil(
    () => {
      turn();
      return server?.connected === false;
    },
    { timeout: 10_000, interval: 5 },
  );

const openDescriptors = () => readdirSync('/proc/self/fd').length;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vc-test-'));
  path = join(directory, 'device.sock');
  reactor = createReactor({ busyWaitNs: 0 });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  turn();
  server?.close();
  server = undefined;
  reactor.close();
  rmSync(directory, { recursive: true, force: true });
});

describe('a server’s socket', () => {
  it('is for its owner alone, and removed at the end', () => {
    start();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    server?.close();
    expect(existsSync(path)).toBe(false);
  });

  it('replaces a stale file, and refuses a path in use or a file that is no socket', () => {
    const other = listenUnix(path);
    expect(() => start()).toThrow(expect.objectContaining({ errno: errno.EADDRINUSE }));
    closeFd(other);
    start();
    expect(connect().getInfo().regions).toBe(9);
    path = join(directory, 'file');
    writeFileSync(path, 'precious');
    expect(() => start()).toThrow(expect.objectContaining({ errno: errno.EADDRINUSE }));
  });

  it('answers a second client that it is busy, and serves the next one after the first', () => {
    start();
    const first = connect();
    const message = 'the server refused VERSION: it serves another client already';
    expect(() => connect()).toThrow(expect.objectContaining({ errno: errno.EBUSY, message }));
    expect(first.getInfo().regions).toBe(9);
    first.close();
    expect(connect().getInfo().regions).toBe(9);
    expect(device.calls).toEqual(['attach', 'detach', 'attach']);
  });

  it('lets go of those that are turned away and say nothing, of the last of many at once', async () => {
    const base = openDescriptors();
    start();
    const first = connect();
    const before = openDescriptors();
    const silent = Array.from({ length: 10 }, () => connectUnix(path));
    turn();
    expect(openDescriptors()).toBe(before + 10 + 8);
    const told = (): boolean => {
      turn();
      return openDescriptors() === before + 10;
    };
    await vi.waitUntil(told, { timeout: 10_000, interval: 5 });
    expect(first.getInfo().regions).toBe(9);
    silent.push(connectUnix(path));
    turn();
    server?.close();
    first.close();
    turn();
    for (const fd of silent) closeFd(fd);
    expect(openDescriptors()).toBe(base);
  });

  it('keeps nothing of a client that leaves, whatever it was doing', () => {
    start();
    connect().close();
    turn();
    const before = openDescriptors();
    for (let cut = 1; cut < 48; cut += 5) {
      const client = connect();
      const fd = memfdCreate('ram', 4096);
      client.dmaMap({ iova: 4096, size: 4096, prot: 3, fd });
      const eventfd = eventfdCreate();
      client.setIrqs({ index: 2, count: 1, action: 'trigger', eventfds: [eventfd] });
      const { spec, value } = operations.dmaMap({ iova: 8192, size: 4096, prot: 3 });
      client.sendRaw(encodeRequest(spec, 9, value).subarray(0, cut), [fd]);
      client.close();
      turn();
      closeFd(fd);
      closeFd(eventfd);
      expect(device.maps.size).toBe(0);
    }
    expect(openDescriptors()).toBe(before);
  });

  it('drops a client that does not negotiate', async () => {
    start({ negotiationTimeoutMs: limitMs });
    const silent = connectUnix(path);
    turn();
    expect(server?.connected).toBe(true);
    await gone();
    closeFd(silent);
  });

  it('drops a client that never reads', async () => {
    start({ outputTimeoutMs: limitMs });
    const client = connect();
    for (let i = 0; i < 200; i++) client.submit(operations.regionRead(1, 0, 65536));
    turn();
    expect(server?.connected).toBe(true);
    await gone();
    expect(device.calls.at(-1)).toBe('detach');
  });

  it('stops reading from a client while that does not read, and goes on where it was', () => {
    start();
    const client = connect();
    const pending = Array.from({ length: 300 }, () => client.submit(operations.regionRead(1, 0, 65536)));
    turn();
    for (const read of pending) expect(read.wait()).toHaveLength(65536);
  });

  it('survives a flood of bad messages', () => {
    const lines: string[] = [];
    const log = { ...silentLogger, warn: (_: object, line: string) => lines.push(line), child: () => log };
    start({ log: log as unknown as typeof silentLogger });
    const client = connect();
    const bad = encodeRequest(messages.DEVICE_RESET, 1, {}, undefined, 0x10);
    bad.writeUInt16LE(99, 2);
    for (let i = 0; i < 2000; i++) client.sendRaw(bad);
    expect(client.getInfo().regions).toBe(9);
    expect(lines.length).toBeLessThan(40);
    expect(lines.length).toBeGreaterThan(10);
  });
});

describe('the client with promises', () => {
  let running: Promise<void>;
  const serve = (options: Partial<NativeServerOptions> = {}) => {
    start({ role: 'migration', ...options });
    running = reactor.run();
  };
  const stop = async (client: AsyncVfioUserClient) => {
    client.close();
    reactor.stop();
    await running;
  };

  it('moves state in large pieces, side by side', async () => {
    serve({ companion: (request) => request });
    const client = await AsyncVfioUserClient.connect(path);
    const state = Buffer.from(Uint8Array.from({ length: 5_000_000 }, (_, i) => (i * 31) >> 4));
    if (device.migration === undefined) throw new Error('no migration');
    device.migration.saved = state;
    const pieces: Buffer[] = [];
    for (let piece = await client.readState(client.maxTransfer); piece.length > 0; ) {
      pieces.push(piece);
      piece = await client.readState(client.maxTransfer);
    }
    expect(Buffer.concat(pieces).equals(state)).toBe(true);
    const writes: Promise<void>[] = [];
    for (let at = 0; at < state.length; at += client.maxTransfer) {
      writes.push(client.writeState(state.subarray(at, at + client.maxTransfer)));
    }
    await Promise.all(writes);
    expect(device.migration.loaded.equals(state)).toBe(true);
    await client.setState(6);
    expect(await client.getState()).toBe(6);
    expect(await client.precopyInfo()).toEqual({ initialBytes: 111, dirtyBytes: 222, flags: 0 });
    expect(await client.companion('hello', { to: 'you' })).toEqual({ op: 'hello', to: 'you' });
    await expect(client.setState(99)).rejects.toMatchObject({ errno: errno.EINVAL, message: 'no state 99' });
    await stop(client);
    await expect(client.getState()).rejects.toThrow(ConnectionError);
  });

  it('fails when nobody listens, and when the server goes', async () => {
    await expect(AsyncVfioUserClient.connect(path)).rejects.toThrow(ConnectionError);
    serve();
    const client = await AsyncVfioUserClient.connect(path);
    const ended = new Promise<CompanionError>((resolve) => {
      client.onEnd = resolve;
    });
    server?.close();
    expect((await ended).errno).toBe(errno.ENOTCONN);
    await stop(client);
  });

  it.each([2 ** 31, Number.POSITIVE_INFINITY])('waits for %d ms when it is told to', async (timeoutMs) => {
    serve();
    const client = await AsyncVfioUserClient.connect(path, { timeoutMs });
    expect(await client.getState()).toBe(2);
    await stop(client);
  });

  it('gives up at the deadline, bears the late reply, and refuses one that nobody asked for', async () => {
    const { createServer } = await import('node:net');
    const replies: (() => void)[] = [];
    const peer = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (piece) => {
        const { id, command } = readHeader(piece as Buffer, 0);
        if (command === 1) socket.write(encodeReply(messages.VERSION, id, { major: 0, minor: 0 }));
        else replies.push(() => socket.write(encodeReply(messages.MIG_DATA_WRITE, id, {})));
      });
    });
    await new Promise<void>((resolve) => peer.listen(path, resolve));
    const client = await AsyncVfioUserClient.connect(path);
    await expect(client.writeState(Buffer.alloc(1), 20)).rejects.toMatchObject({
      errno: errno.ETIMEDOUT,
      message: `the server at ${path} does not answer (MIG_DATA_WRITE: no reply within 20 ms)`,
      hint: expect.stringContaining('stopped'),
    });
    replies[0]?.();
    const second = client.writeState(Buffer.alloc(1));
    while (replies.length < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    replies[1]?.();
    await second;
    const ended = new Promise<CompanionError>((resolve) => {
      client.onEnd = resolve;
    });
    replies[1]?.();
    expect((await ended).errno).toBe(errno.EPROTO);
    await new Promise((resolve) => peer.close(resolve));
  });
});
