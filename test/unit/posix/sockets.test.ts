import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { errno } from '../../../src/errors.ts';
import { ready } from '../../../src/loop/types.ts';
import { isNonBlocking } from '../../../src/posix/files.ts';
import {
  acceptUnix,
  adoptEventfd,
  closeFd,
  connectUnix,
  dupFd,
  eventfdCreate,
  eventfdDrain,
  eventfdSignal,
  listenUnix,
  memfdCreate,
  PosixError,
  pollFd,
  recvBytes,
  recvMessage,
  sendMessage,
  setSocketTimeout,
  socketPair,
} from '../../../src/posix/index.ts';
import { addressOf, libc } from '../../../src/posix/libc.ts';

const openDescriptors = () => readdirSync('/proc/self/fd').length;
const nothing = -errno.EAGAIN;
/** The largest count that an eventfd holds. */
const full = Buffer.from('feffffffffffffff', 'hex');

describe('messages', () => {
  let a: number;
  let b: number;
  beforeEach(() => {
    [a, b] = socketPair();
  });
  afterEach(() => {
    for (const fd of [a, b]) if (fd >= 0) closeFd(fd);
  });

  it('carries header and payload, received at an offset', () => {
    const header = Buffer.from('head-and-more');
    expect(sendMessage(a, header, 4, Buffer.from('payload'), undefined, false)).toBe(11);
    const target = Buffer.alloc(32, '.');
    expect(recvMessage(b, target, 3, 20, [], false)).toBe(11);
    expect(target.toString('latin1', 0, 16)).toBe('...headpayload..');
  });

  it('takes a payload that is part of a larger array', () => {
    const large = new Uint8Array(100).map((_, index) => index);
    sendMessage(a, Buffer.from([255]), 1, large.subarray(40, 43), undefined, false);
    const target = Buffer.alloc(8);
    expect(recvBytes(b, target, 0, 8, false)).toBe(4);
    expect([...target.subarray(0, 4)]).toEqual([255, 40, 41, 42]);
  });

  it('passes descriptors, close-on-exec, in order', () => {
    const before = openDescriptors();
    const events = [eventfdCreate(), eventfdCreate(), eventfdCreate()];
    sendMessage(a, Buffer.from('x'), 1, undefined, events, false);
    const fds = [77];
    expect(recvMessage(b, Buffer.alloc(8), 0, 8, fds, false)).toBe(1);
    expect(fds).toHaveLength(4);
    eventfdSignal(events[1] ?? -1);
    expect(fds.slice(1).map((fd) => eventfdDrain(fd))).toEqual([false, true, false]);
    for (const fd of [...events, ...fds.slice(1)]) closeFd(fd);
    expect(openDescriptors()).toBe(before);
  });

  it('takes as many descriptors as the kernel lets through, and refuses to send more', () => {
    const before = openDescriptors();
    const event = eventfdCreate();
    const fds: number[] = [];
    sendMessage(a, Buffer.from('x'), 1, undefined, Array(253).fill(event), false);
    recvMessage(b, Buffer.alloc(8), 0, 8, fds, false);
    expect(fds).toHaveLength(253);
    expect(() => sendMessage(a, Buffer.from('x'), 1, undefined, Array(254).fill(event), false)).toThrow(
      'EINVAL',
    );
    for (const fd of [event, ...fds]) closeFd(fd);
    expect(openDescriptors()).toBe(before);
  });

  it('does not mistake an earlier message’s descriptors for this one’s', () => {
    const event = eventfdCreate();
    sendMessage(a, Buffer.from('x'), 1, undefined, [event], false);
    sendMessage(a, Buffer.from('y'), 1, Buffer.from('z'), undefined, false);
    const fds: number[] = [];
    const target = Buffer.alloc(8);
    recvMessage(b, target, 0, 1, fds, false);
    for (const fd of [event, ...fds.splice(0)]) closeFd(fd);
    recvMessage(b, target, 0, 8, fds, false);
    expect(fds).toEqual([]);
  });

  it('tells nothing there, end of stream and a broken pipe apart', () => {
    const target = Buffer.alloc(8);
    expect(recvMessage(b, target, 0, 8, [], false)).toBe(nothing);
    closeFd(a);
    a = -1;
    expect(recvMessage(b, target, 0, 8, [], false)).toBe(0);
    expect(() => sendMessage(b, target, 8, undefined, undefined, false)).toThrow(PosixError);
    expect(() => sendMessage(b, target, 8, target, undefined, false)).toThrow('EPIPE');
  });

  it('sends in part, and says so, when the peer does not read', () => {
    const large = Buffer.alloc(8 << 20);
    const sent = sendMessage(a, Buffer.from('h'), 1, large, undefined, false);
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThan(large.length);
    expect(sendMessage(a, Buffer.from('h'), 1, large, undefined, false)).toBe(nothing);
  });

  it('bounds waiting by the socket timeout', () => {
    setSocketTimeout(b, 5);
    expect(recvMessage(b, Buffer.alloc(8), 0, 8, [], true)).toBe(nothing);
    expect(recvBytes(b, Buffer.alloc(8), 0, 8, true)).toBe(nothing);
  });

  it('refuses ranges outside the buffer', () => {
    const small = Buffer.alloc(4);
    expect(() => recvMessage(b, small, 2, 3, [], false)).toThrow(RangeError);
    expect(() => recvMessage(b, small, -1, 3, [], false)).toThrow(RangeError);
    expect(() => sendMessage(b, small, 5, undefined, undefined, false)).toThrow(RangeError);
  });

  it('keeps datagrams apart on seqpacket, and refuses one that does not fit with its descriptors', () => {
    const [c, d] = socketPair('seqpacket');
    const event = eventfdCreate();
    const before = openDescriptors();
    sendMessage(c, Buffer.from('one'), 3, undefined, undefined, false);
    sendMessage(c, Buffer.from('three'), 5, undefined, [event], false);
    const target = Buffer.alloc(16);
    const fds = [55];
    expect(recvMessage(d, target, 0, 16, fds, false)).toBe(3);
    expect(() => recvMessage(d, target, 0, 4, fds, false)).toThrow('longer than the buffer');
    expect(fds).toEqual([55]);
    expect(openDescriptors()).toBe(before);
    for (const fd of [c, d, event]) closeFd(fd);
  });
});

