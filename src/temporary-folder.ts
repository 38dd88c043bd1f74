import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CompanionError } from './errors.ts';

/**
 * Makes a folder of its own for sockets and logs, below `$TMPDIR`, else in /tmp.
 * @param prefix what its name begins with
 * @throws CompanionError where none can be made
 */
export function temporaryFolder(prefix = 'vfio-companion-'): string {
  const place = tmpdir();
  try {
    return mkdtempSync(join(place, prefix));
  } catch (cause) {
    const reason = cause instanceof Error && 'code' in cause ? cause.code : cause;
    throw new CompanionError('VC_TEMPORARY_FOLDER', `no folder can be made in ${place}: ${String(reason)}`, {
      hint: 'set TMPDIR to a folder that you may write to, and that has room',
      cause,
    });
  }
}

/** What to do about `path`, of a socket that its folder makes too long. */
export function shorterFolderHint(path: string): string {
  return path.startsWith(`${tmpdir()}/`) && tmpdir() !== '/tmp'
    ? 'set TMPDIR to a shorter folder, such as /tmp'
    : 'choose a shorter folder';
}
