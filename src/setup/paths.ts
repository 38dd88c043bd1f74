import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SetupError } from './errors.ts';

const variable = 'VFIO_COMPANION_CACHE';
/** What ends a path in a list of library folders, or a word in a configuration of apt. */
const unusable = /[:;"\n]/;

/**
 * Where downloads, unpacked packages and guest images live: `$VFIO_COMPANION_CACHE`, else the user's XDG
 * cache. It is shared by all checkouts of a user, so that a clean clone needs no second download. Absolute,
 * because apt and others take a relative path from elsewhere.
 * @throws SetupError if there is no home folder, or no program could take the path
 */
export function cacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  const root = resolve(chosenFolder(env));
  if (!unusable.test(root)) return root;
  const hint = `set ${variable} to a folder without : ; or " in its path`;
  throw new SetupError(`the cache folder ${root} cannot be used by apt and the dynamic loader`, hint);
}

function chosenFolder(env: NodeJS.ProcessEnv): string {
  const own = env[variable];
  if (own !== undefined && own !== '') return own;
  const xdg = env.XDG_CACHE_HOME;
  return join(xdg?.startsWith('/') ? xdg : join(homeFolder(), '.cache'), 'vfio-companion');
}

function homeFolder(): string {
  let home = '';
  let cause: unknown;
  try {
    home = homedir();
  } catch (error) {
    // Neither $HOME nor an entry in the password file.
    cause = error;
  }
  if (home.startsWith('/')) return home;
  const hint = `set ${variable} to a folder of your own, or HOME`;
  throw new SetupError('there is no home folder to keep the cache in', hint, cause);
}

/** What brings QEMU, and `kernel` (default: the one that is used) with its image: of a checkout, or of a package in a project's `node_modules`. */
export function setupCommand(kernel?: string, root: string = checkoutRoot()): string {
  if (root.split('/').includes('node_modules'))
    return `npx vfio-companion setup${kernel === undefined ? '' : ` --kernel ${kernel}`}`;
  return `make setup${kernel === undefined ? '' : ` KERNEL=${kernel}`}`;
}

/** The checkout that this module belongs to, whether it runs from `src/` or from `dist/`. */
export function checkoutRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error('no package.json above the set-up code');
    folder = parent;
  }
  return folder;
}
