import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { makeFolders } from '../../../src/setup/folders.ts';

let place: string;
beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), 'vc-folders-'));
});
afterEach(() => rmSync(place, { recursive: true, force: true }));

it('makes a folder and those above it', () => {
  mkdirSync(join(place, 'a'));
  makeFolders(join(place, 'a', 'b', 'c'));
  expect(existsSync(join(place, 'a', 'b', 'c'))).toBe(true);
  makeFolders(join(place, 'a', 'b', 'c'));
});

it('says why it can not, and does not try for ever', () => {
  writeFileSync(join(place, 'file'), '');
  expect(() => makeFolders(join(place, 'file', 'below'))).toThrow(/ENOTDIR/);
  expect(() => makeFolders('/proc/vfio-companion/cache')).toThrow(/ENOENT/);
});
