import { existsSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
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
