import { check } from './errno.ts';
import { closeFd } from './files.ts';
import { TFD_CLOEXEC, TFD_NONBLOCK, timespec } from './layout.ts';
import { libc } from './libc.ts';
import { putWord, rawArea } from './raw.ts';

const CLOCK_MONOTONIC = 1;
const NS_PER_SECOND = 1e9;
/** `struct itimerspec`: interval, then first expiry. */
const setting = rawArea(2 * timespec.size);

/** A one-shot timer as a descriptor (timerfd_create(2)): readable once it has expired, until armed or disarmed. */
export class TimerFd {
  readonly fd = check(libc.timerfdCreate(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), 'timerfd_create');

  /** Expires once, `delayNs` (above 0) nanoseconds from now; 0 disarms. */
  arm(delayNs: number): void {
    const seconds = Math.floor(delayNs / NS_PER_SECOND);
    putWord(setting.bytes, timespec.size + timespec.sec, seconds);
    putWord(setting.bytes, timespec.size + timespec.nsec, Math.floor(delayNs - seconds * NS_PER_SECOND));
    check(libc.timerfdSettime(this.fd, 0, setting.address, 0), 'timerfd_settime');
  }

  close(): void {
    closeFd(this.fd);
  }
}
