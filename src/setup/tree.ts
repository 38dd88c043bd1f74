import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import type { PackageFile } from './apt.ts';
import { SetupError } from './errors.ts';
import { sha256File } from './hash.ts';

/** What a finished folder is known to hold. Written last, inside the folder, before it gets its name. */
export interface Manifest {
  readonly format: 1;
  /** Identity of everything that the folder was made from. */
  readonly id: string;
  readonly packages: readonly PackageFile[];
  /** Facts found while the folder was made (versions, names). */
  readonly facts: Readonly<Record<string, string>>;
  /** Relative path, size (-1: a symbolic link) and SHA-256 (a link's target) of every file. */
  readonly files: readonly (readonly [path: string, size: number, digest: string])[];
}

const manifestName = '.manifest.json';

/** Reads the manifest of `folder`, or `undefined` if there is none that can be read. */
export function readManifest(folder: string): Manifest | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(join(folder, manifestName), 'utf8'));
    if (typeof value !== 'object' || value === null || !('format' in value) || value.format !== 1)
      return undefined;
    return value as Manifest;
  } catch {
    return undefined;
  }
}

/**
 * The first thing wrong with a finished folder, or `undefined` if it is whole. Looks at the presence, kind
 * and size of every file; with `deep` at the content too.
 */
export async function faultOf(folder: string, deep = false): Promise<string | undefined> {
  const manifest = readManifest(folder);
  if (manifest === undefined) return existsSync(folder) ? 'no readable manifest' : 'not there';
  for (const [path, size, digest] of manifest.files) {
    const full = join(folder, path);
    const stat = lstatSync(full, { throwIfNoEntry: false });
    if (stat === undefined) return `${path} is missing`;
    if (size < 0) {
      if (!stat.isSymbolicLink() || readlinkSync(full) !== digest) return `${path} is not the link it was`;
    } else if (!stat.isFile() || stat.size !== size) {
      return `${path} has the wrong size`;
    } else if (deep && (await sha256File(full)) !== digest) {
      return `${path} has the wrong content`;
    }
  }
  return undefined;
}

/**
 * Makes `folder` anew: `fill` works in a private folder beside it, which gets its final name only when it is
 * complete and has its manifest. A reader therefore sees the old folder, none, or the whole new one.
 */
export async function makeFolder(
  folder: string,
  id: string,
  packages: readonly PackageFile[],
  fill: (into: string) => Promise<Record<string, string>>,
): Promise<Manifest> {
  const draft = `${folder}.new-${process.pid}`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(draft, { recursive: true });
  try {
    const facts = await fill(draft);
    const manifest: Manifest = { format: 1, id, packages, facts, files: await listFiles(draft) };
    writeFileSync(join(draft, manifestName), JSON.stringify(manifest));
    const old = `${folder}.old-${process.pid}`;
    if (existsSync(folder)) renameSync(folder, old);
    renameSync(draft, folder);
    rmSync(old, { recursive: true, force: true });
    removeLeftovers(folder);
    return manifest;
  } catch (error) {
    rmSync(draft, { recursive: true, force: true });
    throw error;
  }
}

/** Drafts of runs that were killed. Only called under the set-up lock, so none of them is in use. */
function removeLeftovers(folder: string): void {
  const parent = dirname(folder);
  for (const name of readdirSync(parent)) {
    if (/\.(new|old)-\d+$/.test(name)) rmSync(join(parent, name), { recursive: true, force: true });
  }
}

async function listFiles(root: string): Promise<[string, number, string][]> {
  const found: [string, number, string][] = [];
  const walk = async (relative: string): Promise<void> => {
    const entries = readdirSync(join(root, relative), { withFileTypes: true });
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
      const full = join(root, path);
      if (entry.isDirectory()) await walk(path);
      else if (entry.isSymbolicLink()) found.push([path, -1, readlinkSync(full)]);
      else if (entry.isFile()) found.push([path, lstatSync(full).size, await sha256File(full)]);
    }
  };
  await walk('');
  return found;
}

/** What `unpack` leaves out: nothing of it is ever executed or read here. */
const unwanted = [
  './usr/share/doc',
  './usr/share/man',
  './usr/share/locale',
  './usr/share/lintian',
  './usr/share/bug',
  './usr/share/info',
  './usr/lib/x86_64-linux-gnu/gconv',
  './usr/lib/x86_64-linux-gnu/perl*',
];

/**
 * Unpacks package files into `into` without root: no owners, no maintainer scripts. `/bin`, `/lib`, … are
 * links into `/usr`, so packages from before and after Debian's merge of the two end up in one place.
 */
export async function unpack(pool: string, packages: readonly PackageFile[], into: string): Promise<void> {
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) {
    mkdirSync(join(into, 'usr', name), { recursive: true });
    symlinkSync(`usr/${name}`, join(into, name));
  }
  const excludes = unwanted.map((pattern) => `--exclude=${pattern}`);
  const tar = ['-x', '-C', into, '--no-same-owner', '--keep-directory-symlink', ...excludes, '-f', '-'];
  for (const { file } of packages) {
    try {
      await execa('dpkg-deb', ['--fsys-tarfile', join(pool, file)], { buffer: false }).pipe('tar', tar);
    } catch (cause) {
      throw new SetupError(
        `cannot unpack ${file}`,
        'check the free space of the disk, then run it again',
        cause,
      );
    }
  }
}
