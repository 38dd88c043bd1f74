/** The files of a saved VM: written by a device server or QEMU, looked at again, and given back. */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { CompanionError, notOursHint, reasonOf } from '../../errors.ts';
import { crc32 } from '../../migration/stream/crc32.ts';
import { nextData } from '../../posix/index.ts';
import type { DevicePeer } from '../device-peer.ts';
import type { StateReader } from '../switchover/compare-state.ts';
import type { SavedFile } from './manifest.ts';

/** Bytes that are read, written or summed in one go. Part of what a sum means. */
const pieceBytes = 1024 * 1024;

/** What running out of room comes to. */
const full: readonly unknown[] = ['ENOSPC', 'EDQUOT', 'EFBIG'];

/** Of a file that is not there, or not all of it. */
const copiedHint = 'was the folder copied whole?';

/** The error of a file that can't be written. */
export function notWritten(path: string, cause: unknown): CompanionError {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  const reason = reasonOf(cause);
  return new CompanionError('VC_SAVE', `${path} can't be written: ${reason}`, {
    cause,
    hint: full.includes(code) ? 'save it where there is more room' : 'save it where you may write',
  });
}

/** Writes all that a device in STOP_COPY has to give. */
export async function writeState(peer: DevicePeer, path: string): Promise<SavedFile> {
  const size = Math.min(pieceBytes, peer.maxTransfer);
  await withFile(path, 'wx', async (file) => {
    for (;;) {
      const chunk = await peer.read(size);
      if (chunk.length === 0) break;
      await file.writeFile(chunk).catch((error: unknown) => {
        throw notWritten(path, error);
      });
    }
  });
  return settle(path);
}

/** Gives a device in RESUMING what was written. */
export async function loadState(peer: DevicePeer, path: string): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(Math.min(pieceBytes, peer.maxTransfer));
  await withFile(path, 'r', async (file) => {
    for (;;) {
      const { bytesRead } = await file.read(buffer);
      if (bytesRead === 0) return;
      await peer.write(buffer.subarray(0, bytesRead));
    }
  });
}

/** Lets `use` read a state that was written as it would read that of a device. */
export async function readingFile<T>(path: string, use: (state: StateReader) => Promise<T>): Promise<T> {
  return withFile(path, 'r', (file) =>
    use({
      maxTransfer: pieceBytes,
      read: async (most) => {
        const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(most));
        return buffer.subarray(0, bytesRead);
      },
    }),
  );
}

/** Has a file on its disk that has been written, by another process or by this one; returns what tells whether it is still the same. */
export async function settle(path: string, signal?: AbortSignal): Promise<SavedFile> {
  return withFile(path, 'r', async (file) => {
    await file.sync();
    return sumUp(file, signal);
  });
}

/** @throws CompanionError (VC_SAVED_VM) unless the file is as it was saved */
export async function checkFile(path: string, saved: SavedFile, signal?: AbortSignal): Promise<void> {
  const wrong = (what: string, details = {}): CompanionError =>
    new CompanionError('VC_SAVED_VM', `${path} ${what}`, details);
  await withFile(path, 'r', async (file) => {
    const { size } = await file.stat();
    if (size !== saved.bytes)
      throw wrong(`has ${size} bytes, and had ${saved.bytes} when the VM was saved`, { hint: copiedHint });
    const { crc32: sum } = await sumUp(file, signal);
    if (sum !== saved.crc32) throw wrong('is not as it was when the VM was saved: its sum differs');
  }).catch((error: unknown) => {
    if (error instanceof CompanionError || !(error instanceof Error && 'code' in error)) throw error;
    const hint = error.code === 'EACCES' ? notOursHint : copiedHint;
    throw wrong(`can't be read: ${String(error.code)}`, { hint, cause: error });
  });
}

/**
 * Length and sum of a file: the CRC-32 of its pieces, each behind its offset, without those that are all zero. So it does not matter whether
 * a copy has holes where the original had.
 */
async function sumUp(file: FileHandle, signal?: AbortSignal): Promise<SavedFile> {
  const { size } = await file.stat();
  const buffer = Buffer.allocUnsafeSlow(pieceBytes);
  const zeros = Buffer.alloc(pieceBytes);
  const place = Buffer.alloc(8);
  let sum = 0;
  for (let at = 0; at < size; at += pieceBytes) {
    signal?.throwIfAborted();
    const data = nextData(file.fd, at);
    if (data >= size) break;
    at = data - (data % pieceBytes);
    const { bytesRead } = await file.read(buffer, 0, pieceBytes, at);
    const piece = buffer.subarray(0, bytesRead);
    if (piece.equals(zeros.subarray(0, bytesRead))) continue;
    place.writeBigUInt64LE(BigInt(at));
    sum = crc32(piece, crc32(place, sum));
  }
  return { bytes: size, crc32: sum };
}

/**
 * Opens what is to be read, a file and nothing else: for a pipe's writer one would wait without end.
 * @throws CompanionError (VC_SAVED_VM) of anything else
 */
export async function openFile(path: string): Promise<FileHandle> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  if ((await file.stat()).isFile()) return file;
  await file.close();
  throw new CompanionError('VC_SAVED_VM', `${path} is no file`, { hint: copiedHint });
}

async function withFile<T>(
  path: string,
  flags: 'r' | 'wx',
  use: (file: FileHandle) => Promise<T>,
): Promise<T> {
  const file = flags === 'r' ? await openFile(path) : await open(path, flags, 0o600);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}
