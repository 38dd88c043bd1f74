/** Where the destination listens for RAM. It gets one try: a QEMU that could not bind takes no other address (11.1.3). */
import { readlinkSync, statSync } from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import { longestSocketPath } from '../../posix/index.ts';
import { textAt } from '../answers.ts';
import { QmpError, refusal } from '../errors.ts';
import type { MigrationEnd } from './options.ts';
import { listenerAt } from './processes.ts';
import type { Run } from './run.ts';

/** Ways that QEMU's migration may take ("Migration URI" of its manual). */
const transports = ['tcp', 'unix', 'vsock', 'fd', 'exec', 'rdma', 'file'];
const unixPrefix = 'unix:';

/** Refuses what could not be listened at, or not be found by the source, as far as that can be told from here. */
export function checkUris(run: Run): void {
  const { uri, listenUri = uri, source, destination } = run.options;
  for (const each of [uri, listenUri]) checkUri(each);
  if (!listenUri.startsWith(unixPrefix)) return;
  const path = listenUri.slice(unixPrefix.length);
  const there = workingFolder(run, destination);
  if (there === undefined) return;
  const folder = dirname(resolve(there, path));
  if (!isFolder(folder))
    throw refusal(
      'VC_URI',
      `the destination QEMU can't listen at ${listenUri}: there is no folder ${folder}`,
      'make it, or give another path',
    );
  if (isAbsolute(path) || uri !== listenUri) return;
  const here = workingFolder(run, source);
  if (here !== undefined && here !== there)
    throw refusal(
      'VC_URI',
      `${uri} is another place for each QEMU: one runs in ${here}, the other in ${there}`,
      'give an absolute path',
    );
}

/** QEMU would refuse it only when the destination had been touched already, which is of no use any more then. */
function checkUri(uri: string): void {
  if (!transports.some((transport) => uri.startsWith(`${transport}:`)))
    throw refusal('VC_USAGE', `RAM can't travel by "${uri}"`, 'write unix:PATH or tcp:HOST:PORT');
  const bytes = uri.startsWith(unixPrefix) ? Buffer.byteLength(uri.slice(unixPrefix.length)) : 0;
  if (bytes > longestSocketPath)
    throw refusal(
      'VC_USAGE',
      `RAM can't travel by ${uri}: a socket path has at most ${longestSocketPath} bytes, this one ${bytes}`,
      'give a shorter one',
    );
}

/** From where a QEMU takes relative paths; undefined: it is not known, or it sees other files than we do. */
function workingFolder(run: Run, end: MigrationEnd): string | undefined {
  const pid = end.pid ?? listenerAt(run, end.qmp);
  if (pid === undefined) return undefined;
  try {
    const same = ['ns/mnt', 'root'].every(
      (link) => readlinkSync(`/proc/${pid}/${link}`) === readlinkSync(`/proc/self/${link}`),
    );
    return same ? readlinkSync(`/proc/${pid}/cwd`) : undefined;
  } catch {
    // Another user's, or gone.
    return undefined;
  }
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch (error) {
    // What we may not look at may be there for QEMU.
    const { code } = error as NodeJS.ErrnoException;
    return code !== 'ENOENT' && code !== 'ENOTDIR';
  }
}

/** Has the destination listen. @throws QmpError when it refuses */
export async function listen(run: Run): Promise<void> {
  const { uri, listenUri = uri } = run.options;
  try {
    await run.until(run.destination.execute('migrate-incoming', { uri: listenUri }));
  } catch (error) {
    // A destination that was started with -incoming URI listens already.
    const listens = error instanceof QmpError && /already been started|was not specified/.test(error.message);
    if (!listens) throw error;
    run.log.debug(`the destination waits for its migration already: ${error.message}`);
  }
}

/** Whether a destination that could not listen would listen elsewhere. */
export async function maySayAnother(run: Run): Promise<boolean> {
  const status = textAt(await run.destination.execute('query-migrate'), 'status');
  return status === '' || status === 'none';
}
