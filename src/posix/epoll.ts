import { errno } from '../errors.ts';
import { ready } from '../loop/types.ts';
import { check, PosixError } from './errno.ts';
import {
  EPOLL_CLOEXEC,
  epollBit,
  epollEvent,
  epollOperation,
  pollEvent,
  pollfd,
  timespec,
} from './layout.ts';
import { epollPwait2, lastErrno, libc } from './libc.ts';
import { putWord, rawArea } from './raw.ts';

const NS_PER_MS = 1e6;
const NS_PER_SECOND = 1e9;
/** Events taken per wait; more than that come with the next one. */
const CAPACITY = 64;

/** Whether timeouts have nanosecond precision (else they are rounded up to milliseconds). Cleared on ENOSYS. */
let precise = epollPwait2 !== undefined;

function toEpoll(interest: number): number {
  return (
    ((interest & ready.read) !== 0 ? epollBit.IN : 0) | ((interest & ready.write) !== 0 ? epollBit.OUT : 0)
  );
}

function fromEpoll(events: number): number {
  return (
    ((events & epollBit.IN) !== 0 ? ready.read : 0) |
    ((events & epollBit.OUT) !== 0 ? ready.write : 0) |
    ((events & (epollBit.HUP | epollBit.ERR | epollBit.RDHUP)) !== 0 ? ready.hangup : 0)
  );
}

/**
 * An epoll set, level-triggered. Each descriptor carries a token (32 bits) of the caller's choice, which
 * tells a reused descriptor number from its predecessor. Waiting fills an internal table; nothing is allocated.
 */
export class Epoll {
  readonly fd = check(libc.epollCreate1(EPOLL_CLOEXEC), 'epoll_create1');
  readonly #one = rawArea(epollEvent.size);
  readonly #events = rawArea(CAPACITY * epollEvent.size);
  readonly #timeout = rawArea(timespec.size);

  /** @param interest `ready` bits; hang-ups are always reported */
  add(fd: number, interest: number, token: number): void {
    this.#control(epollOperation.ADD, fd, interest, token);
  }

  modify(fd: number, interest: number, token: number): void {
    this.#control(epollOperation.MOD, fd, interest, token);
  }

  /** A descriptor that was closed already is gone from the set, which is no error. */
  remove(fd: number): void {
    if (libc.epollCtl(this.fd, epollOperation.DEL, fd, this.#one.address) === 0) return;
    const error = lastErrno();
    if (error !== errno.EBADF && error !== errno.ENOENT) throw new PosixError(`epoll remove ${fd}`, error);
  }

  /** Waits at most `timeoutNs` (negative: for ever; a signal ends it early); returns the number of events. */
  wait(timeoutNs: number): number {
    const count = this.#wait(timeoutNs);
    if (count >= 0) return count;
    const error = lastErrno();
    if (error === errno.EINTR) return 0;
    if (error !== errno.ENOSYS || !precise) throw new PosixError('epoll_wait', error);
    precise = false;
    return this.wait(timeoutNs);
  }

  token(index: number): number {
    return this.#events.bytes.readUInt32LE(index * epollEvent.size + epollEvent.data);
  }

  /** `ready` bits of event `index`. */
  readiness(index: number): number {
    return fromEpoll(this.#events.bytes.readUInt32LE(index * epollEvent.size + epollEvent.events));
  }

  close(): void {
    libc.close(this.fd);
  }

  #wait(timeoutNs: number): number {
    if (timeoutNs > 0 && precise && epollPwait2 !== undefined) {
      const seconds = Math.floor(timeoutNs / NS_PER_SECOND);
      putWord(this.#timeout.bytes, timespec.sec, seconds);
      putWord(this.#timeout.bytes, timespec.nsec, Math.floor(timeoutNs - seconds * NS_PER_SECOND));
      return epollPwait2(this.fd, this.#events.address, CAPACITY, this.#timeout.address, 0);
    }
    const timeoutMs = timeoutNs < 0 ? -1 : Math.min(Math.ceil(timeoutNs / NS_PER_MS), 0x7fffffff);
    return libc.epollWait(this.fd, this.#events.address, CAPACITY, timeoutMs);
  }

  #control(operation: number, fd: number, interest: number, token: number): void {
    this.#one.bytes.writeUInt32LE(toEpoll(interest), epollEvent.events);
    this.#one.bytes.writeUInt32LE(token, epollEvent.data);
    check(libc.epollCtl(this.fd, operation, fd, this.#one.address), `epoll watch ${fd}`);
  }
}

const polled = rawArea(pollfd.size);

/**
 * Waits for one descriptor.
 *
 * @param interest `ready.read | ready.write`
 * @param timeoutMs 0 looks only, -1 waits for ever
 * @returns `ready` bits; 0 when the time is over
 */
export function pollFd(fd: number, interest: number, timeoutMs: number): number {
  const deadline = timeoutMs > 0 ? performance.now() + timeoutMs : 0;
  let left = timeoutMs;
  for (;;) {
    polled.bytes.writeInt32LE(fd, pollfd.fd);
    polled.bytes.writeInt16LE(
      ((interest & ready.read) !== 0 ? pollEvent.IN : 0) |
        ((interest & ready.write) !== 0 ? pollEvent.OUT : 0),
      pollfd.events,
    );
    const count = libc.poll(polled.address, 1, left);
    if (count === 0) return 0;
    if (count === 1) break;
    const error = lastErrno();
    if (error !== errno.EINTR) throw new PosixError(`poll ${fd}`, error);
    if (timeoutMs > 0) left = Math.max(0, Math.ceil(deadline - performance.now()));
  }
  const found = polled.bytes.readInt16LE(pollfd.revents);
  if ((found & pollEvent.NVAL) !== 0) throw new PosixError(`poll ${fd}`, errno.EBADF);
  // POLLIN, POLLOUT, POLLERR and POLLHUP have epoll's values.
  return fromEpoll(found);
}
