import { fstatSync } from 'node:fs';
import { errno } from '../errors.ts';
import { check, PosixError } from './errno.ts';
import { fcntlCommand, MFD_ALLOW_SEALING, MFD_CLOEXEC, openFlag, seal, seek } from './layout.ts';
import { AddressCache, lastErrno, libc } from './libc.ts';

const readAddress = new AddressCache();
const writeAddress = new AddressCache();
const ioctlAddress = new AddressCache();

/** Refuses a range outside `buffer`: the kernel would write over whatever lies there. */
export function checkRange(buffer: Uint8Array, at: number, length: number): void {
  if (!(at >= 0 && length >= 0 && at + length <= buffer.length))
    throw new RangeError(`bytes ${at}+${length} are outside a buffer of ${buffer.length}`);
}

/** Paths go to C as NUL-terminated strings; one with a NUL inside would name another file. */
export function checkPath(path: string, call: string): void {
  if (path === '' || path.includes('\0'))
    throw new PosixError(`${call} ${JSON.stringify(path)}`, errno.EINVAL);
}

/** Opens `path`; `flags` of `openFlag`, close-on-exec added. */
export function open(path: string, flags: number, mode = 0o600): number {
  checkPath(path, 'open');
  return check(libc.open(path, flags | openFlag.CLOEXEC, mode), `open ${path}`);
}

/** Closes a descriptor. Throws EBADF: closing twice is a bug that would hit somebody else's descriptor. */
export function closeFd(fd: number): void {
  // EINTR: Linux has released the descriptor all the same.
  if (libc.close(fd) === -1 && lastErrno() === errno.EBADF) throw new PosixError(`close ${fd}`, errno.EBADF);
}

/** A second descriptor for the same open file, close-on-exec. */
export function dupFd(fd: number): number {
  return check(libc.fcntl(fd, fcntlCommand.DUPFD_CLOEXEC, 0), `dup ${fd}`);
}

/** Makes `to`, an open descriptor, refer to the same open file as `from`; what it was is closed. */
export function replaceFd(from: number, to: number): void {
  check(libc.dup3(from, to, openFlag.CLOEXEC), `dup3 ${from} ${to}`);
}

/** Size of the file in bytes; throws EBADF for what is no descriptor. */
export function fstatSize(fd: number): number {
  try {
    return fstatSync(fd).size;
  } catch (error) {
    // Node refuses a negative number before it asks the system.
    throw new PosixError(`fstat ${fd}`, -((error as NodeJS.ErrnoException).errno ?? -errno.EBADF));
  }
}

/** Whether the open file behind `fd` has O_NONBLOCK. */
export function isNonBlocking(fd: number): boolean {
  return (check(libc.fcntl(fd, fcntlCommand.GETFL, 0), `fcntl ${fd}`) & openFlag.NONBLOCK) !== 0;
}

/** Anonymous shared memory of `size` bytes as a file (memfd); `name` shows in /proc only. */
export function memfdCreate(name: string, size: number): number {
  const fd = check(libc.memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), `memfd_create ${name}`);
  try {
    ftruncate(fd, size);
  } catch (error) {
    libc.close(fd);
    throw error;
  }
  return fd;
}

/** Where the next byte at or after `at` is that is not in a hole of the file; Infinity when there is none. Moves the file's offset. */
export function nextData(fd: number, at: number): number {
  const found = libc.lseek(fd, at, seek.DATA);
  if (found >= 0) return found;
  const error = lastErrno();
  if (error === errno.ENXIO) return Number.POSITIVE_INFINITY;
  throw new PosixError(`lseek ${fd}`, error);
}

export function ftruncate(fd: number, size: number): void {
  check(libc.ftruncate(fd, size), `ftruncate ${fd}`);
}

/**
 * Fixes the size of a memfd for good. Do so before a descriptor is handed to a peer that must not be able
 * to shrink it: touching a mapping beyond the end of its file kills the process (SIGBUS).
 */
export function sealSize(fd: number): void {
  check(libc.fcntl(fd, fcntlCommand.ADD_SEALS, seal.SHRINK | seal.GROW | seal.SEAL), `F_ADD_SEALS ${fd}`);
}

/** Whether `fd` is a memfd that nobody can shrink; false for every other kind of descriptor. */
export function isSizeSealed(fd: number): boolean {
  const seals = libc.fcntl(fd, fcntlCommand.GET_SEALS, 0);
  return seals !== -1 && (seals & seal.SHRINK) !== 0;
}

/** As read(2): bytes read, 0 at the end, -EAGAIN when a non-blocking descriptor has nothing. */
export function read(fd: number, buffer: Uint8Array, at = 0, length = buffer.length - at): number {
  checkRange(buffer, at, length);
  return transferred(libc.read(fd, readAddress.of(buffer) + at, length), 'read', fd);
}

/** As write(2): bytes written (may be fewer than asked for), or -EAGAIN. */
export function write(fd: number, buffer: Uint8Array, at = 0, length = buffer.length - at): number {
  checkRange(buffer, at, length);
  return transferred(libc.write(fd, writeAddress.of(buffer) + at, length), 'write', fd);
}

/**
 * As ioctl(2). `argument` is a number, or a buffer whose address is passed: it must be as large as the
 * request's structure, which nothing can check here.
 */
export function ioctl(fd: number, request: number, argument: Uint8Array | number = 0): number {
  const value = typeof argument === 'number' ? argument : ioctlAddress.of(argument);
  return check(libc.ioctl(fd, request, value), `ioctl ${fd} 0x${request.toString(16)}`);
}

function transferred(result: number, call: string, fd: number): number {
  if (result >= 0) return result;
  const error = lastErrno();
  if (error === errno.EAGAIN || error === errno.EINTR) return -errno.EAGAIN;
  throw new PosixError(`${call} ${fd}`, error);
}

/** flock(2) */
const lock = { SHARED: 1, EXCLUSIVE: 2, NO_WAIT: 4 } as const;

/**
 * Joins those who have this file in use together, until the descriptor is closed.
 *
 * @param prepare what the first of them does before the others come; where files can't be locked, everybody is the first
 */
export function useTogether(fd: number, prepare: () => void): void {
  const joins = libc.flock(fd, lock.EXCLUSIVE | lock.NO_WAIT) === -1 && lastErrno() === errno.EAGAIN;
  if (!joins) prepare();
  libc.flock(fd, lock.SHARED);
}
