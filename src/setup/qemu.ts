import { accessSync, chmodSync, constants, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { execa } from 'execa';
import { minimumQemu, qemuPackages } from './catalog.ts';
import { SetupError } from './errors.ts';
import { whyFailed } from './programs.ts';
import type { Store } from './store.ts';
import { faultOf, readManifest, unpack } from './tree.ts';

/** A QEMU that can be run as it is: `execa(qemu.command, [...qemu.args, …])`. */
export interface Qemu {
  readonly command: string;
  /** Arguments that come before all others. */
  readonly args: readonly string[];
  /** As QEMU says it, such as `11.1.3`. */
  readonly version: string;
  readonly vfioUser: boolean;
  readonly source: 'environment' | 'system' | 'private';
}

const program = 'qemu-system-x86_64';
const variable = 'VFIO_COMPANION_QEMU';
const folderName = 'qemu';
const recipe = 'qemu 1';
const wrapperFolder = 'usr/libexec/vfio-companion';

/** The version in the output of `qemu --version`, or `undefined`. */
export function parseVersion(text: string): string | undefined {
  return /version (\d+\.\d+(?:\.\d+)?)/.exec(text)?.[1];
}

/** Whether `version` is one that may have the vfio-user client. */
export function recentEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > minimumQemu.major || (major === minimumQemu.major && minor >= minimumQemu.minor);
}

/** What a QEMU says of itself, or why it could not. */
export type ProbedQemu =
  | { readonly version: string; readonly vfioUser: boolean }
  | { readonly version?: undefined; readonly reason: string; readonly cause: unknown };

/** Runs `command` to learn its version and devices. */
export async function probeQemu(command: string): Promise<ProbedQemu> {
  const options = { reject: false, timeout: 30_000, all: true } as const;
  const said = await execa(command, ['--version'], options);
  if (said.exitCode !== 0) return { reason: whyFailed(said, said.stderr), cause: said };
  const version = parseVersion(said.all);
  if (version === undefined) return { reason: 'it names no version', cause: said };
  const devices = await execa(command, ['-device', 'help'], options);
  return { version, vfioUser: devices.all.includes('"vfio-user-pci"') };
}

/** The first executable `name` on `PATH`. */
export function findOnPath(name: string, path = process.env.PATH ?? ''): string | undefined {
  for (const folder of path.split(delimiter)) {
    if (folder === '') continue;
    const candidate = join(folder, name);
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

/** The QEMU of `$VFIO_COMPANION_QEMU` or of the system, if it will do. */
export async function findSystemQemu(env: NodeJS.ProcessEnv = process.env): Promise<Qemu | undefined> {
  const named = env[variable];
  if (named !== undefined && named !== '') {
    const probed = await probeQemu(named);
    if (probed.version === undefined) {
      const { reason, cause } = probed;
      throw new SetupError(
        `${variable}=${named} does not run: ${reason}`,
        `correct or unset ${variable}`,
        cause,
      );
    }
    if (!probed.vfioUser) {
      throw new SetupError(
        `${named} is QEMU ${probed.version}, without vfio-user-pci`,
        `point ${variable} to a QEMU >= 10.1, or unset it`,
      );
    }
    return { command: named, args: [], ...probed, source: 'environment' };
  }
  const system = findOnPath(program, env.PATH ?? '');
  if (system === undefined) return undefined;
  const probed = await probeQemu(system);
  if (probed.version === undefined || !probed.vfioUser || !recentEnough(probed.version)) return undefined;
  return { command: system, args: [], ...probed, source: 'system' };
}

/** The QEMU that set-up unpacked, if it is there and whole. */
export async function findPrivateQemu(store: Store): Promise<Qemu | undefined> {
  const folder = store.path(folderName);
  const facts = readManifest(folder)?.facts;
  if (facts === undefined || (await faultOf(folder)) !== undefined) return undefined;
  return privateQemu(folder, facts);
}

function privateQemu(folder: string, facts: Readonly<Record<string, string>>): Qemu {
  const version = facts.version ?? 'unknown';
  const vfioUser = facts.vfioUser === 'yes';
  return { command: join(folder, wrapperFolder, program), args: [], version, vfioUser, source: 'private' };
}

/** The system's QEMU if it will do, else one from Debian's packages, unpacked into the store. */
export async function ensureQemu(store: Store): Promise<Qemu> {
  const system = await findSystemQemu();
  if (system !== undefined) return system;
  const manifest = await store.ensurePackages(folderName, qemuPackages, recipe, async (into, packages) => {
    await unpack(store.pool, packages, into);
    const wrapper = writeWrapper(into);
    const probed = await probeQemu(wrapper);
    const hint = `point ${variable} to a QEMU >= 10.1`;
    if (probed.version === undefined) {
      throw new SetupError(`the unpacked QEMU does not run: ${probed.reason}`, hint, probed.cause);
    }
    if (!probed.vfioUser) {
      throw new SetupError(`the unpacked QEMU ${probed.version} has no vfio-user-pci`, hint);
    }
    return { version: probed.version, vfioUser: 'yes' };
  });
  return privateQemu(store.path(folderName), manifest.facts);
}

/**
 * A script that starts the unpacked QEMU through the unpacked dynamic loader with the unpacked libraries,
 * so that the machine's own libc does not matter. `exec` keeps the process id.
 */
function writeWrapper(tree: string): string {
  const real = join(tree, 'usr/bin', program);
  if (!existsSync(real)) throw new SetupError(`${program} is not in the packages`, 'report this');
  const folder = join(tree, wrapperFolder);
  mkdirSync(folder, { recursive: true });
  const wrapper = join(folder, program);
  writeFileSync(
    wrapper,
    `#!/bin/sh
self=$0
if [ -L "$self" ]; then self=$(readlink -f -- "$self"); fi
tree=\${self%/${wrapperFolder}/*}
lib=$tree/usr/lib/x86_64-linux-gnu
QEMU_MODULE_DIR=$lib/qemu exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" \\
  "$tree/usr/bin/${program}" -L "$tree/usr/share/qemu" -L "$tree/usr/share/seabios" "$@"
`,
  );
  chmodSync(wrapper, 0o755);
  return wrapper;
}
