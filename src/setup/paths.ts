import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * Where downloads, unpacked packages and guest images live: `$VFIO_COMPANION_CACHE`, else the user's XDG
 * cache. It is shared by all checkouts of a user, so that a clean clone needs no second download.
 */
export function cacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  const own = env.VFIO_COMPANION_CACHE;
  if (own !== undefined && own !== '') return own;
  const xdg = env.XDG_CACHE_HOME;
  return join(xdg?.startsWith('/') ? xdg : join(homedir(), '.cache'), 'vfio-companion');
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
