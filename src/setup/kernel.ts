import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { compressedKernel } from './bzimage.ts';
import { guestModules, guestPackages, type KernelName, kernels, type ReleaseName } from './catalog.ts';
import { SetupError } from './errors.ts';
import { setupCommand } from './paths.ts';
import { whyFailed } from './programs.ts';
import type { Store } from './store.ts';
import { type Manifest, unpack } from './tree.ts';

const guestRecipe = 'guest 1';
const kernelRecipe = `kernel 2 ${guestModules.join(' ')}`;
const library = 'usr/lib/x86_64-linux-gnu';
/** An uncompressed kernel is some 70 MB. */
const outputLimit = 512 * 1024 * 1024;

/** Folder of the guest userland of `release`, below the store. */
export function userlandFolder(release: ReleaseName): string {
  return `userland-${release}`;
}

/** Folder of the guest kernel `name`, below the store. */
export function kernelFolder(name: KernelName): string {
  return `kernel-${name}`;
}

/** Unpacks the guest userland of `release`. */
export async function ensureUserland(store: Store, release: ReleaseName): Promise<Manifest> {
  const set = guestPackages[release];
  return await store.ensurePackages(userlandFolder(release), set, guestRecipe, async (into, packages) => {
    await unpack(store.pool, packages, into);
    return { release };
  });
}

/** Runs `program` (a path below `tree`) with the tree's own dynamic loader and libraries. */
async function runFromTree(
  tree: string,
  loaderArgs: readonly string[],
  program: string,
  args: readonly string[],
): Promise<Uint8Array> {
  const libraries = join(tree, library);
  const loader = join(libraries, 'ld-linux-x86-64.so.2');
  const all = ['--library-path', libraries, ...loaderArgs, program, ...args];
  const result = await execa(loader, all, { encoding: 'buffer', maxBuffer: outputLimit, reject: false });
  if (result.exitCode === 0) return result.stdout;
  throw new SetupError(
    `${program} failed: ${whyFailed(result, Buffer.from(result.stderr).toString())}`,
    `${setupCommand()} again; if it stays so, delete the cache folder`,
    result,
  );
}

