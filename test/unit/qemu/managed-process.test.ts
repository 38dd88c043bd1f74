import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ManagedProcess } from '../../../src/qemu/managed-process.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-process-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const start = (command: string): Promise<ManagedProcess> =>
  ManagedProcess.spawn({
    name: 'a shell',
    command: 'sh',
    args: ['-c', command],
    logPath: join(folder, 'log'),
  });

describe('what is told of a process that has ended', () => {
  it('when somebody else has killed it, as a machine without memory does', async () => {
    const shell = await start('echo a last word; exec sleep 60');
    await expect.poll(() => shell.tail()).toBe('a last word');
    process.kill(shell.pid, 'SIGKILL');
    await shell.exited;
    const told =
      /^a shell \(pid \d+\) ended with SIGKILL, which did not come from here: .* memory left\?:\na last word$/;
    expect(shell.epitaph()).toMatch(told);
    expect(shell.fate()).toMatch(told);
  });

  it('when it was killed from here', async () => {
    const shell = await start('exec sleep 60');
    await shell.kill('SIGKILL');
    expect(shell.epitaph()).toMatch(/ended with SIGKILL$/);
    expect(shell.fate()).toBeUndefined();
  });

  it('when it has ended by itself', async () => {
    const shell = await start('exit 3');
    await shell.exited;
    expect(shell.epitaph()).toMatch(/ended with status 3$/);
    expect(shell.fate()).toBeUndefined();
  });
});
