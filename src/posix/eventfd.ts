import { readlinkSync } from 'node:fs';
import { errno, RequestError } from '../errors.ts';
import { ready } from '../loop/types.ts';
import { pollFd } from './epoll.ts';
import { check, PosixError } from './errno.ts';
import { isNonBlocking } from './files.ts';
import { EFD_CLOEXEC, EFD_NONBLOCK } from './layout.ts';
import { lastErrno, libc } from './libc.ts';
import { rawArea } from './raw.ts';

/** An eventfd transfers one 64-bit count per read or write (eventfd(2)). */
const COUNT_SIZE = 8;
const one = rawArea(COUNT_SIZE);
one.bytes.writeBigUInt64LE(1n);
const drained = rawArea(COUNT_SIZE);

/**
 * Adopted descriptors that block. They stay so: the flag belongs to the open file, which the peer shares, and a
 * peer that waits by reading (libvfio-user's samples/client) would get EAGAIN. A stale number costs a poll.
 */
const blocking = new Set<number>();

/** A new eventfd with count 0, non-blocking and close-on-exec. */
export function eventfdCreate(): number {
  return check(libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd');
}

/**
 * Makes sure that a descriptor from a peer is an eventfd, and that it is polled before it is signalled or drained if
 * that could block: a full one, or a pipe in its place, would stop the device loop for ever. One that does not block is
 * trusted to stay so (docs/decisions/0012-a-clients-eventfds.md). The descriptor stays the caller's.
 *
 * @throws RequestError EINVAL, as the kernel's VFIO answers (`eventfd_ctx_fdget`)
 */
export function adoptEventfd(fd: number): void {
  let kind: string;
  try {
    kind = readlinkSync(`/proc/self/fd/${fd}`);
  } catch (error) {
    throw new RequestError(errno.EBADF, `descriptor ${fd} is not open`, { cause: error });
  }
  if (kind !== 'anon_inode:[eventfd]')
    throw new RequestError(errno.EINVAL, `a peer's descriptor is ${kind}, no eventfd`);
  if (isNonBlocking(fd)) blocking.delete(fd);
  else blocking.add(fd);
}

/** Adds 1 to the count, unless it is full. Does not block on a descriptor made or adopted here. */
export function eventfdSignal(fd: number): void {
  if (blocking.has(fd) && (pollFd(fd, ready.write, 0) & ready.write) === 0) return;
  if (libc.write(fd, one.address, COUNT_SIZE) === COUNT_SIZE) return;
  const error = lastErrno();
  // A full counter is signalled already.
  if (error !== errno.EAGAIN && error !== errno.EINTR) throw new PosixError(`signal eventfd ${fd}`, error);
}

/** Takes the count to 0; whether it had been signalled. */
export function eventfdDrain(fd: number): boolean {
  if (blocking.has(fd) && (pollFd(fd, ready.read, 0) & ready.read) === 0) return false;
  if (libc.read(fd, drained.address, COUNT_SIZE) === COUNT_SIZE) return true;
  const error = lastErrno();
  if (error !== errno.EAGAIN && error !== errno.EINTR) throw new PosixError(`drain eventfd ${fd}`, error);
  return false;
}
