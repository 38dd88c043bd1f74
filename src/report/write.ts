import { randomBytes } from 'node:crypto';
import { constants, fstatSync, type Stats } from 'node:fs';
import { access, lstat, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CompanionError, reasonOf } from '../errors.ts';

/** What a full disk, a used-up quota, a limit on files, or a broken disk comes to. */
const full: readonly unknown[] = ['ENOSPC', 'EDQUOT', 'EFBIG', 'EIO'];

/**
 * Writes a file whole or not at all, where that can be done: a full disk leaves an earlier file as it was. What a link leads to is written, and
 * the link stays; devices, pipes and what is our own output are written to, not replaced.
 */
export async function writeWhole(path: string, text: string): Promise<void> {
  try {
    await writeTo(path, text);
  } catch (error) {
    const reason = reasonOf(error);
    throw new CompanionError('VC_REPORT', `the report can't be written to ${path}: ${reason}`, {
      hint: 'the migration itself is not affected; give it another place, with room',
      cause: error,
    });
  }
}

/**
 * Refuses a place where no report can be written, for who would only hear of it when all is over.
 * @throws CompanionError when the folder is not there, or `path` is one
 */
export async function checkPlace(path: string): Promise<void> {
  const refuse = (why: string): never => {
    throw new CompanionError('VC_REPORT', `no report can be written to ${path}: ${why}`, {
      hint: 'name a file in a folder that is there and that you may write to',
    });
  };
  if (path === '') refuse('the name is empty');
  const folder = dirname(path);
  try {
    const found = await unlessMissing(stat(path));
    if (found?.isDirectory() === true) refuse('it is a folder');
    if ((await unlessMissing(stat(folder)))?.isDirectory() !== true) refuse(`there is no folder ${folder}`);
    // A file that is there is written itself where none can be made beside it, and replaced where it can't be written.
    if (found !== undefined && (outputAt(found) !== undefined || (await mayWrite(path)))) return;
    await access(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    if (error instanceof CompanionError) throw error;
    refuse(String(codeOf(error) ?? error));
  }
}

async function mayWrite(path: string): Promise<boolean> {
  try {
    await access(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

async function writeTo(path: string, text: string): Promise<void> {
  const found = await unlessMissing(stat(path));
  if (found === undefined) {
    // A link to what is not there yet has nothing that could be left half written.
    const link = await unlessMissing(lstat(path));
    return link === undefined ? replace(path, text) : writeFile(path, text);
  }
  const output = outputAt(found);
  // Opened once more, /dev/stdout of `> FILE` would be written from its start by either.
  if (output !== undefined) return writeOut(output, text);
  return found.isFile() ? replace(await realpath(path), text) : writeFile(path, text);
}

async function replace(path: string, text: string): Promise<void> {
  const draft = `${path}.${randomBytes(4).toString('hex')}.part`;
  try {
    await writeFile(draft, text);
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    if (full.includes(codeOf(error))) throw error;
    // Nothing can be made beside it, or put in its place, as where a single file is mounted.
    await writeFile(path, text);
  }
}

async function unlessMissing(look: Promise<Stats>): Promise<Stats | undefined> {
  try {
    return await look;
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return undefined;
    throw error;
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}

/** Our own output, if that is what was found. */
function outputAt(found: Stats): NodeJS.WriteStream | undefined {
  return [process.stdout, process.stderr].find(({ fd }) => isOpenAs(found, fd));
}

function isOpenAs({ dev, ino }: Stats, fd: number): boolean {
  try {
    const open = fstatSync(fd);
    return open.dev === dev && open.ino === ino;
  } catch {
    // Closed by whoever started us.
    return false;
  }
}

function writeOut(stream: NodeJS.WriteStream, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(text, (error) => (error ? reject(error) : resolve()));
  });
}
