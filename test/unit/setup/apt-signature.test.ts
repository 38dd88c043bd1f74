import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { PrivateApt } from '../../../src/setup/apt.ts';
import { releases } from '../../../src/setup/catalog.ts';

let root: string;

/** A complete mirror on this disk, in which only the signature is missing. */
function makeUnsignedMirror(): string {
  const mirror = join(root, 'mirror');
  const digest = 'ab'.repeat(32);
  const packages = `Package: tool
Version: 1
Architecture: amd64
Filename: pool/tool_1_amd64.deb
Size: 1
SHA256: ${digest}

`;
  const sum = createHash('sha256').update(packages).digest('hex');
  for (const suite of releases.bookworm.archive) {
    const folder = join(mirror, 'dists', suite);
    mkdirSync(join(folder, 'main/binary-amd64'), { recursive: true });
    writeFileSync(join(folder, 'main/binary-amd64/Packages'), packages);
    writeFileSync(
      join(folder, 'Release'),
      `Origin: Debian
Suite: ${suite}
Codename: ${suite}
Date: Thu, 01 Jan 2026 00:00:00 UTC
Architectures: amd64
Components: main
SHA256:
 ${sum} ${packages.length} main/binary-amd64/Packages
`,
    );
  }
  return `file:${mirror}`;
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vfio-companion-apt-'));
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(root, { recursive: true, force: true });
});

describe.runIf(existsSync('/usr/bin/apt-get'))('PrivateApt', () => {
  it('takes nothing from a mirror without a signature', async () => {
    vi.stubEnv('VFIO_COMPANION_DEBIAN_MIRROR', makeUnsignedMirror());
    const apt = new PrivateApt('bookworm', join(root, 'apt'), join(root, 'debs'));
    const failure = apt.resolve({ release: 'bookworm', packages: ['tool'] });
    await expect(failure).rejects.toThrow(/not signed/);
    await expect(failure).rejects.toMatchObject({ code: 'VC_SETUP' });
  });

  it('says what could not be had from a mirror that is not there', async () => {
    vi.stubEnv('VFIO_COMPANION_DEBIAN_MIRROR', `file:${join(root, 'nothing')}`);
    const apt = new PrivateApt('bookworm', join(root, 'apt'), join(root, 'debs'));
    await expect(apt.resolve({ release: 'bookworm', packages: ['tool'] })).rejects.toThrow(
      /cannot resolve tool in Debian bookworm/,
    );
  });
});
