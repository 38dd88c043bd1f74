import { readdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { closeFd, dupFd, fstatSize, memfdCreate, sendMessage, socketPair } from '../../../src/posix/index.ts';
import { FramedSocket, frame } from '../../../src/vfio-user/framed-socket.ts';

/** A message with `payload` bytes behind its header and `id` as its id. */
function message(id: number, payload: number, size = 16 + payload): Buffer {
  const bytes = Buffer.alloc(16 + payload, id);
  bytes.fill(0, 0, 16);
  bytes.writeUInt16LE(id, 0);
  bytes.writeUInt32LE(size, 4);
  return bytes;
}

const openDescriptors = () => readdirSync('/proc/self/fd').length;

interface Seen {
  readonly id: number;
  readonly length: number;
  /** Sizes of the files that came with it: a size names a file. */
  readonly fds: readonly number[];
}

let peer: number;
let socket: FramedSocket;
let before: number;
const files: number[] = [];

/** A descriptor that can be told from others by its file's size. */
function file(size: number): number {
  const fd = memfdCreate(`file ${size}`, size);
  files.push(fd);
  return fd;
}

function send(bytes: Buffer, fds?: readonly number[]): void {
  sendMessage(peer, bytes, bytes.length, undefined, fds, true);
}

/** Everything that has arrived, as `receive` and `next` find it; the descriptors are closed. */
function collect(into: Seen[] = []): Seen[] {
  const take = () => {
    for (let found = socket.next(); found === frame.message; found = socket.next()) {
      const fds = socket.takeDescriptors();
      const bytes = socket.buffer.subarray(socket.at + 16, socket.at + socket.length);
      const id = socket.buffer.readUInt16LE(socket.at);
      expect(bytes.every((byte) => byte === id)).toBe(true);
      into.push({ id, length: socket.length, fds: fds.map(fstatSize) });
      fds.forEach(closeFd);
    }
  };
  while (socket.receive()) take();
  return into;
}

beforeEach(() => {
  before = openDescriptors();
  const [ours, theirs] = socketPair();
  peer = theirs;
  socket = new FramedSocket(ours, { maxMessage: 4096, maxQueued: 1 << 20 });
});

afterEach(() => {
  socket.release();
  closeFd(peer);
  for (const fd of files.splice(0)) closeFd(fd);
  // No test may leak a descriptor.
  expect(openDescriptors()).toBe(before);
});

describe('messages out of a stream', () => {
  const stream = Buffer.concat([message(1, 0), message(2, 30), message(3, 7)]);
  const expected = [
    { id: 1, length: 16, fds: [] },
    { id: 2, length: 46, fds: [] },
    { id: 3, length: 23, fds: [] },
  ];

  it('are found in one piece', () => {
    send(stream);
    expect(collect()).toEqual(expected);
  });

  it('are found split at every byte', () => {
    for (let at = 1; at < stream.length; at++) {
      send(stream.subarray(0, at));
      const seen = collect();
      send(stream.subarray(at));
      expect(collect(seen)).toEqual(expected);
    }
  });

  it('are found byte by byte', () => {
    const seen: Seen[] = [];
    for (let at = 0; at < stream.length; at++) {
      send(stream.subarray(at, at + 1));
      collect(seen);
    }
    expect(seen).toEqual(expected);
  });

  it('go on for longer than the buffer', () => {
    const seen: Seen[] = [];
    for (let i = 1; i <= 200; i++) {
      send(message(i, 4000));
      send(message(i, i).subarray(0, 9));
      collect(seen);
      send(message(i, i).subarray(9));
    }
    collect(seen);
    expect(seen).toHaveLength(400);
  });

  it('stay where they are while pinned, and go on elsewhere', () => {
    send(message(7, 4000));
    socket.receive();
    expect(socket.next()).toBe(frame.message);
    const { buffer, at } = socket;
    socket.pin();
    const seen: Seen[] = [];
    for (let i = 1; i <= 40; i++) {
      send(message(i, 4000));
      collect(seen);
    }
    expect(seen).toHaveLength(40);
    expect(buffer.subarray(at + 16, at + 4016).every((byte) => byte === 7)).toBe(true);
    socket.unpin();
  });
});

describe('descriptors', () => {
  it('go to the message that they were sent with, wherever it is split', () => {
    const [first, second, third] = [message(1, 5), message(2, 30), message(3, 7)];
    const a = file(100);
    const b = file(200);
    for (let at = 1; at < second.length; at++) {
      send(first);
      send(second.subarray(0, at), [a, b]);
      const seen = at % 2 === 0 ? collect() : [];
      send(second.subarray(at));
      send(third);
      collect(seen);
      expect(seen.map(({ id, fds }) => [id, fds])).toEqual([
        [1, []],
        [2, [100, 200]],
        [3, []],
      ]);
    }
  });

  it('that come with every piece of a message that does not end are given back, and end the connection', () => {
    const many = Array.from({ length: 200 }, () => file(100));
    const endless = message(1, 4000);
    const pieces = [0, 1, 2, 3].map((at) => endless.subarray(at, at + 1));
    for (const piece of pieces.slice(0, 2)) send(piece, many);
    collect();
    expect(socket.closed).toBe(false);
    for (const piece of pieces.slice(2)) send(piece, many);
    collect();
    expect(socket.reason).toContain('descriptors');
    // The files themselves, and both ends.
    expect(openDescriptors()).toBe(before + many.length + 2);
  });

  it('may come with the second part of a message', () => {
    const split = message(2, 30);
    const a = file(100);
    for (let at = 1; at < split.length; at++) {
      send(message(1, 5));
      send(split.subarray(0, at));
      send(split.subarray(at), [a]);
      send(message(3, 0));
      expect(collect().map(({ id, fds }) => [id, fds])).toEqual([
        [1, []],
        [2, [100]],
        [3, []],
      ]);
    }
  });

  it('of messages behind each other are not mixed up', () => {
    const a = file(100);
    const b = file(200);
    for (const pause of [false, true]) {
      const seen: Seen[] = [];
      for (const [id, fd] of [
        [1, a],
        [2, undefined],
        [3, b],
        [4, a],
      ] as const) {
        send(message(id, 40), fd === undefined ? undefined : [fd]);
        if (pause) collect(seen);
      }
      collect(seen);
      expect(seen.map(({ id, fds }) => [id, fds])).toEqual([
        [1, [100]],
        [2, []],
        [3, [200]],
        [4, [100]],
      ]);
    }
  });

  it('of a skipped message, and of one that is never complete, are closed', () => {
    send(message(1, 5000), [file(100)]);
    send(message(2, 3), [file(200)]);
    socket.receive();
    expect(socket.next()).toBe(frame.oversized);
    expect(collect().map(({ id, fds }) => [id, fds])).toEqual([[2, [200]]]);
    send(message(3, 50).subarray(0, 20), [file(300)]);
    expect(collect()).toEqual([]);
  });
});

describe('impossible sizes', () => {
  it('are told apart', () => {
    send(message(1, 0, 15));
    socket.receive();
    expect(socket.next()).toBe(frame.malformed);
  });

  it('are skipped when too large, however the bytes arrive', () => {
    const large = message(9, 9000);
    for (const step of [1, 16, 100, 4096, 20_000]) {
      const stream = Buffer.concat([large, message(2, 3)]);
      const seen: number[] = [];
      for (let at = 0; at < stream.length; at += step) {
        send(stream.subarray(at, at + step));
        while (socket.receive()) {
          for (let found = socket.next(); found !== frame.none; found = socket.next()) {
            seen.push(found === frame.oversized ? -1 : socket.buffer.readUInt16LE(socket.at));
          }
        }
      }
      expect(seen).toEqual([-1, 2]);
    }
  });
});

describe('the end of a connection', () => {
  it('is told apart inside and between messages', () => {
    send(message(1, 10).subarray(0, 20));
    collect();
    closeFd(peer);
    expect(socket.receive()).toBe(false);
    expect(socket.reason).toBe('the peer disconnected inside a message');
    peer = file(1);
    files.length = 0;
  });
});

describe('output', () => {
  it('is queued when the peer does not read, goes out in order, and keeps its descriptors', () => {
    const a = file(100);
    const other = new FramedSocket(peer, { maxMessage: 1 << 20, maxQueued: 0 });
    const bytes = message(5, 60_000);
    let sent = 0;
    while (!socket.blocked) {
      socket.send(bytes, bytes.length);
      sent += 1;
    }
    socket.send(message(6, 1), 17, undefined, [a]);
    socket.send(message(7, 1), 16, Buffer.from([7]));
    const seen: [number, number[]][] = [];
    while (seen.length < sent + 2) {
      if (other.receive()) {
        while (other.next() === frame.message) {
          const fds = other.takeDescriptors();
          seen.push([other.buffer.readUInt16LE(other.at), fds.map(fstatSize)]);
          fds.forEach(closeFd);
        }
      } else socket.flush();
    }
    expect(seen.slice(0, sent).every(([id]) => id === 5)).toBe(true);
    expect(seen.slice(sent)).toEqual([
      [6, [100]],
      [7, []],
    ]);
    expect(socket.blocked).toBe(false);
    other.close('done');
  });

  it('ends the connection when it grows beyond its bound', () => {
    const bytes = message(5, 60_000);
    for (let i = 0; i < 100; i++) socket.send(bytes, bytes.length);
    expect(socket.closed).toBe(true);
    expect(socket.reason).toMatch(/does not read/);
  });
});

describe('a corked socket', () => {
  let receiver: FramedSocket;
  const ids = (): number[] => {
    const found: number[] = [];
    while (receiver.receive())
      while (receiver.next() === frame.message) found.push(receiver.buffer.readUInt16LE(receiver.at));
    return found;
  };
  beforeEach(() => {
    receiver = new FramedSocket(dupFd(peer), { maxMessage: 64 * 1024, maxQueued: 1 << 20 });
  });
  afterEach(() => receiver.release());

  const sendOut = (id: number, payload: number): void => {
    const bytes = message(id, payload);
    socket.send(bytes, 16, bytes.subarray(16));
  };

  it('keeps small messages until it is uncorked, and their order', () => {
    socket.cork();
    sendOut(1, 0);
    sendOut(2, 100);
    expect(ids()).toEqual([]);
    socket.uncork();
    expect(ids()).toEqual([1, 2]);
    sendOut(3, 0);
    expect(ids()).toEqual([3]);
  });

  it('lets nothing overtake what it keeps: not a large message, not one with a descriptor', () => {
    socket.cork();
    sendOut(1, 8);
    sendOut(2, 40_000);
    expect(ids()).toEqual([1, 2]);
    sendOut(3, 8);
    socket.send(message(4, 0), 16, undefined, [file(5)]);
    expect(ids()).toEqual([3, 4]);
    for (let id = 10; id < 10 + 300; id++) sendOut(id, 100);
    expect(ids().length).toBeGreaterThan(0);
    socket.uncork();
    expect(ids().at(-1)).toBe(309);
  });

  it('sends what it keeps before it is closed, but not to a peer that is gone', () => {
    socket.cork();
    sendOut(7, 0);
    socket.close('enough');
    expect(ids()).toEqual([7]);
    expect(socket.reason).toBe('enough');
  });
});
