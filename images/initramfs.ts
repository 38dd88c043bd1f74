import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { cpioArchive, type Entry } from './cpio.ts';

/** What a guest image is made from. All paths are of the host. */
export interface ImageParts {
  /** Unpacked userland packages. */
  readonly userland: string;
  /** Unpacked kernel: `usr/lib/modules/VERSION`. */
  readonly kernel: string;
  /** Programs of the userland to carry, as paths below it. */
  readonly programs: readonly string[];
  /** Names of busybox's applets. */
  readonly applets: readonly string[];
  /** Lists the libraries that a program of the userland loads, as paths of the host. */
  readonly libraries: (program: string) => Promise<readonly string[]>;
  /** Our own files: path in the guest and path on the host. All are executable unless below `etc/`. */
  readonly own: readonly (readonly [guest: string, host: string])[];
}

const libraryFolder = 'usr/lib/x86_64-linux-gnu';
const loader = 'ld-linux-x86-64.so.2';
const kmodNames = ['depmod', 'insmod', 'lsmod', 'modinfo', 'modprobe', 'rmmod'] as const;

/**
 * The first root file system of a guest. Equal parts give equal bytes. It is not compressed: an emulated
 * processor takes longer to unpack it than QEMU takes to load it.
 */
export async function buildInitramfs(parts: ImageParts): Promise<Buffer> {
  const files = new Map<string, Entry>();
  const add = (entry: Entry): void => {
    for (let up = posix.dirname(entry.path); up !== '.'; up = posix.dirname(up)) {
      if (!files.has(up)) files.set(up, { kind: 'directory', path: up });
    }
    if (!files.has(entry.path)) files.set(entry.path, entry);
  };
  for (const path of ['dev', 'proc', 'root', 'run', 'sys', 'tmp', 'etc']) add({ kind: 'directory', path });
  // The kernel opens the console before anything is mounted.
  add({ kind: 'device', path: 'dev/console', major: 5, minor: 1 });
  for (const name of ['bin', 'sbin', 'lib', 'lib64'])
    add({ kind: 'link', path: name, target: `usr/${name}` });
  add({ kind: 'link', path: `usr/lib64/${loader}`, target: `../lib/x86_64-linux-gnu/${loader}` });
  for (const [guest, host] of parts.own) {
    const mode = guest.startsWith('etc/') && guest !== 'etc/rc' ? 0o644 : 0o755;
    add({ kind: 'file', path: guest, mode, data: readFileSync(host) });
  }
  for (const program of parts.programs) await addProgram(parts, program, add);
  for (const name of kmodNames) add({ kind: 'link', path: `usr/sbin/${name}`, target: '../bin/kmod' });
  add({ kind: 'link', path: 'usr/bin/sh', target: 'dash' });
  add({
    kind: 'file',
    path: 'usr/bin/busybox',
    mode: 0o755,
    data: readFileSync(join(parts.userland, 'bin/busybox')),
  });
  const taken = new Set([...files.keys()].map((path) => posix.basename(path)));
  for (const applet of parts.applets) {
    if (!taken.has(applet)) add({ kind: 'link', path: `usr/bin/${applet}`, target: 'busybox' });
  }
  addTree(parts.kernel, 'usr/lib/modules', add);
  return cpioArchive([...files.values()]);
}

/** Adds a program by its name in the userland and by its real place, with the libraries that it loads. */
async function addProgram(parts: ImageParts, name: string, add: (entry: Entry) => void): Promise<void> {
  const real = realPath(parts.userland, name);
  add({ kind: 'file', path: real, mode: 0o755, data: readFileSync(join(parts.userland, real)) });
  const called = posix.join(realPath(parts.userland, posix.dirname(name)), posix.basename(name));
  if (called !== real) add({ kind: 'link', path: called, target: `/${real}` });
  for (const library of await parts.libraries(join(parts.userland, real))) {
    const path = `${libraryFolder}/${posix.basename(library)}`;
    add({ kind: 'file', path, mode: 0o755, data: readFileSync(library) });
  }
}

/** Follows the links of `path` inside `root`, where an absolute target starts at `root`. */
function realPath(root: string, path: string): string {
  let done = '';
  let rest = path.split('/').filter((part) => part !== '' && part !== '.');
  for (let links = 0; rest.length > 0; ) {
    const [part = '', ...after] = rest;
    rest = after;
    const next = part === '..' ? dirname(done) : posix.join(done, part);
    if (!lstatSync(join(root, next)).isSymbolicLink()) {
      done = next === '.' ? '' : next;
      continue;
    }
    if (++links > 40) throw new Error(`too many links on the way to ${path}`);
    const target = readlinkSync(join(root, next));
    if (target.startsWith('/')) done = '';
    rest = [...target.split('/').filter((item) => item !== '' && item !== '.'), ...rest];
  }
  return done;
}

function addTree(root: string, below: string, add: (entry: Entry) => void): void {
  for (const entry of readdirSync(join(root, below), { withFileTypes: true })) {
    const path = `${below}/${entry.name}`;
    if (entry.isDirectory()) addTree(root, path, add);
    else if (entry.isFile()) add({ kind: 'file', path, data: readFileSync(join(root, path)) });
  }
}
