import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dropUnused } from '../../../src/setup/image.ts';
import { Store } from '../../../src/setup/store.ts';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vfio-companion-image-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

describe('dropUnused', () => {
  it('removes old images of the same kernel, and goes on where one resists', () => {
    const old = new Date(Date.now() - 10 * 86_400_000);
    const names = ['image-bookworm-kept', 'image-bookworm-old', 'image-trixie-old', 'kernel-bookworm'];
    for (const name of names) {
      mkdirSync(join(root, name));
      utimesSync(join(root, name), old, old);
    }
    mkdirSync(join(root, 'image-bookworm-new'));
    symlinkSync('nowhere', join(root, 'image-bookworm-broken'));
    dropUnused(new Store(root), 'bookworm', 'image-bookworm-kept');
    expect(readdirSync(root).sort()).toEqual([
      'image-bookworm-broken',
      'image-bookworm-kept',
      'image-bookworm-new',
      'image-trixie-old',
      'kernel-bookworm',
    ]);
  });
});
