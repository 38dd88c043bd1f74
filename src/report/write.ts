import { randomBytes } from 'node:crypto';
import { rename, rm, writeFile } from 'node:fs/promises';
import { CompanionError } from '../errors.ts';

/** Writes a file whole or not at all: a full disk leaves an earlier file as it was. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const draft = `${path}.${randomBytes(4).toString('hex')}.part`;
  try {
    await writeFile(draft, text);
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    const reason = error instanceof Error ? error.message : String(error);
    throw new CompanionError('VC_REPORT', `the report can't be written to ${path}: ${reason}`, {
      hint: 'the migration itself is not affected; give --report a place with room',
      cause: error,
    });
  }
}
