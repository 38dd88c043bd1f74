/** The files of a saved VM: written by a device server or QEMU, looked at again, and given back. */
import { type FileHandle, open } from 'node:fs/promises';
import { CompanionError } from '../../errors.ts';
import { crc32 } from '../../migration/stream/crc32.ts';
import type { DevicePeer } from '../device-peer.ts';
import type { SavedFile } from './manifest.ts';

/** Bytes that are read, written or summed in one go. */
const pieceBytes = 1024 * 1024;

/** What running out of room comes to. */
const full: readonly unknown[] = ['ENOSPC', 'EDQUOT', 'EFBIG'];

/** The error of a file that can't be written. */
export function notWritten(path: string, cause: unknown): CompanionError {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new CompanionError('VC_SAVE', `${path} can't be written: ${reason}`, {
    cause,
    hint: full.includes(code) ? 'save it where there is more room' : 'save it where you may write',
  });
}

/** Writes all that a device in STOP_COPY has to give. */
export async function writeState(peer: DevicePeer, path: string): Promise<SavedFile> {
  const size = Math.min(pieceBytes, peer.maxTransfer);
  let bytes = 0;
  let sum = 0;
  await withFile(path, 'wx', async (file) => {
    for (;;) {
      const chunk = await peer.read(size);
      if (chunk.length === 0) break;
      await file.writev([chunk]).catch((error: unknown) => {
        throw notWritten(path, error);
      });
      bytes += chunk.length;
      sum = crc32(chunk, sum);
    }
    await file.sync();
  });
  return { bytes, crc32: sum };
}

/** Gives a device in RESUMING what was written. */
export async function loadState(peer: DevicePeer, path: string): Promise<void> {
  const size = Math.min(pieceBytes, peer.maxTransfer);
  await eachPiece(path, size, (piece) => peer.write(piece));
}

/** Length and sum of a file that another process has written, which is on its disk then. */
export async function sumUp(path: string, signal?: AbortSignal): Promise<SavedFile> {
  let bytes = 0;
  let sum = 0;
  await eachPiece(path, pieceBytes, (piece) => {
    signal?.throwIfAborted();
    bytes += piece.length;
    sum = crc32(piece, sum);
  });
  return { bytes, crc32: sum };
}

/** Has on its disk what others have written. */
export async function syncFile(path: string): Promise<void> {
  await withFile(path, 'r', (file) => file.sync());
}

/** @throws CompanionError (VC_SAVED_VM) unless the file is as it was saved */
export async function checkFile(path: string, saved: SavedFile, signal?: AbortSignal): Promise<void> {
  let found: SavedFile;
  try {
    found = await sumUp(path, signal);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error)) throw error;
    throw new CompanionError('VC_SAVED_VM', `${path} can't be read: ${error.message}`, { cause: error });
  }
  if (found.bytes !== saved.bytes)
    throw new CompanionError(
      'VC_SAVED_VM',
      `${path} has ${found.bytes} bytes, and had ${saved.bytes} when the VM was saved`,
      { hint: 'was it copied whole?' },
    );
  if (found.crc32 !== saved.crc32)
    throw new CompanionError(
      'VC_SAVED_VM',
      `${path} is not as it was when the VM was saved: its sum differs`,
    );
}

async function eachPiece(
  path: string,
  size: number,
  take: (piece: Buffer) => Promise<void> | void,
): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(size);
  await withFile(path, 'r', async (file) => {
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, size);
      if (bytesRead === 0) return;
      await take(buffer.subarray(0, bytesRead));
    }
  });
}

async function withFile<T>(path: string, flags: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, flags, 0o600);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}
