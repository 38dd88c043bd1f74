import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ram } from '../../device-models/ram/index.ts';
import type { DeviceModel } from '../../src/device/index.ts';
import { errno } from '../../src/errors.ts';
import { migrationState as s } from '../../src/migration/index.ts';
import {
  closeFd,
  MappedMemory,
  memfdCreate,
  open,
  openFlag,
  sealSize,
  socketPair,
  write,
} from '../../src/posix/index.ts';
import { Bench } from './runtime-harness.ts';

const size = 1 << 20;
const board = 2;
const token = Buffer.from('sixteen bytes or');
const name = 'state-window-test';
const mappings = () =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(name)).length;

describe('state through shared memory', () => {
  const benches: Bench[] = [];
  const fds: number[] = [];
  let source: Bench;
  let target: Bench;
  let fd: number;

  const descriptor = (made: number): number => {
    fds.push(made);
    return made;
  };
  const bench = (): Bench => {
    const made = new Bench(ram as unknown as DeviceModel);
    benches.push(made);
    return made;
  };
  const openOn = (on: Bench, args: object = {}): void => {
    on.orchestrator.companion('openStateWindow', { pid: process.pid, fd, size, token, ...args });
  };
  const refusal = (code: number) => expect.objectContaining({ errno: code });

  beforeEach(() => {
    fd = descriptor(memfdCreate(name, size));
    sealSize(fd);
    write(fd, token);
    source = bench();
    target = bench();
  });
  afterEach(() => {
    for (const each of benches.splice(0)) each.close();
    for (const each of fds.splice(0)) closeFd(each);
  });

  function fill(on: Bench): Buffer {
    const bytes = Buffer.from(Uint8Array.from({ length: 3 * size }, (_, i) => (i * 31) >>> 3));
    for (let at = 0; at < bytes.length; at += size)
      on.client.regionWrite(board, at, bytes.subarray(at, at + size));
    return bytes;
  }

  /** Moves everything in pieces of `length`; `meddle` sees each piece on its way. */
  function move(length: number, meddle: (at: number, count: number) => void = () => {}): void {
    for (let offset = 0; ; offset = (offset + length) % (size - length)) {
      const read = source.orchestrator.companion('readState', { offset, length }) as { length: number };
      meddle(offset, read.length);
      if (read.length > 0) target.orchestrator.companion('writeState', { offset, length: read.length });
      if (read.length < length) return;
    }
  }

  it('arrives as it does through sockets', () => {
    const bytes = fill(source);
    for (const each of [source, target]) openOn(each);
    source.orchestrator.setState(s.STOP_COPY);
    target.orchestrator.setState(s.RESUMING);
    move(600_001);
    target.orchestrator.setState(s.STOP);
    for (let at = 0; at < bytes.length; at += size) {
      expect(target.client.regionRead(board, at, size).equals(bytes.subarray(at, at + size))).toBe(true);
    }
  });

  it('is refused when it was changed on its way', () => {
    fill(source);
    for (const each of [source, target]) openOn(each);
    const window = MappedMemory.map(fd, 0, size, 3);
    source.orchestrator.setState(s.STOP_COPY);
    target.orchestrator.setState(s.RESUMING);
    const meddle = (at: number, count: number): void => {
      const bytes = window.windows[0] ?? Buffer.alloc(0);
      bytes[at + (count >>> 1)] = (bytes[at + (count >>> 1)] ?? 0) ^ 1;
    };
    expect(() => move(100_000, meddle)).toThrow('corrupt');
    expect(target.orchestrator.getState()).toBe(s.ERROR);
    window.unmap();
  });

  it('needs a memfd that can not shrink', () => {
    const directory = mkdtempSync(join(tmpdir(), 'vc-test-'));
    const path = join(directory, 'file');
    writeFileSync(path, Buffer.alloc(size));
    const [a, b] = socketPair();
    const open_ = descriptor(memfdCreate(name, size));
    const file = descriptor(open(path, openFlag.RDWR));
    descriptor(b);
    expect(() => openOn(source, { fd: open_ })).toThrow(refusal(errno.EPERM));
    expect(() => openOn(source, { fd: file })).toThrow(refusal(errno.EPERM));
    expect(() => openOn(source, { fd: descriptor(a) })).toThrow(refusal(errno.EPERM));
    expect(() => openOn(source, { fd: 1_000_000 })).toThrow(refusal(errno.ENOENT));
    expect(() => openOn(source, { pid: 2 ** 31 })).toThrow(refusal(errno.ENOENT));
    for (const wrong of [
      { fd: '../../self/fd/1' },
      { pid: -1 },
      { fd: 1.5 },
      { size: 0 },
      { size: 2 ** 40 },
    ]) {
      expect(() => openOn(source, wrong)).toThrow(refusal(errno.EINVAL));
    }
    for (const other of ['sixteen bytes of', 'too short']) {
      expect(() => openOn(source, { token: Buffer.from(other) })).toThrow();
    }
    expect(() => openOn(source, { size: size + 4096 })).toThrow(refusal(errno.EINVAL));
    expect(mappings()).toBe(0);
    rmSync(directory, { recursive: true });
  });

  it('keeps to the window, to the state machine, and to one window at a time', () => {
    const read = (args: object) => () => source.orchestrator.companion('readState', { ...args });
    expect(read({ offset: 0, length: 10 })).toThrow('no state window');
    openOn(source);
    openOn(source);
    expect(mappings()).toBe(1);
    expect(read({ offset: 0, length: 10 })).toThrow(refusal(errno.EINVAL));
    source.orchestrator.setState(s.STOP_COPY);
    for (const [offset, length] of [
      [size, 1],
      [0, size + 1],
      [size - 1, 2],
      [0, 0],
      [2 ** 52, 2 ** 52],
    ]) {
      expect(read({ offset, length })).toThrow(refusal(errno.EINVAL));
    }
    expect(read({ offset: size - 10, length: 10 })()).toEqual({ length: 10 });
    source.orchestrator.companion('closeStateWindow');
    expect(read({ offset: 0, length: 10 })).toThrow('no state window');
    expect(mappings()).toBe(0);
  });

  it('is let go of when the orchestrator goes', () => {
    openOn(source);
    expect(mappings()).toBe(1);
    source.orchestrator.close();
    source.settle();
    expect(mappings()).toBe(0);
  });
});
