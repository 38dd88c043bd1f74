import { unlinkSync } from 'node:fs';
import type { Logger } from '../log.ts';
import { type Reactor, ready, type Timer, type Watch } from '../loop/types.ts';
import { acceptUnix, closeFd, listenUnix } from '../posix/index.ts';

/** A connection, as far as its server deals with it. */
export interface Connection {
  /** Whether the client is there, as far as is known. */
  readonly open: boolean;
  /** Notices a disconnect that has not been reported yet. */
  checkAlive(): void;
  close(): void;
}

export interface ClientSeatOptions<C extends Connection> {
  readonly reactor: Reactor;
  /** Where to listen. Undefined: nowhere, clients come by `adopt()`. */
  readonly path: string | undefined;
  readonly log: Logger;
  /** Serves `fd`, which becomes the connection's; `onEnd` once it is over and nothing of it is on the stack. */
  readonly serve: (fd: number, onEnd: (connection: C) => void) => C;
  readonly onClientGone: (() => void) | undefined;
}

/** Pause after `accept` failed, for want of descriptors: the connection would be reported again at once. */
const acceptPauseNs = 100e6;

/** The one place for a client that a server has: clients come by a UNIX socket, one after another. */
export class ClientSeat<C extends Connection> {
  readonly #options: ClientSeatOptions<C>;
  readonly #listenFd: number | undefined;
  readonly #watch: Watch | undefined;
  readonly #retry: Timer | undefined;
  #connection: C | undefined;
  #closed = false;

  /** Listens at once; throws `PosixError` EADDRINUSE when the path is taken. */
  constructor(options: ClientSeatOptions<C>) {
    this.#options = options;
    if (options.path === undefined) return;
    const listenFd = listenUnix(options.path);
    this.#listenFd = listenFd;
    const watch = options.reactor.watch(listenFd, ready.read, () => this.#accept(listenFd));
    this.#watch = watch;
    this.#retry = options.reactor.timer(() => watch.modify(ready.read));
  }

  /** Whether a client is connected (negotiated or about to). */
  get taken(): boolean {
    return this.#connection?.open === true;
  }

  /** Serves a client on a connected socket. Throws when there is one already. */
  adopt(fd: number): void {
    if (this.#connection !== undefined) throw new Error('a client is being served already');
    this.#connection = this.#options.serve(fd, (connection) => {
      if (this.#connection === connection) this.#connection = undefined;
      if (!this.#closed) this.#options.onClientGone?.();
    });
  }

  /** Ends the client's connection, stops listening, removes the socket file. Returns false when that had been done. */
  close(): boolean {
    if (this.#closed) return false;
    this.#closed = true;
    this.#connection?.close();
    this.#watch?.close();
    this.#retry?.close();
    if (this.#listenFd === undefined) return true;
    closeFd(this.#listenFd);
    try {
      if (this.#options.path !== undefined) unlinkSync(this.#options.path);
    } catch {
      // Gone already: somebody cleaned up before us.
    }
    return true;
  }

  #accept(listenFd: number): void {
    try {
      for (let fd = acceptUnix(listenFd); fd !== undefined; fd = acceptUnix(listenFd)) this.#admit(fd);
    } catch (error) {
      this.#options.log.error({ err: error }, 'a client could not be accepted');
      this.#watch?.modify(0);
      this.#retry?.arm(acceptPauseNs);
    }
  }

  #admit(fd: number): void {
    // The client before this one may have gone without our having looked.
    this.#connection?.checkAlive();
    if (this.#connection === undefined) {
      this.adopt(fd);
      return;
    }
    this.#options.log.warn('second client refused: one is being served already');
    closeFd(fd);
  }
}
