import { errno } from '../errors.ts';
import { check, PosixError } from './errno.ts';
import { EFD_CLOEXEC, EFD_NONBLOCK } from './layout.ts';
import { lastErrno, libc } from './libc.ts';
import { rawArea } from './raw.ts';

/** An eventfd transfers one 64-bit count per read or write (eventfd(2)). */
const COUNT_SIZE = 8;
const one = rawArea(COUNT_SIZE);
one.bytes.writeBigUInt64LE(1n);
const drained = rawArea(COUNT_SIZE);

/** A new eventfd with count 0, non-blocking and close-on-exec. */
export function eventfdCreate(): number {
  return check(libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd');
}

/**
 * Adds 1 to the count. Never blocks on a descriptor made here; one that a client sent may be blocking and
 * nearly full only if that client has filled it up itself.
 */
export function eventfdSignal(fd: number): void {
  if (libc.write(fd, one.address, COUNT_SIZE) === COUNT_SIZE) return;
  const error = lastErrno();
  // A full counter is signalled already.
  if (error !== errno.EAGAIN && error !== errno.EINTR) throw new PosixError(`signal eventfd ${fd}`, error);
}

/** Takes the count to 0; whether it had been signalled. */
export function eventfdDrain(fd: number): boolean {
  if (libc.read(fd, drained.address, COUNT_SIZE) === COUNT_SIZE) return true;
  const error = lastErrno();
  if (error !== errno.EAGAIN && error !== errno.EINTR) throw new PosixError(`drain eventfd ${fd}`, error);
  return false;
}
