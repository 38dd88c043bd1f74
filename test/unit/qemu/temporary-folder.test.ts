import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { listenUnix } from '../../../src/posix/index.ts';
import { launchVm } from '../../../src/qemu/launch.ts';
import { Testbed } from '../../../src/qemu/testbed.ts';
import { temporaryFolder } from '../../../src/temporary-folder.ts';

afterEach(() => vi.unstubAllEnvs());

it('a temporary folder is below $TMPDIR', () => {
  const folder = temporaryFolder('vc-own-');
  expect(dirname(folder)).toBe(tmpdir());
  expect(existsSync(folder)).toBe(true);
  rmSync(folder, { recursive: true });
});

it('a $TMPDIR that is not there is named, with the way out', async () => {
  vi.stubEnv('TMPDIR', '/none/such');
  const refused = {
    code: 'VC_TEMPORARY_FOLDER',
    message: 'no folder can be made in /none/such: ENOENT',
    hint: expect.stringContaining('TMPDIR'),
  };
  expect(() => temporaryFolder()).toThrow(expect.objectContaining(refused));
  await expect(Testbed.start({ devices: [] })).rejects.toMatchObject(refused);
});

describe('a $TMPDIR that is too long for a socket is named as what to change', () => {
  const longest = 107;
  let base: string;
  beforeEach(() => {
    base = mkdtempSync('/tmp/vc-long-');
  });
  afterEach(() => rmSync(base, { recursive: true }));

  /** Below it a socket called `name` is one byte too long. */
  function tooLongFor(name: string): string {
    const folder = join(base, 'x'.repeat(longest - join(base, name).length));
    mkdirSync(folder);
    vi.stubEnv('TMPDIR', base);
    return folder;
  }

  it('by a VM, whichever of its sockets it is', async () => {
    const folder = tooLongFor('vm.agent');
    await expect(launchVm({ boot: 'none', accel: 'tcg' }, { folder })).rejects.toMatchObject({
      code: 'VC_LAUNCH',
      message: expect.stringMatching(/^socket path too long \(108 bytes, at most 107\): .*vm\.agent$/),
      hint: 'set TMPDIR to a shorter folder, such as /tmp',
    });
  });

  it('by a device server, and another folder as another', () => {
    const path = join(tooLongFor('dev0.sock'), 'dev0.sock');
    const refused = (wayOut: string): unknown =>
      expect.objectContaining({
        hint: `a socket path has at most 107 bytes, this one 108: ${wayOut}`,
      });
    expect(() => listenUnix(path)).toThrow(refused('set TMPDIR to a shorter folder, such as /tmp'));
    vi.stubEnv('TMPDIR', '/var/tmp');
    expect(() => listenUnix(path)).toThrow(refused('choose a shorter folder'));
  });
});
