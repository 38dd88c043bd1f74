import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { type PackageSet, type ReleaseName, releases, scriptOnlyPackages } from './catalog.ts';
import { SetupError } from './errors.ts';
import { sha256File } from './hash.ts';
import { findMirrors, type Mirrors, mirrorVariable, sourcesFor } from './mirrors.ts';
import { setupCommand } from './paths.ts';

/** One package file, as apt's signed indices describe it. */
export interface PackageFile {
  readonly name: string;
  readonly version: string;
  /** File name in the pool. */
  readonly file: string;
  readonly size: number;
  readonly sha256: string;
}

const debianKeyring = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** Output of a command, or `undefined` when it cannot be run or fails. */
async function output(command: string, args: readonly string[]): Promise<string | undefined> {
  const result = await execa(command, args, { reject: false });
  return result.exitCode === 0 ? result.stdout : undefined;
}

/** Parses what `apt-get install --print-uris` prints: `'URI' file size SHA256:digest`. */
export function parseUris(text: string): PackageFile[] {
  const found: PackageFile[] = [];
  for (const line of text.split('\n')) {
    const match = /^'[^']*' (\S+) (\d+) SHA256:([0-9a-f]{64})$/.exec(line.trim());
    if (match === null) continue;
    const [, file = '', size = '', sha256 = ''] = match;
    const parts = /^([a-z0-9][a-z0-9+.-]*)_([^_]+)_[a-z0-9]+\.deb$/.exec(file);
    if (parts === null) continue;
    const [, name = '', version = ''] = parts;
    found.push({ name, version: decodeURIComponent(version), file, size: Number(size), sha256 });
  }
  return found;
}

/** Lines of apt by what they tell of a failure. Where an index can't be had it only warns; `Err` gives no reason. */
const tellingFirst = [/^E:/, /^W: Failed/, /^W:/, /^Err:/];

/** Why apt failed, as one sentence and the way out. */
function aptFailure(what: string, stderr: string): SetupError {
  const lines = stderr.split('\n').map((line) => line.trim());
  const told = tellingFirst.map((pattern) => lines.find((line) => pattern.test(line)));
  const first = told.find((line) => line !== undefined) ?? stderr.trim().split('\n').at(-1) ?? 'no message';
  if (/NO_PUBKEY|EXPKEYSIG|public key is not available/.test(stderr)) {
    return new SetupError(
      `${what}: the archive's signature cannot be checked (${first})`,
      'apt-get install --only-upgrade debian-archive-keyring',
    );
  }
  return new SetupError(
    `${what}: ${first}`,
    `check the network and the mirror of this machine (or set ${mirrorVariable}), then run ${setupCommand()} again`,
  );
}

/**
 * An apt of our own beside the system's: own sources, lists and (empty) package status, while the transport
 * options, proxies and credentials of the machine's apt stay in force. apt checks signatures and hashes.
 */
export class PrivateApt {
  readonly #release: ReleaseName;
  readonly #root: string;
  readonly #pool: string;
  readonly #signedBy: string | undefined;
  #mirrors: Mirrors | undefined;
  #updateError: string | undefined;
  #updated = false;

  /**
   * @param root folder for this release's apt state
   * @param pool folder where package files are kept
   * @param keyring whose signatures count; where it is not there, those that the machine's apt trusts
   */
  constructor(release: ReleaseName, root: string, pool: string, keyring = debianKeyring) {
    this.#release = release;
    this.#root = root;
    this.#pool = pool;
    this.#signedBy = existsSync(keyring) ? keyring : undefined;
  }

  /** Resolves `set` with everything it depends on, from fresh indices if they can be had. */
  async resolve(set: PackageSet): Promise<PackageFile[]> {
    await this.#update();
    const target = set.target === undefined ? [] : ['-t', set.target];
    // Without ForceHash apt prints no digest when the index has a single kind.
    const options = ['-o', 'Acquire::ForceHash=SHA256', '-y', '--no-install-recommends', '--print-uris'];
    const result = await this.#apt(['install', ...options, ...target, ...set.packages]);
    const packages = parseUris(result.stdout).filter(
      ({ name }) => !scriptOnlyPackages.test(name) && (set.keep?.test(name) ?? true),
    );
    if (result.exitCode !== 0 || packages.length === 0) {
      throw aptFailure(
        `cannot resolve ${set.packages.join(', ')} in Debian ${set.target ?? this.#release}`,
        this.#updateError ?? result.stderr,
      );
    }
    return packages.sort((a, b) => (a.file < b.file ? -1 : 1));
  }

