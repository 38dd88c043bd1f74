import { chmodSync, cpSync, existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { execa } from 'execa';
import { reasonOf } from '../errors.ts';
import { type PackageFile, PrivateApt } from './apt.ts';
import type { PackageSet, ReleaseName } from './catalog.ts';
import { SetupError } from './errors.ts';
import { type LibraryGeneration, libraryFault, libraryGeneration } from './libvfio-user-library.ts';
import { cacheRoot } from './paths.ts';
import { findOnPath } from './qemu.ts';
import type { Store } from './store.ts';
import { readManifest, unpack } from './tree.ts';

/** A libvfio-user that was looked at and has everything that the binding calls. */
export interface LibvfioUser {
  /** The shared object, absolute. */
  readonly path: string;
  readonly generation: LibraryGeneration;
  readonly source: 'environment' | 'built';
  /** The sample programs of the same source, where this project built them. */
  readonly samples: { readonly client: string; readonly server: string } | undefined;
  /** Where the built copy comes from, such as `qemu 7.2+dfsg`; only known for built ones. */
  readonly origin: string | undefined;
}

/** Selects a library other than the built one. */
export const libraryVariable = 'LIBVFIO_USER';

const folderName = 'libvfio-user';
const recipe = 'libvfio-user 1';
const library = 'libvfio-user.so';
const soname = 'libvfio-user.so.0';
const jsonC = 'libjson-c.so.5';
const multiarch = 'usr/lib/x86_64-linux-gnu';

/** json-c is the library's one dependency; xz opens the source tarball. */
const buildPackages: PackageSet = {
  release: 'bookworm',
  packages: ['libjson-c-dev', 'xz-utils'],
  keep: /^(libjson-c|xz-utils$|liblzma)/,
};

/** Releases whose QEMU source carries the copy, the smaller tarball first. */
const sourceReleases: readonly ReleaseName[] = ['bookworm', 'trixie'];

/** Sources of the library and of the client sample, relative to the copy's root (from its `meson.build`). */
const libraryUnits = ['dma', 'irq', 'libvfio-user', 'migration', 'pci', 'pci_caps', 'tran', 'tran_sock'];
const clientUnits = ['migration', 'tran', 'tran_sock'];

/**
 * The library that is to be used: that of `$LIBVFIO_USER`, else the built one, else `undefined`.
 * @throws SetupError naming path and fault if the library cannot be loaded or lacks what is needed
 */
export function locateLibvfioUser(
  env: NodeJS.ProcessEnv = process.env,
  cache?: string,
): LibvfioUser | undefined {
  const named = env[libraryVariable];
  if (named !== undefined && named !== '') {
    return checked(resolve(named), 'environment', undefined, undefined);
  }
  const folder = join(cache ?? cacheRoot(env), folderName);
  const manifest = readManifest(folder);
  if (manifest === undefined) return undefined;
  const samples = { client: join(folder, 'client'), server: join(folder, 'server') };
  return checked(join(folder, library), 'built', samples, manifest.facts.origin);
}

function checked(
  path: string,
  source: LibvfioUser['source'],
  samples: LibvfioUser['samples'],
  origin: string | undefined,
): LibvfioUser {
  const hint =
    source === 'environment'
      ? `point ${libraryVariable} to a libvfio-user.so of upstream's main branch, or unset it`
      : 'run make libvfio-user again';
  const fault = libraryFault(path);
  if (fault !== undefined) throw new SetupError(`${path}: ${fault}`, hint);
  return { path, generation: libraryGeneration(path), source, samples, origin };
}

/** Builds the copy in Debian's QEMU source package into the store, unless it is there and whole. */
export async function ensureLibvfioUser(store: Store): Promise<LibvfioUser> {
  await store.ensurePackages(folderName, buildPackages, recipe, async (into, packages) => {
    return await build(store, into, packages);
  });
  const found = locateLibvfioUser({}, store.root);
  if (found === undefined)
    throw new SetupError('libvfio-user is gone after the build', 'run make libvfio-user again');
  return found;
}

async function build(
  store: Store,
  into: string,
  packages: readonly PackageFile[],
): Promise<Record<string, string>> {
  const compiler = findOnPath('cc') ?? findOnPath('gcc');
  if (compiler === undefined) {
    throw new SetupError('libvfio-user needs a C compiler', 'apt-get install gcc libc6-dev');
  }
  const work = join(into, 'work');
  const tools = join(work, 'tools');
  await unpack(store.pool, packages, tools);
  const origin = await fetchSource(store, join(work, 'source'), tools);
  store.say(`${folderName}: compiling the copy in ${origin}`);
  await compile(compiler, join(work, 'source'), tools, into);
  rmSync(work, { recursive: true, force: true });
  return { origin };
}

/** Leaves the copy's files in `folder`; returns which source package they are from. */
async function fetchSource(store: Store, folder: string, tools: string): Promise<string> {
  let failure: unknown;
  for (const release of sourceReleases) {
    try {
      store.say(`${folderName}: asking Debian ${release} for the source of qemu`);
      const apt = new PrivateApt(release, store.path('apt', release), store.pool);
      const download = join(folder, release);
      const tarball = await apt.source('qemu', download);
      await extract(join(download, tarball), folder, tools);
      rmSync(download, { recursive: true });
      if (existsSync(join(folder, 'lib/libvfio-user.c'))) return originOf(tarball);
      failure ??= new SetupError(`${tarball} does not carry subprojects/libvfio-user`, 'report this');
    } catch (error) {
      failure ??= error;
    }
  }
  throw failure;
}

/** `qemu_7.2+dfsg.orig.tar.xz` as `qemu 7.2+dfsg`. */
export function originOf(tarball: string): string {
  return tarball.replace(/\.orig\.tar\.\w+$/, '').replace('_', ' ');
}

/** Unpacks only `subprojects/libvfio-user` of the tarball, as `folder`. */
export async function extract(tarball: string, folder: string, tools: string): Promise<void> {
  // Not `tar -I`, which takes a blank in the path for the end of the program's name.
  const env = { LD_LIBRARY_PATH: join(tools, multiarch) };
  const xz = execa(join(tools, 'usr/bin/xz'), ['-dc', tarball], { env, buffer: false });
  const what = ['--strip-components=3', '--wildcards', '*/subprojects/libvfio-user/*'];
  try {
    await xz.pipe('tar', ['-x', '--no-same-owner', '-f', '-', '-C', folder, ...what]);
  } catch (cause) {
    throw new SetupError(
      `cannot unpack ${tarball}`,
      'check the free space of the disk, then run it again',
      cause,
    );
  }
}

/** Compiles library and samples into `out`, with json-c beside them so that nothing need be installed. */
async function compile(compiler: string, source: string, tools: string, out: string): Promise<void> {
  mkdirSync(out, { recursive: true });
  cpSync(join(tools, multiarch, jsonC), join(out, jsonC), { dereference: true });
  cpSync(join(source, 'LICENSE'), join(out, 'LICENSE'));
  const common = ['-std=gnu99', '-O2', '-w', '-D_GNU_SOURCE', '-fPIC', `-I${join(source, 'include')}`];
  const includes = [`-I${join(source, 'lib')}`, `-I${join(tools, 'usr/include/json-c')}`];
  const runpath = ['-Wl,-rpath,$ORIGIN', '-Wl,--enable-new-dtags'];
  const units = (names: readonly string[]) => names.map((name) => join(source, 'lib', `${name}.c`));
  const sample = (name: string) => join(source, 'samples', `${name}.c`);
  const jobs = [
    [
      '-shared',
      '-fvisibility=hidden',
      `-Wl,-soname,${soname}`,
      '-o',
      join(out, soname),
      ...units(libraryUnits),
    ],
    ['-o', join(out, 'client'), sample('client'), ...units(clientUnits), '-pthread'],
    ['-o', join(out, 'server'), sample('server'), join(out, soname)],
  ];
  for (const job of jobs) {
    try {
      await execa(compiler, [...common, ...includes, ...job, join(out, jsonC), ...runpath]);
    } catch (cause) {
      const stderr = reasonOf(cause);
      const line =
        stderr.split('\n').find((text) => /error|cannot find|No such file/i.test(text)) ?? 'no message';
      throw new SetupError(
        `cannot compile libvfio-user: ${line.trim()}`,
        'apt-get install gcc libc6-dev (which brings linux-libc-dev)',
        cause,
      );
    }
  }
  symlinkSync(soname, join(out, library));
  for (const name of ['client', 'server']) chmodSync(join(out, name), 0o755);
}
