import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { releases } from '../../../src/setup/catalog.ts';
import { findMirrors, parseSources, rankMirrors, sourcesFor } from '../../../src/setup/mirrors.ts';

/** What apt prints for one suite. */
function line(uri: string, suite: string): string {
  return `'${uri}/dists/${suite}/InRelease' file_of_${suite} 0 `;
}

describe('parseSources', () => {
  it('reads the line of each suite, and no other line', () => {
    const text = [
      line('http://deb.example/debian', 'bookworm'),
      `'http://deb.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' file 0 `,
      `'http://flat.example/./InRelease' file 0 `,
      line('http://deb.example/dists/of/debian', 'stable/updates'),
    ].join('\n');
    expect(parseSources(text)).toEqual([
      { uri: 'http://deb.example/debian', suite: 'bookworm' },
      { uri: 'http://deb.example/dists/of/debian', suite: 'stable/updates' },
    ]);
  });

  it('leaves out discs, and keeps what apt takes again: lists of mirrors, credentials, blanks', () => {
    const uris = ['mirror+file:/etc/apt/mirrors/debian.list', 'http://user:word@deb.example/debian'];
    const text = ['cdrom://[Debian 12]', ...uris, 'http://deb.example/a b'].map((uri) => line(uri, 'sid'));
    expect(parseSources(text.join('\n')).map(({ uri }) => uri)).toEqual([
      ...uris,
      'http://deb.example/a%20b',
    ]);
  });
});

describe('rankMirrors', () => {
  const third = { uri: 'https://third.example/apt', suite: 'stable' };

  it('finds archives and security archives', () => {
    const sources = [
      { uri: 'https://other.example/node', suite: 'nodistro' },
      { uri: 'http://two.example/debian-security', suite: 'bookworm-security' },
      { uri: 'http://three.example/debian', suite: 'bookworm' },
      { uri: 'http://ubuntu.example', suite: 'noble' },
    ];
    expect(rankMirrors(sources)).toEqual({
      archive: ['http://three.example/debian'],
      security: ['http://two.example/debian-security'],
    });
  });

  it('has what also has -updates first, whatever comes before it', () => {
    const sources = [
      third,
      { uri: 'http://deb.example/debian', suite: 'bookworm' },
      { uri: 'http://deb.example/debian', suite: 'bookworm-updates' },
    ];
    expect(rankMirrors(sources).archive).toEqual(['http://deb.example/debian', third.uri]);
  });

  it('knows the old spelling of security suites', () => {
    const sources = [third, { uri: 'http://b.example/s', suite: 'stable/updates' }];
    expect(rankMirrors(sources)).toEqual({ archive: [third.uri], security: ['http://b.example/s'] });
  });

  it('finds nothing in nothing', () => {
    expect(rankMirrors([])).toEqual({ archive: [], security: [] });
  });
});

describe('VFIO_COMPANION_DEBIAN_MIRROR', () => {
  const [archive, security] = ['http://deb.example/debian', 'http://sec.example/debian'];

  it.each([
    [archive, [archive], []],
    [`  ${archive}  `, [archive], []],
    [`${archive}, ${security}\n`, [archive], [security]],
  ])('takes "%s"', async (value, archives, securities) => {
    const found = await findMirrors({ VFIO_COMPANION_DEBIAN_MIRROR: value });
    expect(found).toEqual({ archive: archives, security: securities });
  });
});

describe.runIf(existsSync('/usr/bin/apt-get'))('findMirrors', () => {
  let root: string;

  /** The environment of a machine whose apt has `sources` and has never fetched an index. */
  function machine(sources: string): NodeJS.ProcessEnv {
    const conf = join(root, 'apt.conf');
    mkdirSync(join(root, 'lists/partial'), { recursive: true });
    writeFileSync(join(root, 'sources.list'), sources);
    writeFileSync(
      conf,
      `Dir::Etc::sourcelist "${root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "${root}/lists";
`,
    );
    return { PATH: process.env.PATH, APT_CONFIG: conf };
  }

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'vfio-companion-mirrors-'));
  });

  afterEach(() => rmSync(root, { recursive: true, force: true }));

  it('needs no index that was fetched before', async () => {
    const env = machine(`deb [arch=amd64] http://deb.example/debian bookworm main contrib
deb http://sec.example/debian-security bookworm-security main
`);
    expect(await findMirrors(env)).toEqual({
      archive: ['http://deb.example/debian'],
      security: ['http://sec.example/debian-security'],
    });
  });

  it('takes the others when apt refuses one source', async () => {
    const env = machine(`deb http://deb.example/debian bookworm main
deb nosuchmethod://deb.example/debian bookworm-updates main
`);
    expect(await findMirrors(env)).toMatchObject({ archive: ['http://deb.example/debian'] });
  });

  it('says what to set where there is none, and what apt says of its configuration', async () => {
    await expect(findMirrors(machine(''))).rejects.toMatchObject({
      message: "this machine's apt configuration names no Debian mirror",
      hint: 'set VFIO_COMPANION_DEBIAN_MIRROR to the URI of one',
    });
    await expect(findMirrors(machine('deb nonsense\n'))).rejects.toThrow(/no Debian mirror \(E: Malformed/);
  });

  it('says that apt is missing where it is', async () => {
    await expect(findMirrors({ PATH: root })).rejects.toThrow('apt-get cannot be run');
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
