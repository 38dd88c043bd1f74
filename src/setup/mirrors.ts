import { execa } from 'execa';
import type { Release } from './catalog.ts';
import { SetupError } from './errors.ts';

/** Where packages are fetched from. */
export interface Mirrors {
  readonly archive: string;
  readonly security: string | undefined;
}

/** What may be a Debian mirror by the names of its suites, the likeliest first. */
export interface MirrorCandidates {
  readonly archive: readonly [string, ...string[]];
  readonly security: readonly string[];
}

export const mirrorVariable = 'VFIO_COMPANION_DEBIAN_MIRROR';
const debianSuites =
  /^(bullseye|bookworm|trixie|forky|duke|oldoldstable|oldstable|stable|testing|sid|unstable)$/;

/** A repository of the machine's apt, and one suite that is read from it. */
interface Source {
  readonly uri: string;
  readonly suite: string;
}

/**
 * Reads what `apt-get update --print-uris` prints, a line `'URI/dists/SUITE/InRelease' FILE 0` for each suite
 * among others. A disc cannot be read here. Credentials and `mirror+file:` stay as apt takes them.
 */
export function parseSources(text: string): Source[] {
  const found: Source[] = [];
  for (const line of text.split('\n')) {
    const [, uri = '', suite = ''] = /^'(.+)\/dists\/([^']+)\/InRelease' /.exec(line) ?? [];
    // apt prints a blank that stood encoded in its list as a blank.
    if (uri !== '' && !uri.startsWith('cdrom:')) found.push({ uri: uri.replaceAll(' ', '%20'), suite });
  }
  return found;
}

/**
 * The repositories that may be mirrors of Debian's archive, and of its security updates. Others have suites
 * called `stable` or `bookworm` too, but hardly `stable-updates`: whoever has that comes first.
 */
export function rankMirrors(sources: readonly Source[]): Record<keyof MirrorCandidates, string[]> {
  const [likely, possible, security] = [new Set<string>(), new Set<string>(), new Set<string>()];
  for (const { uri, suite } of sources) {
    if (debianSuites.test(suite)) possible.add(uri);
    const [, release = '', rest = ''] = /^([^-/]+)[-/](.+)$/.exec(suite) ?? [];
    if (!debianSuites.test(release)) continue;
    // `stable/updates` is what security updates were called before Debian 11.
    if (rest === 'security' || suite.endsWith('/updates')) security.add(uri);
    else if (rest === 'updates') likely.add(uri);
  }
  return { archive: [...new Set([...likely, ...possible])], security: [...security] };
}

/** Mirrors from `$VFIO_COMPANION_DEBIAN_MIRROR` (`URI[ URI-of-security]`) or from the machine's apt. */
export async function findMirrors(env: NodeJS.ProcessEnv = process.env): Promise<MirrorCandidates> {
  const [archive, security] = (env[mirrorVariable] ?? '').split(/[\s,]+/).filter((uri) => uri !== '');
  if (archive !== undefined) {
    return { archive: [archive], security: security === undefined ? [] : [security] };
  }
  // Not `indextargets`, which leaves out whatever `apt-get update` has not fetched yet, in a new container all.
  const asked = await execa('apt-get', ['update', '--print-uris'], {
    reject: false,
    env: { ...env, LC_ALL: 'C' },
  });
  if (asked.code === 'ENOENT') {
    throw new SetupError(
      'apt-get cannot be run, and packages are needed from Debian',
      'use a Debian machine, or provide QEMU >= 10.1 by VFIO_COMPANION_QEMU',
      asked,
    );
  }
  // It also fails when only one of several sources cannot be had, and prints the others.
  const { archive: likeliestFirst, security: updates } = rankMirrors(parseSources(asked.stdout));
  const [first, ...others] = likeliestFirst;
  if (first === undefined) {
    const error = asked.stderr.split('\n').find((line) => line.startsWith('E:'));
    throw new SetupError(
      `this machine's apt configuration names no Debian mirror${error === undefined ? '' : ` (${error})`}`,
      `set ${mirrorVariable} to the URI of one`,
    );
  }
  return { archive: [first, ...others], security: updates };
}

/** The lines of a `sources.list` for `release` on `mirrors`. */
export function sourcesFor(release: Release, mirrors: Mirrors, signedBy: string | undefined): string {
  const option = signedBy === undefined ? '' : ` [signed-by=${signedBy}]`;
  const lines = release.archive.map((suite) => `deb${option} ${mirrors.archive} ${suite} main`);
  if (mirrors.security !== undefined) {
    for (const suite of release.security) lines.push(`deb${option} ${mirrors.security} ${suite} main`);
  }
  return `${lines.join('\n')}\n`;
}
