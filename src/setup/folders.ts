import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';

/**
 * Makes the folder `path`, which is absolute, and those above it that are not there. Node's own `recursive` tries without end where a folder
 * that is there says ENOENT to a new one, as /proc does.
 */
export function makeFolders(path: string): void {
  const missing: string[] = [];
  for (let at = path; !existsSync(at); at = dirname(at)) missing.unshift(at);
  for (const folder of missing) {
    try {
      mkdirSync(folder);
    } catch (error) {
      // One that another process has made meanwhile is as good.
      if (!existsSync(folder)) throw error;
    }
  }
}