describe('pollFd', () => {
  it('reports reading, writing, hanging up and time over', () => {
    const [a, b] = socketPair();
    expect(pollFd(a, ready.read, 0)).toBe(0);
    expect(pollFd(a, ready.read, 2)).toBe(0);
    expect(pollFd(a, ready.read | ready.write, -1)).toBe(ready.write);
    sendMessage(b, Buffer.from('x'), 1, undefined, undefined, false);
    expect(pollFd(a, ready.read, -1)).toBe(ready.read);
    closeFd(b);
    expect(pollFd(a, 0, -1)).toBe(ready.hangup);
    closeFd(a);
    expect(() => pollFd(a, ready.read, 0)).toThrow('EBADF');
  });
});

describe('UNIX sockets', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'posix-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('listens with mode 0600, accepts, connects', () => {
    const path = join(directory, 's');
    const listener = listenUnix(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readdirSync(directory)).toEqual(['s']);
    expect(acceptUnix(listener)).toBeUndefined();
    const client = connectUnix(path);
    const server = acceptUnix(listener);
    expect(server).toBeGreaterThan(0);
    for (const fd of [listener, client, server ?? -1]) closeFd(fd);
  });

  it('replaces the socket of a dead process, and neither a live one nor another file', () => {
    const path = join(directory, 's');
    closeFd(listenUnix(path));
    const before = openDescriptors();
    const listener = listenUnix(path);
    expect(() => listenUnix(path)).toThrow('EADDRINUSE');
    expect(() => listenUnix(path, { type: 'seqpacket' })).toThrow('EADDRINUSE');
    const client = connectUnix(path);
    closeFd(client);
    closeFd(listener);
    const file = join(directory, 'file');
    writeFileSync(file, 'precious');
    expect(() => listenUnix(file)).toThrow('EADDRINUSE');
    expect(statSync(file).size).toBe(8);
    expect(openDescriptors()).toBe(before);
  });

  it('refuses paths that C would cut short', () => {
    expect(() => listenUnix(join(directory, 'x'.repeat(120)))).toThrow('EINVAL');
    expect(() => connectUnix(`${directory}/a\0b`)).toThrow('EINVAL');
    expect(() => connectUnix(join(directory, 'missing'))).toThrow('ENOENT');
  });

  it('a connection that may not wait does not, where nobody accepts', () => {
    const path = join(directory, 'full');
    const listener = listenUnix(path, { backlog: 0 });
    const fds = [listener];
    try {
      expect(() => {
        for (let times = 0; times < 8; times += 1)
          fds.push(connectUnix(path, 'stream', { nonBlocking: true }));
      }).toThrow(/EAGAIN|EWOULDBLOCK/);
    } finally {
      for (const fd of fds) closeFd(fd);
    }
  });
});

describe('descriptors', () => {
  it('are duplicated, and closed once', () => {
    const fd = memfdCreate('test', 4096);
    const copy = dupFd(fd);
    closeFd(fd);
    expect(() => closeFd(fd)).toThrow('EBADF');
    closeFd(copy);
  });

  it('of a peer are adopted if they are eventfds, and then never block', () => {
    const blocking = libc.eventfd(0, 0);
    libc.write(blocking, addressOf(full), full.length);
    adoptEventfd(blocking);
    eventfdSignal(blocking);
    expect(eventfdDrain(blocking)).toBe(true);
    expect(eventfdDrain(blocking)).toBe(false);
    // The open file is the peer's too, who may count on being made to wait.
    expect(isNonBlocking(blocking)).toBe(false);
    closeFd(blocking);
    expect(() => adoptEventfd(blocking)).toThrow('not open');
    const [a, b] = socketPair();
    expect(() => adoptEventfd(a)).toThrow('no eventfd');
    for (const fd of [a, b]) closeFd(fd);
  });

  it('signal a full eventfd without blocking', () => {
    const event = eventfdCreate();
    expect(eventfdDrain(event)).toBe(false);
    eventfdSignal(event);
    eventfdSignal(event);
    expect(eventfdDrain(event)).toBe(true);
    expect(eventfdDrain(event)).toBe(false);
    closeFd(event);
    expect(() => eventfdSignal(event)).toThrow('EBADF');
  });
});
