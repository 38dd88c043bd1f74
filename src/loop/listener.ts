import { lstatSync, unlinkSync } from 'node:fs';
import type { Logger } from '../log.ts';
import { acceptUnix, closeFd } from '../posix/index.ts';
import { type Reactor, ready, type Timer, type Watch } from './types.ts';

/** Pause after `accept` failed, for want of descriptors: the connection would be reported again at once. */
const acceptPauseNs = 100e6;
/** Connections taken before other descriptors have their turn: who goes on connecting must not keep the loop here. */
const ACCEPTS_PER_TURN = 16;

export interface ListenerOptions {
  readonly reactor: Reactor;
  readonly log: Logger;
  /** The socket's file, to be removed with it. Undefined: it has none (TCP). */
  readonly path?: string;
  /** Takes a connection, which is its own from then on. */
  readonly accepted: (fd: number) => void;
}

/** A listening socket in the device loop: takes who comes, and leaves nothing behind. */
export class Listener {
  readonly #fd: number;
  readonly #options: ListenerOptions;
  readonly #watch: Watch;
  readonly #retry: Timer;
  /** Which file is this socket's: another one may be at its path by the time it is closed. */
  readonly #file: string | undefined;
  #closed = false;

  /** @param fd listens, and is the listener's from now on */
  constructor(fd: number, options: ListenerOptions) {
    this.#fd = fd;
    this.#options = options;
    this.#file = options.path === undefined ? undefined : fileAt(options.path);
    this.#watch = options.reactor.watch(fd, ready.read, () => this.#accept());
    this.#retry = options.reactor.timer(() => this.#watch.modify(ready.read));
  }

  /** Stops listening and removes the socket's file, unless that is another's by now. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch.close();
    this.#retry.close();
    this.#removeFile();
    closeFd(this.#fd);
  }

  /** While this socket still listens: who comes at the same moment finds the path taken, or free, but never a dead file to replace. */
  #removeFile(): void {
    const { path, log } = this.#options;
    if (path === undefined) return;
    if (fileAt(path) !== this.#file) {
      log.debug({ path }, 'the file of the socket was gone already, or is another’s');
      return;
    }
    try {
      unlinkSync(path);
    } catch (error) {
      log.debug({ path, err: error }, 'the file of the socket could not be removed');
    }
  }

  #accept(): void {
    const { accepted, log } = this.#options;
    try {
      for (let count = 0; count < ACCEPTS_PER_TURN && !this.#closed; count++) {
        const fd = acceptUnix(this.#fd);
        if (fd === undefined) return;
        accepted(fd);
      }
    } catch (error) {
      log.error({ err: error }, 'a client could not be accepted');
      this.#watch.modify(0);
      this.#retry.arm(acceptPauseNs);
    }
  }
}

/** The identity of the file at `path`, undefined when nothing is there. */
function fileAt(path: string): string | undefined {
  try {
    const { dev, ino } = lstatSync(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}
