import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa, execaSync } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { listLibraries } from '../../../src/setup/kernel.ts';
import { requireExecutable, whyFailed } from '../../../src/setup/programs.ts';
import { probeQemu } from '../../../src/setup/qemu.ts';

const mount = ['-rm', 'mount', '-t', 'tmpfs', 'none', tmpdir()];
const canMount = execaSync('unshare', mount, { reject: false }).exitCode === 0;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-companion-programs-'));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function program(name: string, text: string, mode = 0o755): string {
  const path = join(folder, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

describe('why a program failed', () => {
  it.each([
    ['echo first >&2; echo last words >&2; exit 3', 'last words'],
    ['exit 3', 'it ended with status 3'],
    ['kill -9 $$', 'it was ended by SIGKILL'],
    ['exec sleep 10', 'it did not end in time', 100],
  ])('%s', async (script, reason, timeout = 10_000) => {
    const ended = await execa('sh', ['-c', script], { reject: false, timeout });
    expect(whyFailed(ended, ended.stderr)).toBe(reason);
  });

  it('is told of a QEMU', async () => {
    const text = '#!/bin/sh\necho "cannot map /tree/libc.so.6" >&2; exit 127\n';
    expect(await probeQemu(program('qemu', text))).toMatchObject({ reason: 'cannot map /tree/libc.so.6' });
    expect(await probeQemu(program('data', '', 0o644))).toMatchObject({
      reason: 'it cannot be started: EACCES',
    });
    expect(await probeQemu('/bin/true')).toMatchObject({ reason: 'it names no version' });
  });

  it('is told of a program of the userland', async () => {
    program('usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2', '', 0o644);
    await expect(listLibraries(folder, 'bin/dash')).rejects.toMatchObject({
      message: 'bin/dash failed: it cannot be started: EACCES',
      cause: expect.objectContaining({ code: 'EACCES' }),
    });
  });
});

describe('requireExecutable', () => {
  it('leaves nothing behind', async () => {
    await requireExecutable(folder);
    expect(readdirSync(folder)).toEqual([]);
  });

  it.runIf(canMount)('says so where the folder is mounted noexec', async () => {
    // The mount of another process, which takes it away when it ends, seen through its root.
    const script = 'mount -t tmpfs -o noexec none "$0" && echo mounted && exec cat';
    const holder = execa('unshare', ['-rm', 'sh', '-c', script, folder], { stdin: 'pipe', buffer: false });
    try {
      await once(holder.stdout, 'data');
      const inside = `/proc/${holder.pid}/root${folder}`;
      await expect(requireExecutable(inside)).rejects.toMatchObject({
        message: `no program can be run from the cache folder ${inside}: it cannot be started: EACCES`,
        hint: expect.stringContaining('noexec'),
      });
      expect(readdirSync(inside)).toEqual([]);
    } finally {
      holder.stdin.end();
      await holder;
    }
  });
});
