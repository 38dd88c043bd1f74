import { accessSync, constants, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { damaged, type PackageFile, PrivateApt } from './apt.ts';
import type { PackageSet, ReleaseName } from './catalog.ts';
import { SetupError } from './errors.ts';
import { makeFolders } from './folders.ts';
import { identity } from './hash.ts';
import { withLock } from './lock.ts';
import { requireExecutable, requireX64 } from './programs.ts';
import { faultOf, type Manifest, makeFolder, readManifest } from './tree.ts';

/** The fact under which a folder remembers what was asked of Debian and how it was made. */
const requestFact = 'request';

/** What apt puts beside the packages: the lists of a release, and what it makes of them. */
const listBytes = 64e6;
/** What is made of packages is so many times their size, with the packages themselves, which are kept. */
const madeFactor = 5;

export interface StoreOptions {
  /** Told in one line what is being done. */
  readonly say?: (line: string) => void;
  /** Compare contents, not only sizes, of what is there already. */
  readonly deep?: boolean;
  /** Look for newer packages even if what is there is whole. */
  readonly update?: boolean;
  /** Where package files come from, if not from Debian. */
  readonly source?: (release: ReleaseName) => PackageSource;
  /** Bytes that this user may still write in a folder, if not as the system says. */
  readonly room?: (folder: string) => number;
}

function roomIn(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}

/** Finds out which package files a set needs, and brings them into the pool. */
export type PackageSource = Pick<PrivateApt, 'resolve' | 'fetch'>;

/**
 * The folder of everything that set-up brings: `apt/` (indices), `debs/` (package files), and one folder
 * for each finished thing. Only `ensure` changes it, and only under its lock.
 */
export class Store {
  readonly root: string;
  readonly pool: string;
  readonly deep: boolean;
  readonly #say: (line: string) => void;
  readonly #update: boolean;
  readonly #source: (release: ReleaseName) => PackageSource;
  readonly #room: (folder: string) => number;
  readonly #sources = new Map<ReleaseName, PackageSource>();

  constructor(root: string, options: StoreOptions = {}) {
    this.root = root;
    this.pool = join(root, 'debs');
    this.deep = options.deep ?? false;
    this.#update = options.update ?? false;
    this.#say = options.say ?? (() => {});
    this.#room = options.room ?? roomIn;
    this.#source =
      options.source ?? ((release) => new PrivateApt(release, this.path('apt', release), this.pool));
  }

  say(line: string): void {
    this.#say(line);
  }

  path(...names: string[]): string {
    return join(this.root, ...names);
  }

  /** Runs `work` as the only process that changes this store. */
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    try {
      makeFolders(this.root);
      accessSync(this.root, constants.W_OK);
    } catch (cause) {
      throw new SetupError(
        `the cache folder ${this.root} cannot be written to`,
        'set VFIO_COMPANION_CACHE to a folder of your own',
        cause,
      );
    }
    return await withLock(this.path('lock'), work, () =>
      this.say('waiting for another set-up that is running (it holds the lock of the cache)'),
    );
  }

  /**
   * Makes sure that folder `name` holds what `fill` makes of the package set, and returns its manifest.
   * A whole folder is left alone. A damaged one is made again from the package files that it was made
   * from, which needs the network only if those are damaged too.
   */
  async ensurePackages(
    name: string,
    set: PackageSet,
    recipe: string,
    fill: (into: string, packages: readonly PackageFile[]) => Promise<Record<string, string>>,
  ): Promise<Manifest> {
    const folder = this.path(name);
    const known = readManifest(folder);
    const request = `${recipe} ${JSON.stringify({ ...set, keep: set.keep?.source })}`;
    const current = known !== undefined && known.id === packagesId(known.packages, request);
    if (current && !this.#update && (await faultOf(folder, this.deep)) === undefined) return known;
    return await this.exclusively(async () => {
      const manifest = readManifest(folder);
      const fault = await faultOf(folder, this.deep);
      const same = manifest !== undefined && manifest.id === packagesId(manifest.packages, request);
      if (same && fault === undefined && !this.#update) return manifest;
      if (fault !== undefined && fault !== 'not there') this.say(`${name}: ${fault}; making it again`);
      // Before anything is downloaded: what is in the packages is run while the folder is made.
      requireX64(name);
      await requireExecutable(this.root);
      const asked = manifest?.facts[requestFact] === request && !this.#update;
      const packages = await this.#packageFiles(set, asked ? manifest.packages : undefined);
      const id = packagesId(packages, request);
      if (manifest !== undefined && manifest.id === id && fault === undefined) return manifest;
      this.say(`${name}: unpacking`);
      return await makeFolder(folder, id, packages, async (into) => {
        return { ...(await fill(into, packages)), [requestFact]: request };
      });
    });
  }

  /** The files of `set` in the pool, each checked. Those of an earlier run are used again if possible. */
  async #packageFiles(
    set: PackageSet,
    earlier: readonly PackageFile[] | undefined,
  ): Promise<readonly PackageFile[]> {
    if (earlier !== undefined && (await damaged(this.pool, earlier)).length === 0) return earlier;
    const source = this.#packageSource(set.release);
    this.#requireRoom(listBytes, "Debian's lists of packages");
    this.say(`${set.packages.join(', ')}: asking Debian ${set.target ?? set.release}`);
    const packages = await source.resolve(set);
    const missing = await damaged(this.pool, packages);
    const bytes = missing.reduce((sum, { size }) => sum + size, 0);
    if (bytes > 0)
      this.say(
        `downloading ${missing.length} package${missing.length === 1 ? '' : 's'}, ${(bytes / 1e6).toFixed(1)} MB`,
      );
    this.#requireRoom(bytes * madeFactor, 'the packages and what is made of them');
    await source.fetch(packages);
    return packages;
  }

  /** apt does not say that a disk is full: it waits, without end. */
  #requireRoom(bytes: number, what: string): void {
    const room = this.#room(this.root);
    if (room >= bytes) return;
    const megabytes = (count: number): string => `${Math.floor(count / 1e6)} MB`;
    throw new SetupError(
      `the cache folder ${this.root} has room for ${megabytes(room)}, and ${what} take ${megabytes(bytes)}`,
      'make room there, or set VFIO_COMPANION_CACHE to a folder that has some',
    );
  }

  #packageSource(release: ReleaseName): PackageSource {
    let source = this.#sources.get(release);
    if (source === undefined) {
      source = this.#source(release);
      this.#sources.set(release, source);
    }
    return source;
  }
}

/** Identity of a folder made from `packages`, which answered `request`. */
function packagesId(packages: readonly PackageFile[], request: string): string {
  return identity([request, ...packages.flatMap(({ file, sha256 }) => [file, sha256])]);
}
