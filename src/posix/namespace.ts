import { check } from './errno.ts';
import { closeFd, open } from './files.ts';
import { openFlag } from './layout.ts';
import { libc } from './libc.ts';

/** `CLONE_NEWNET` (linux/sched.h): the descriptor must be of a network namespace. */
const CLONE_NEWNET = 0x40000000;

/**
 * Runs `use` with the calling thread in the network namespace of the file `path` (`/run/netns/NAME`,
 * `/proc/PID/ns/net`), and goes back. What `use` opens stays there; it must not wait for promises.
 *
 * @throws PosixError ENOENT (no such namespace), EPERM (needs CAP_SYS_ADMIN)
 */
export function inNetworkNamespace<T>(path: string, use: () => T): T {
  const home = open('/proc/thread-self/ns/net', openFlag.RDONLY);
  try {
    const target = open(path, openFlag.RDONLY);
    try {
      check(
        libc.setns(target, CLONE_NEWNET),
        `enter network namespace ${path}`,
        'this needs CAP_SYS_ADMIN: run as root, or in a user namespace of your own (unshare -Urn)',
      );
    } finally {
      closeFd(target);
    }
    try {
      return use();
    } finally {
      check(libc.setns(home, CLONE_NEWNET), 'leave network namespace');
    }
  } finally {
    closeFd(home);
  }
}
