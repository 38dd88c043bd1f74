import { describe, expect, it } from 'vitest';
import { parseUris, pickMirrors, sourcesFor } from '../../../src/setup/apt.ts';
import { releases, scriptOnlyPackages } from '../../../src/setup/catalog.ts';

describe('pickMirrors', () => {
  it('takes the first Debian archive and the first security archive', () => {
    const targets = [
      'nodistro|main|https://other.example/node/',
      'bookworm|contrib|http://one.example/debian/',
      'bookworm-security|main|http://two.example/debian-security/',
      'bookworm|main|http://three.example/debian/',
      'bookworm-updates|main|http://four.example/debian/',
    ].join('\n');
    expect(pickMirrors(targets)).toEqual({
      archive: 'http://three.example/debian/',
      security: 'http://two.example/debian-security/',
    });
  });

  it('knows the old spelling of security suites', () => {
    const targets = 'stable|main|http://a.example/d/\nstable/security|main|http://b.example/s/';
    expect(pickMirrors(targets)?.security).toBe('http://b.example/s/');
  });

  it('does without a security archive, but not without an archive', () => {
    expect(pickMirrors('trixie|main|http://a.example/d/')).toEqual({
      archive: 'http://a.example/d/',
      security: undefined,
    });
    expect(pickMirrors('noble|main|http://ubuntu.example/')).toBeUndefined();
    expect(pickMirrors('')).toBeUndefined();
  });
});

describe('sourcesFor', () => {
  it('names every suite, checked by the given key ring', () => {
    const mirrors = { archive: 'http://a.example/d', security: 'http://b.example/s' };
    const text = sourcesFor(releases.trixie, mirrors, '/keys.gpg');
    expect(text.trimEnd().split('\n')).toEqual([
      'deb [signed-by=/keys.gpg] http://a.example/d trixie main',
      'deb [signed-by=/keys.gpg] http://a.example/d trixie-updates main',
      'deb [signed-by=/keys.gpg] http://a.example/d trixie-backports main',
      'deb [signed-by=/keys.gpg] http://b.example/s trixie-security main',
    ]);
  });

  it('leaves the security suite out when there is no mirror of it, and never turns checking off', () => {
    const text = sourcesFor(
      releases.bookworm,
      { archive: 'http://a.example/d', security: undefined },
      undefined,
    );
    expect(text).not.toContain('security');
    expect(text).not.toContain('trusted');
  });
});

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