/** The shared libraries, dynamic loader included, that `program` of the userland in `tree` loads. */
export async function listLibraries(tree: string, program: string): Promise<string[]> {
  const text = Buffer.from(await runFromTree(tree, ['--list'], program, [])).toString();
  const loader = join(tree, library, 'ld-linux-x86-64.so.2');
  const found = new Set([loader]);
  for (const line of text.split('\n')) {
    const path = /=> (\/.+) \(0x/.exec(line)?.[1];
    if (path?.startsWith(`${tree}/`)) found.add(path);
    // One of this machine would not be there in the guest.
    else if (path !== undefined || line.includes('not found')) {
      throw new SetupError(`${program}: not in the guest's packages: ${line.trim()}`, 'report this');
    }
  }
  // All of them are linked dynamically, to libc at the least.
  if (found.size === 1) throw new SetupError(`${program}: no libraries in "${text.trim()}"`, 'report this');
  return [...found];
}

/**
 * Unpacks guest kernel `name`: `vmlinuz`, and of its modules those that the guest image carries, with all
 * that they depend on, uncompressed, and with the index files that modprobe reads.
 */
export async function ensureKernel(store: Store, name: KernelName): Promise<Manifest> {
  const set = kernels[name];
  await ensureUserland(store, set.release);
  const tools = store.path(userlandFolder(set.release));
  return await store.ensurePackages(kernelFolder(name), set, kernelRecipe, async (into, packages) => {
    const whole = join(into, 'whole');
    mkdirSync(whole);
    await unpack(store.pool, packages, whole);
    const version = readdirSync(join(whole, 'usr/lib/modules'))[0];
    if (version === undefined)
      throw new SetupError(`no modules in the packages of kernel ${name}`, 'report this');
    takeFile(whole, version, 'vmlinuz', into);
    takeFile(whole, version, 'config', into);
    await extractKernel(tools, into);
    await pickModules(tools, whole, version, into);
    rmSync(whole, { recursive: true, force: true });
    return { version };
  });
}

/** `depmod` and `modprobe` are one program, kmod, that goes by the name it is called by. */
async function depmod(tools: string, base: string, version: string): Promise<void> {
  await runFromTree(tools, ['--argv0', 'depmod'], join(tools, 'usr/bin/kmod'), ['-b', base, version]);
}

/** Moves `boot/NAME-VERSION` or, as from Linux 7 on, `usr/lib/modules/VERSION/NAME` to `into/NAME`. */
function takeFile(whole: string, version: string, file: string, into: string): void {
  const places = [join(whole, 'boot', `${file}-${version}`), join(whole, 'usr/lib/modules', version, file)];
  const found = places.find((place) => existsSync(place));
  if (found === undefined)
    throw new SetupError(`no ${file} in the packages of kernel ${version}`, 'report this');
  renameSync(found, join(into, file));
}

/**
 * Writes `vmlinux`, the kernel without its compression, which QEMU starts by its PVH entry: an emulated
 * processor takes seconds to uncompress it.
 */
async function extractKernel(tools: string, into: string): Promise<void> {
  const found = compressedKernel(readFileSync(join(into, 'vmlinuz')));
  if (found === undefined || !/^CONFIG_PVH=y$/m.test(readFileSync(join(into, 'config'), 'utf8'))) return;
  const packed = join(into, `vmlinux.${found.format}`);
  writeFileSync(packed, found.data);
  const program = join(tools, 'usr/bin', found.format);
  writeFileSync(join(into, 'vmlinux'), await runFromTree(tools, [], program, ['-dc', packed]));
  rmSync(packed);
}

async function pickModules(tools: string, whole: string, version: string, into: string): Promise<void> {
  await depmod(tools, whole, version);
  const from = join(whole, 'usr/lib/modules', version);
  const wanted = moduleClosure(readFileSync(join(from, 'modules.dep'), 'utf8'), guestModules);
  // kmod looks below lib/modules or usr/lib/modules according to its age: a link serves both.
  const to = join(into, 'lib/modules', version);
  for (const path of wanted) {
    const plain = join(to, path.replace(/\.xz$/, ''));
    mkdirSync(dirname(plain), { recursive: true });
    if (path.endsWith('.xz')) writeFileSync(plain, await decompress(tools, join(from, path)));
    else renameSync(join(from, path), plain);
  }
  for (const file of ['modules.builtin', 'modules.builtin.modinfo', 'modules.order']) {
    if (existsSync(join(from, file))) renameSync(join(from, file), join(to, file));
  }
  mkdirSync(join(into, 'usr'), { recursive: true });
  renameSync(join(into, 'lib'), join(into, 'usr/lib'));
  await execa('ln', ['-s', 'usr/lib', join(into, 'lib')]);
  await depmod(tools, into, version);
}

async function decompress(tools: string, file: string): Promise<Uint8Array> {
  return await runFromTree(tools, [], join(tools, 'usr/bin/xz'), ['-dc', file]);
}

/** Name that modprobe knows a module file by: `-` and `_` are the same to it. */
function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf('/') + 1);
  return file.replace(/\.ko(\.xz|\.zst|\.gz)?$/, '').replaceAll('-', '_');
}

/**
 * The module files that `names` need, from the text of a `modules.dep` (each line `path: path path …`).
 * A name without a file is built into the kernel, or unknown to it, and is left out.
 */
export function moduleClosure(modulesDep: string, names: readonly string[]): string[] {
  const byName = new Map<string, readonly string[]>();
  for (const line of modulesDep.split('\n')) {
    const [path = '', rest = ''] = line.split(/:\s*(.*)/);
    if (path !== '') byName.set(moduleName(path), [path, ...rest.split(' ').filter((item) => item !== '')]);
  }
  const wanted = new Set<string>();
  for (const name of names) for (const path of byName.get(name.replaceAll('-', '_')) ?? []) wanted.add(path);
  return [...wanted].sort();
}
