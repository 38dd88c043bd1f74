import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { SetupError } from './errors.ts';

/** What is known of a program that was run, as execa tells it. */
interface Ended {
  readonly code?: string | undefined;
  readonly exitCode?: number | undefined;
  readonly signal?: string | undefined;
  readonly timedOut: boolean;
}

/** Why a program failed, in a few words: the last that it said, else how it ended. */
export function whyFailed(ended: Ended, stderr: string): string {
  if (ended.timedOut) return 'it did not end in time';
  const said = stderr.trim().split('\n').at(-1) ?? '';
  if (said !== '') return said;
  if (ended.exitCode !== undefined) return `it ended with status ${ended.exitCode}`;
  return ended.signal === undefined
    ? `it cannot be started: ${ended.code}`
    : `it was ended by ${ended.signal}`;
}

/** Fails on a machine that cannot run the programs in Debian's amd64 packages, which `what` is made with. */
export function requireX64(what: string): void {
  if (process.arch === 'x64') return;
  throw new SetupError(
    `${what} can be made on an x86-64 machine only, and this one is ${process.arch}`,
    'install a QEMU >= 10.1 with qemu-system-x86_64 or name one by VFIO_COMPANION_QEMU, and for the guests copy the ' +
      'cache folder of an x86-64 machine (VFIO_COMPANION_CACHE)',
  );
}

/** Fails if programs below `folder` cannot be run, as where it is mounted `noexec`. */
export async function requireExecutable(folder: string): Promise<void> {
  const program = join(folder, `runs.${process.pid}`);
  try {
    writeFileSync(program, '#!/bin/sh\n', { mode: 0o700 });
    const ended = await execa(program, { reject: false });
    if (ended.exitCode === 0) return;
    throw new SetupError(
      `no program can be run from the cache folder ${folder}: ${whyFailed(ended, ended.stderr)}`,
      'mount it without noexec, or set VFIO_COMPANION_CACHE to a folder of another file system',
      ended,
    );
  } finally {
    rmSync(program, { force: true });
  }
}
