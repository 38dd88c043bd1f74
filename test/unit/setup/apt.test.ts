import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { PrivateApt, parseUris } from '../../../src/setup/apt.ts';
import { scriptOnlyPackages } from '../../../src/setup/catalog.ts';

describe('parseUris', () => {
  const digest = 'ab'.repeat(32);

  it('reads name, version, file, size and digest', () => {
    const text = `Reading package lists...\n'http://a.example/d/pool/kmod.deb' kmod_1%3a30+2-1~x_amd64.deb 95180 SHA256:${digest}\n`;
    expect(parseUris(text)).toEqual([
      {
        name: 'kmod',
        version: '1:30+2-1~x',
        file: 'kmod_1%3a30+2-1~x_amd64.deb',
        size: 95180,
        sha256: digest,
      },
    ]);
  });

  it('takes no line without a SHA-256, and no file name that leaves the pool', () => {
    expect(parseUris(`'http://a.example/x' kmod_30_amd64.deb 1 `)).toEqual([]);
    expect(parseUris(`'http://a.example/x' kmod_30_amd64.deb 1 MD5Sum:${'0'.repeat(32)}`)).toEqual([]);
    expect(parseUris(`'http://a.example/x' ../kmod_30_amd64.deb 1 SHA256:${digest}`)).toEqual([]);
  });
});

describe('packages that only scripts need', () => {
  it.each(['perl-base', 'libperl5.36', 'debconf', 'adduser', 'dpkg'])('leaves out %s', (name) => {
    expect(scriptOnlyPackages.test(name)).toBe(true);
  });

  it.each(['libc6', 'libpcre2-8-0', 'libkmod2', 'qemu-system-x86', 'libpmem1'])('keeps %s', (name) => {
    expect(scriptOnlyPackages.test(name)).toBe(false);
  });
});

describe('what apt says when it fails', () => {
  let root: string;
  afterEach(() => {
    vi.unstubAllEnvs();
    rmSync(root, { recursive: true, force: true });
  });

  it('is told by its errors, not by a warning that comes before them or a line that begins like one', async () => {
    root = mkdtempSync(join(tmpdir(), 'vfio-companion-apt-'));
    const script = `#!/bin/sh
case $* in *update*) exit 0 ;; esac
echo 'Every archive is signed.' >&2
echo 'W: http://deb.example/InRelease: Policy will reject the signature within a year' >&2
echo 'E: Unable to locate package tool' >&2
exit 100
`;
    writeFileSync(join(root, 'apt-get'), script, { mode: 0o755 });
    vi.stubEnv('PATH', `${root}:${process.env.PATH}`);
    vi.stubEnv('VFIO_COMPANION_DEBIAN_MIRROR', 'http://deb.example/debian');
    const apt = new PrivateApt('bookworm', join(root, 'apt'), join(root, 'debs'));
    await expect(apt.resolve({ release: 'bookworm', packages: ['tool'] })).rejects.toThrow(
      'cannot resolve tool in Debian bookworm: E: Unable to locate package tool',
    );
  });
});
