import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkPlace } from '../../../src/report/write.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vc-place-'));
  writeFileSync(join(folder, 'old.html'), 'old');
  symlinkSync(join(folder, 'not yet'), join(folder, 'link'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it.each(['new.html', 'old.html', 'link', '/dev/null'])('%s is a place for a report', async (name) => {
  await expect(checkPlace(name.startsWith('/') ? name : join(folder, name))).resolves.toBeUndefined();
});

it.each([
  ['.', 'it is a folder'],
  ['none/new.html', 'there is no folder'],
  ['old.html/new.html', 'there is no folder'],
])('%s is none: %s', async (name, why) => {
  await expect(checkPlace(join(folder, name))).rejects.toMatchObject({
    code: 'VC_REPORT',
    message: expect.stringContaining(why),
    hint: expect.stringContaining('name a file'),
  });
});

it('no name is none', async () => {
  await expect(checkPlace('')).rejects.toMatchObject({ code: 'VC_REPORT' });
});
