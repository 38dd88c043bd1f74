import { errno, notOursHint } from '../errors.ts';
import { check, PosixError } from './errno.ts';
import { closeFd, open } from './files.ts';
import { openFlag } from './layout.ts';
import { libc } from './libc.ts';

/** `CLONE_NEWNET` (linux/sched.h): the descriptor must be of a network namespace. */
const CLONE_NEWNET = 0x40000000;

const openHints: ReadonlyMap<number, string> = new Map([
  [
    errno.ENOENT,
    'there is no such namespace: give a name that ip netns lists, or a path as /proc/PID/ns/net',
  ],
  [errno.EACCES, notOursHint],
]);

function openNamespace(path: string): number {
  try {
    return open(path, openFlag.RDONLY);
  } catch (error) {
    if (!(error instanceof PosixError)) throw error;
    throw new PosixError(`open network namespace ${path}`, error.errno, openHints.get(error.errno));
  }
}

/**
 * Runs `use` with the calling thread in the network namespace of the file `path` (`/run/netns/NAME`,
 * `/proc/PID/ns/net`), and goes back. What `use` opens stays there; it must not wait for promises.
 *
 * @throws PosixError ENOENT (no such namespace), EPERM (needs CAP_SYS_ADMIN)
 */
export function inNetworkNamespace<T>(path: string, use: () => T): T {
  const home = open('/proc/thread-self/ns/net', openFlag.RDONLY);
  try {
    const target = openNamespace(path);
    try {
      check(
        libc.setns(target, CLONE_NEWNET),
        `enter network namespace ${path}`,
        'this needs CAP_SYS_ADMIN over it: run as root, or, if it was made in a user namespace (unshare -Urn), in there',
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