  /** Brings every one of `files` into the pool, checked; what is there and whole is not fetched again. */
  async fetch(files: readonly PackageFile[]): Promise<void> {
    mkdirSync(this.#pool, { recursive: true });
    const missing = await damaged(this.#pool, files);
    if (missing.length === 0) return;
    for (const { file } of missing) rmSync(join(this.#pool, file), { force: true });
    await this.#update();
    const wanted = missing.map(({ name, version }) => `${name}=${version}`);
    const result = await this.#apt(['download', ...wanted], this.#pool);
    const still = await damaged(this.#pool, files);
    if (still.length > 0) {
      const names = still.map(({ name }) => name).join(', ');
      throw aptFailure(`cannot download ${names}`, this.#updateError ?? result.stderr);
    }
  }

  /**
   * Downloads the upstream tarball of source package `name` of this release (not of its backports) into
   * `folder`, checked by apt against the signed index. Returns its file name.
   */
  async source(name: string, folder: string): Promise<string> {
    await this.#configure();
    // Lists of their own: source indices are large, and nothing else needs them.
    const sources = join(this.#root, 'etc/sources-src.list');
    const binary = readFileSync(join(this.#root, 'etc/sources.list'), 'utf8');
    writeFileSync(sources, binary.replaceAll(/^deb(?= )/gm, 'deb-src'), { mode: 0o600 });
    const lists = join(this.#root, 'lists-src');
    mkdirSync(join(lists, 'partial'), { recursive: true });
    const own = ['-o', `Dir::Etc::sourcelist=${sources}`, '-o', `Dir::State::lists=${lists}`];
    const what = `cannot download the source of ${name} from Debian ${this.#release}`;
    const update = await this.#apt([...own, 'update']);
    mkdirSync(folder, { recursive: true });
    const args = ['source', '--download-only', '--tar-only', '--only-source', `${name}/${this.#release}`];
    const result = await this.#apt([...own, ...args], folder);
    const tarball = readdirSync(folder).find(
      (file) => file.startsWith(`${name}_`) && file.includes('.orig.tar.'),
    );
    if (result.exitCode !== 0 || tarball === undefined) {
      throw aptFailure(what, `${update.exitCode === 0 ? '' : update.stderr}\n${result.stderr}`);
    }
    return tarball;
  }

  async #update(): Promise<void> {
    if (this.#updated) return;
    await this.#configure();
    const result = await this.#apt(['update']);
    const failed = result.exitCode !== 0 || /^(Err|E|W: Failed)/m.test(`${result.stdout}\n${result.stderr}`);
    this.#updateError = failed ? `${result.stderr}\n${result.stdout}` : undefined;
    this.#updated = true;
  }

  async #configure(): Promise<void> {
    const folders = ['lists/partial', 'cache/archives/partial', 'etc/parts', 'etc/preferences.d'];
    for (const folder of folders) mkdirSync(join(this.#root, folder), { recursive: true });
    writeFileSync(join(this.#root, 'status'), '');
    const conf = join(this.#root, 'apt.conf');
    writeFileSync(conf, await this.#machineOptions(), { mode: 0o600 });
    chmodSync(conf, 0o600);
    this.#mirrors ??= await this.#chooseMirrors();
    const sources = sourcesFor(releases[this.#release], this.#mirrors, this.#signedBy);
    writeFileSync(join(this.#root, 'etc/sources.list'), sources, { mode: 0o600 });
  }

  async #chooseMirrors(): Promise<Mirrors> {
    const { archive, security } = await findMirrors();
    const suites = releases[this.#release];
    return {
      archive: (await this.#debianOf(archive, suites.archive[0])) ?? archive[0],
      security: (await this.#debianOf(security, suites.security[0])) ?? security[0],
    };
  }

  /**
   * The first of `uris` that has Debian's `suite`. Without a choice none is asked, and where none will do the
   * caller takes the first: what is wrong with it is told when packages are wanted from it.
   */
  async #debianOf(uris: readonly string[], suite: string): Promise<string | undefined> {
    if (uris.length > 1) for (const uri of uris) if (await this.#isDebian(uri, suite)) return uri;
    return undefined;
  }

  /** Whether `uri` has a `suite` that is signed by the right key and says that it is Debian's. */
  async #isDebian(uri: string, suite: string): Promise<boolean> {
    const lists = join(this.#root, 'lists-try');
    const list = join(this.#root, 'etc/sources-try.list');
    try {
      mkdirSync(join(lists, 'partial'), { recursive: true });
      const option = this.#signedBy === undefined ? '' : ` [signed-by=${this.#signedBy}]`;
      writeFileSync(list, `deb${option} ${uri} ${suite} main\n`, { mode: 0o600 });
      const own = ['-o', `Dir::Etc::sourcelist=${list}`, '-o', `Dir::State::lists=${lists}`];
      // Only the signed list of the indices, a few hundred kB.
      const noIndex = ['-o', 'Acquire::IndexTargets::deb::Packages::DefaultEnabled=false'];
      await this.#apt([...own, ...noIndex, 'update']);
      // apt leaves there only what it has checked.
      const signed = readdirSync(lists).find((file) => /_(In)?Release$/.test(file));
      return signed !== undefined && /^Origin: Debian$/m.test(readFileSync(join(lists, signed), 'utf8'));
    } finally {
      rmSync(lists, { recursive: true, force: true });
      rmSync(list, { force: true });
    }
  }

  /** The machine's `Acquire` options (proxies, transports, time-outs), and our own folders. */
  async #machineOptions(): Promise<string> {
    const dump = (await output('apt-config', ['dump', '--format', '%F "%v";%n'])) ?? '';
    const kept = dump
      .split('\n')
      .filter((line) => /^Acquire::(?!IndexTargets|Languages)\S+ ".*";$/.test(line));
    const netrc = await output('apt-config', [
      'shell',
      'f',
      'Dir::Etc::netrc/f',
      'd',
      'Dir::Etc::netrcparts/d',
    ]);
    const login = /f='([^']*)'\s+d='([^']*)'/.exec(netrc ?? '');
    const own: Record<string, string> = {
      'Dir::State': this.#root,
      'Dir::State::lists': join(this.#root, 'lists'),
      'Dir::State::status': join(this.#root, 'status'),
      'Dir::Cache': join(this.#root, 'cache'),
      'Dir::Cache::srcpkgcache': '',
      'Dir::Etc::sourcelist': join(this.#root, 'etc/sources.list'),
      'Dir::Etc::sourceparts': '/dev/null',
      'Dir::Etc::main': '/dev/null',
      'Dir::Etc::parts': join(this.#root, 'etc/parts'),
      'Dir::Etc::preferences': '/dev/null',
      'Dir::Etc::preferencesparts': join(this.#root, 'etc/preferences.d'),
      // The download sandbox user cannot enter a private cache folder.
      'APT::Sandbox::User': 'root',
      'APT::Architecture': 'amd64',
      'APT::Architectures': 'amd64',
      'Acquire::Languages': 'none',
      'Acquire::GzipIndexes': 'true',
      'Acquire::Retries': '2',
    };
    if (login !== null) {
      own['Dir::Etc::netrc'] = login[1] ?? '';
      own['Dir::Etc::netrcparts'] = login[2] ?? '';
    }
    const lines = Object.entries(own).map(([key, value]) => `${key} "${value}";`);
    return `${[...kept, ...lines].join('\n')}\n`;
  }

  async #apt(args: readonly string[], cwd?: string) {
    return await execa('apt-get', ['-q', ...args], {
      reject: false,
      env: { APT_CONFIG: join(this.#root, 'apt.conf'), LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
      ...(cwd !== undefined && { cwd }),
    });
  }
}

/** Those of `files` that are missing from `pool` or are not byte for byte what apt's index says. */
export async function damaged(pool: string, files: readonly PackageFile[]): Promise<PackageFile[]> {
  const bad: PackageFile[] = [];
  const present = new Set(existsSync(pool) ? readdirSync(pool) : []);
  for (const entry of files) {
    const path = join(pool, entry.file);
    const whole =
      present.has(entry.file) &&
      statSync(path).size === entry.size &&
      (await sha256File(path)) === entry.sha256;
    if (!whole) bad.push(entry);
  }
  return bad;
}
