import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { buildInitramfs } from '../../images/initramfs.ts';
import { defaultKernel, guestPrograms, type KernelName, kernels } from './catalog.ts';
import { SetupError } from './errors.ts';
import { identity, sha256Small } from './hash.ts';
import { ensureKernel, kernelFolder, listLibraries, userlandFolder } from './kernel.ts';
import { checkoutRoot } from './paths.ts';
import { requireX64 } from './programs.ts';
import type { Store } from './store.ts';
import { faultOf, makeFolder, readManifest } from './tree.ts';

/** A guest that can be booted: `-kernel boot -initrd initrd`. */
export interface GuestKernel {
  readonly name: KernelName;
  /** As `uname -r` says it. */
  readonly release: string;
  /** The kernel as Debian ships it. */
  readonly vmlinuz: string;
  /** What to give to `-kernel`: the uncompressed kernel, which boots seconds sooner under TCG, or `vmlinuz`. */
  readonly boot: string;
  readonly initrd: string;
}

/** Change it when the build changes in a way that its inputs do not show. */
const recipe = 'image 1';
const unusedForDays = 3;

/** Programs that are compiled for the guest: name in the guest and sources below `images/guest`. */
export const guestBinaries: Readonly<Record<string, readonly string[]>> = {
  'guest-agent': ['agent.c'],
  pcitool: ['pcitool.c', 'pci.c', 'vfio.c'],
  ramtest: ['ramtest.c', 'pci.c', 'vfio.c'],
  traffic: ['traffic.c'],
  workload: ['workload.c'],
};

/** Image files that are copied as they are. */
const scripts = [
  ['init', 'init'],
  ['etc/rc', 'rc'],
  ['etc/mdev.conf', 'mdev.conf'],
] as const;

function imageSources(): string {
  return join(checkoutRoot(), 'images');
}

/** Identity of the image that this checkout would build on the given trees. */
function imageId(store: Store, name: KernelName): string | undefined {
  const kernel = readManifest(store.path(kernelFolder(name)))?.id;
  const userland = readManifest(store.path(userlandFolder(kernels[name].release)))?.id;
  if (kernel === undefined || userland === undefined) return undefined;
  const sources = imageSources();
  const guest = readdirSync(join(sources, 'guest')).sort();
  const files = [
    ...guest.map((file) => join('guest', file)),
    ...scripts.map(([, file]) => file),
    'cpio.ts',
    'initramfs.ts',
  ];
  const content = files.flatMap((file) => [file, sha256Small(join(sources, file))]);
  return identity([recipe, kernel, userland, ...guestPrograms, JSON.stringify(guestBinaries), ...content]);
}

function imageFolder(name: KernelName, id: string): string {
  return `image-${name}-${id}`;
}

/** Makes sure that kernel `name` and this checkout's image for it exist. */
export async function ensureImage(store: Store, name: KernelName = defaultKernel): Promise<GuestKernel> {
  const kernel = await ensureKernel(store, name);
  const id = imageId(store, name);
  if (id === undefined)
    throw new SetupError(`kernel ${name} disappeared while its image was made`, 'run it again');
  const folder = imageFolder(name, id);
  if ((await faultOf(store.path(folder), store.deep)) !== undefined) {
    await store.exclusively(async () => {
      if ((await faultOf(store.path(folder), store.deep)) === undefined) return;
      requireX64('a guest image');
      store.say(`${folder}: building the guest image`);
      const version = kernel.facts.version ?? '';
      await makeFolder(store.path(folder), id, [], async (into) => {
        await build(store, name, into);
        return { version };
      });
      dropUnused(store, name, folder);
    });
  }
  try {
    utimesSync(store.path(folder), new Date(), new Date());
  } catch {
    // Somebody else's cache, which we only read: its owner decides what is unused.
  }
  return guestKernel(store, name, id, kernel.facts.version ?? '');
}

function guestKernel(store: Store, name: KernelName, id: string, release: string): GuestKernel {
  const vmlinuz = store.path(kernelFolder(name), 'vmlinuz');
  const vmlinux = store.path(kernelFolder(name), 'vmlinux');
  return {
    name,
    release,
    vmlinuz,
    boot: existsSync(vmlinux) ? vmlinux : vmlinuz,
    initrd: store.path(imageFolder(name, id), 'initrd.cpio'),
  };
}

/** Kernel `name` with this checkout's image, if both are there and whole. */
export async function findImage(store: Store, name: KernelName): Promise<GuestKernel | undefined> {
  const id = imageId(store, name);
  const release = readManifest(store.path(kernelFolder(name)))?.facts.version;
  if (id === undefined || release === undefined) return undefined;
  for (const folder of [kernelFolder(name), imageFolder(name, id)]) {
    if ((await faultOf(store.path(folder))) !== undefined) return undefined;
  }
  return guestKernel(store, name, id, release);
}

async function build(store: Store, name: KernelName, into: string): Promise<void> {
  const sources = imageSources();
  const userland = store.path(userlandFolder(kernels[name].release));
  const programs = join(into, 'programs');
  mkdirSync(programs);
  const own: [string, string][] = scripts.map(([guest, file]) => [guest, join(sources, file)]);
  for (const [program, files] of Object.entries(guestBinaries)) {
    const binary = join(programs, program);
    await compile(
      files.map((file) => join(sources, 'guest', file)),
      binary,
    );
    own.push([`usr/local/bin/${program}`, binary]);
  }
  const { stdout } = await execa(join(userland, 'bin/busybox'), ['--list']);
  const image = await buildInitramfs({
    userland,
    kernel: store.path(kernelFolder(name)),
    programs: guestPrograms,
    applets: stdout.split('\n').filter((applet) => applet !== '' && applet !== 'busybox'),
    libraries: async (program) => await listLibraries(userland, program),
    own,
  });
  writeFileSync(join(into, 'initrd.cpio'), image);
}

/** Compiles a static guest program, so that it runs on any userland. */
async function compile(files: readonly string[], binary: string): Promise<void> {
  const flags = ['-std=gnu11', '-O2', '-static', '-s', '-Wall', '-Wextra', '-Werror'];
  const result = await execa('gcc', [...flags, '-o', binary, ...files], { reject: false, all: true });
  if (result.exitCode === 0) return;
  if (result.code === 'ENOENT') throw new SetupError('gcc is missing', 'apt-get install gcc libc6-dev');
  throw new SetupError(`cannot compile ${files.join(' ')}:\n${result.all}`, 'apt-get install gcc libc6-dev');
}

/** Removes images of other checkouts or earlier sources that nobody has asked for in a while, as far as that can be done. */
export function dropUnused(store: Store, name: KernelName, keep: string): void {
  const limit = Date.now() - unusedForDays * 86_400_000;
  for (const folder of readdirSync(store.root)) {
    if (!folder.startsWith(`image-${name}-`) || folder === keep) continue;
    try {
      if (statSync(store.path(folder)).mtimeMs < limit)
        rmSync(store.path(folder), { recursive: true, force: true });
    } catch {
      // Another user's, as of a set-up by root: it stays.
    }
  }
}

/** The kernel's build configuration (`CONFIG_… =` lines), if it came with the packages. */
export function kernelConfig(store: Store, name: KernelName): string | undefined {
  const file = store.path(kernelFolder(name), 'config');
  return existsSync(file) ? readFileSync(file, 'utf8') : undefined;
}
