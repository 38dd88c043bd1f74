import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { PrivateApt } from '../../../src/setup/apt.ts';
import { releases } from '../../../src/setup/catalog.ts';
import { signedRelease, testKey } from './signed-release.ts';

let root: string;

/** A complete mirror on this disk, in which only the signature is missing. */
function makeUnsignedMirror(name = 'mirror'): string {
  const mirror = join(root, name);
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

/** The same with a signature over its main suite. */
function makeSignedMirror(name: string): string {
  const uri = makeUnsignedMirror(name);
  writeFileSync(join(root, name, 'dists/bookworm/InRelease'), signedRelease);
  return uri;
}

/** Has the machine's apt know the sources `lines`, and no index of any. */
function configureApt(lines: readonly string[]): void {
  const conf = join(root, 'machine.conf');
  writeFileSync(join(root, 'sources.list'), `${lines.join('\n')}\n`);
  mkdirSync(join(root, 'lists/partial'), { recursive: true });
  const folders = `Dir::Etc::sourcelist "${root}/sources.list"; Dir::State::lists "${root}/lists";`;
  writeFileSync(conf, `${folders} Dir::Etc::sourceparts "/dev/null";\n`);
  vi.stubEnv('APT_CONFIG', conf);
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

  // Each asks apt half a dozen times.
  describe('where another repository looks like Debian', { timeout: 60_000 }, () => {
    const digest = 'ab'.repeat(32);
    let keyring: string;

    beforeEach(() => {
      keyring = join(root, 'key.asc');
      writeFileSync(keyring, testKey);
      vi.stubEnv('VFIO_COMPANION_DEBIAN_MIRROR', '');
    });

    it('takes the one that is signed by Debian', async () => {
      const [other, debian] = [makeUnsignedMirror('other'), makeSignedMirror('debian')];
      configureApt([`deb ${other} bookworm main`, `deb ${debian} bookworm main`]);
      const apt = new PrivateApt('bookworm', join(root, 'apt'), join(root, 'debs'), keyring);
      expect(await apt.resolve({ release: 'bookworm', packages: ['tool'] })).toEqual([
        { name: 'tool', version: '1', file: 'tool_1_amd64.deb', size: 1, sha256: digest },
      ]);
      expect(readFileSync(join(root, 'apt/etc/sources.list'), 'utf8')).not.toContain(other);
    });

    it('names what is wrong with the first where none will do', async () => {
      configureApt(['one', 'two'].map((name) => `deb ${makeUnsignedMirror(name)} bookworm main`));
      const apt = new PrivateApt('bookworm', join(root, 'apt'), join(root, 'debs'), keyring);
      await expect(apt.resolve({ release: 'bookworm', packages: ['tool'] })).rejects.toThrow(/not signed/);
    });
  });
});
