import { spawn } from 'node:child_process';
import { dirname } from 'node:path';
import { SetupError } from './errors.ts';
import { makeFolders } from './folders.ts';

/**
 * Runs `work` while holding an exclusive lock on `file`. The lock is held by a `flock` child that ends with
 * its standard input, so the kernel releases it however this process ends.
 * @param onWait called once if another process holds the lock
 */
export async function withLock<T>(file: string, work: () => Promise<T>, onWait?: () => void): Promise<T> {
  makeFolders(dirname(file));
  const child = spawn('flock', [file, 'sh', '-c', 'echo locked; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const waiting = onWait === undefined ? undefined : setTimeout(onWait, 1000);
  try {
    await new Promise<void>((resolve, reject) => {
      child.once('error', (cause) =>
        reject(
          new SetupError('cannot run flock', 'install the package util-linux, which every Debian has', cause),
        ),
      );
      child.once('exit', (code) =>
        reject(
          new SetupError(
            `cannot lock ${file} (flock ended with ${code})`,
            'check that the folder is writable',
          ),
        ),
      );
      child.stdout.once('data', () => resolve());
    });
    clearTimeout(waiting);
    return await work();
  } finally {
    clearTimeout(waiting);
    child.removeAllListeners('exit');
    child.on('error', () => {});
    const gone = new Promise<void>((resolve) => {
      if (child.exitCode !== null || child.pid === undefined) resolve();
      else child.once('exit', () => resolve());
    });
    child.stdin.end();
    await gone;
  }
}
