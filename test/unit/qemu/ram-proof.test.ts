import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  closeFd,
  ftruncate,
  listenUnix,
  MappedMemory,
  memfdCreate,
  mmapProt,
  sendMessage,
  socketPair,
} from '../../../src/posix/index.ts';
import {
  compareFiles,
  type DifferingPage,
  isForeignUnixSocket,
  pidOfUnixSocket,
  ramOf,
} from '../../../src/qemu/ram-proof.ts';

const page = 4096;
const mib = 1024 * 1024;

/** A file with those bytes: pieces at their offsets, and holes in between. */
function fileOf(size: number, pieces: readonly (readonly [at: number, bytes: Buffer])[]): number {
  const fd = memfdCreate('ram-proof', size);
  for (const [at, bytes] of pieces) writeSync(fd, bytes, 0, bytes.length, at);
  return fd;
}

describe('compareFiles', () => {
  const size = 8 * mib + page;
  // Two holes; the second piece crosses a border of what is read at once.
  const pieces = [
    [page, Buffer.alloc(3 * mib, 1)],
    [6 * mib, Buffer.alloc(mib + page, 2)],
  ] as const;
  let files: number[];

  beforeEach(() => {
    files = [];
  });

  afterEach(() => {
    for (const fd of files) closeFd(fd);
  });

  /** Compares with a copy that has these bytes changed. */
  function compared(changes: readonly number[], first: DifferingPage[] = [], more = pieces): number {
    const one = Buffer.of(9);
    files.push(fileOf(size, pieces), fileOf(size, [...more, ...changes.map((at) => [at, one] as const)]));
    return compareFiles('r', files[0] ?? -1, files[1] ?? -1, { from: 0, to: size }, first);
  }

  it('finds no difference where there is none', () => {
    expect(compared([])).toBe(0);
  });

  it('takes a hole for what it is: zeroes', () => {
    expect(compared([], [], [...pieces, [4 * mib, Buffer.alloc(mib)]] as never)).toBe(0);
  });

  it('counts each differing page once and names the first', () => {
    const first: DifferingPage[] = [];
    // In a hole, at the ends of a piece, twice in a page, in the last page.
    const places = [0, page, 2 * page - 1, 7 * page + 5, 3 * mib + page - 1, 5 * mib + 3, 6 * mib, size - 1];
    expect(compared(places, first)).toBe(7);
    expect(first.map(({ offset, at }) => offset + at)).toEqual(places.filter((at) => at !== 2 * page - 1));
    expect(first[0]).toMatchObject({ source: 0, destination: 9 });
    expect(first[1]).toMatchObject({ source: 1, destination: 9 });
  });

  it('names few of many', () => {
    const first: DifferingPage[] = [];
    expect(compared([], first, [[0, Buffer.alloc(size, 7)]] as never)).toBe(size / page);
    expect(first).toHaveLength(16);
  });

  it('refuses a memory that ends early', () => {
    files.push(fileOf(size, pieces), fileOf(7 * mib, pieces.slice(0, 1)));
    expect(() => compareFiles('r', files[0] ?? -1, files[1] ?? -1, { from: 0, to: size }, [])).toThrow(
      'ends at',
    );
  });
});

describe('ramOf', () => {
  it('finds memory that is shared and mapped, by the name QEMU gives it', () => {
    const fd = memfdCreate('memory-backend-memfd', mib);
    const other = memfdCreate('some-bar', mib);
    try {
      ftruncate(fd, mib);
      ftruncate(other, mib);
      const maps = [fd, other].map((each) => MappedMemory.map(each, 0, mib, mmapProt.READ | mmapProt.WRITE));
      const found = ramOf(process.pid);
      expect(found.map(({ size }) => size)).toEqual([mib]);
      expect(found[0]?.name).toContain('memory-backend-memfd');
      for (const map of maps) map.unmap();
      expect(ramOf(process.pid)).toEqual([]);
    } finally {
      closeFd(fd);
      closeFd(other);
    }
  });
});

describe('isForeignUnixSocket', () => {
  it('tells a socket that nobody has whom one may look at', () => {
    const folder = mkdtempSync(join(tmpdir(), 'vc-foreign-'));
    // In a folder so deep the socket has its name from the start, as the kernel shows it.
    const deep = join(folder, 'd'.repeat(99 - folder.length));
    mkdirSync(deep);
    const path = join(deep, 'qmp');
    const listening = listenUnix(path);
    const [from, to] = socketPair();
    try {
      expect(isForeignUnixSocket(join(folder, 'none'))).toBe(false);
      expect(isForeignUnixSocket(path)).toBe(false);
      // On its way from one process to another it belongs to nobody.
      sendMessage(from, Buffer.of(0), 1, undefined, [listening], true);
      closeFd(listening);
      expect(isForeignUnixSocket(path)).toBe(true);
      expect(pidOfUnixSocket(path)).toBeUndefined();
    } finally {
      for (const fd of [from, to]) closeFd(fd);
      rmSync(folder, { recursive: true });
    }
  });
});

describe('pidOfUnixSocket', () => {
  /** Processes that listen at the same relative path, each in a folder of its own. */
  const children: ChildProcess[] = [];
  const folders: string[] = [];
  const name = `vc-${process.pid}.qmp`;
  afterEach(async () => {
    for (const child of children.splice(0)) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
  });

  async function listen(): Promise<number | undefined> {
    const cwd = mkdtempSync(join(tmpdir(), 'vc-pid-'));
    folders.push(cwd);
    const program = "require('net').createServer().listen(process.argv[1], () => console.log('ready'))";
    const child = spawn(process.execPath, ['-e', program, name], {
      cwd,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    children.push(child);
    await once(child.stdout, 'data');
    return child.pid;
  }

  it('finds the process, and names none of several', async () => {
    expect(pidOfUnixSocket(name)).toBeUndefined();
    const pid = await listen();
    expect(pidOfUnixSocket(name)).toBe(pid);
    await listen();
    expect(pidOfUnixSocket(name)).toBeUndefined();
  });
});
