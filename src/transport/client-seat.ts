import type { Logger } from '../log.ts';
import { Listener } from '../loop/listener.ts';
import type { Reactor } from '../loop/types.ts';
import { closeFd, listenUnix } from '../posix/index.ts';
import { TurnedAway } from './turned-away.ts';

/** Clients that are being turned away at a time; further ones find their connection closed. */
const maxTurnedAway = 8;

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

/** The one place for a client that a server has: clients come by a UNIX socket, one after another. */
export class ClientSeat<C extends Connection> {
  readonly #options: ClientSeatOptions<C>;
  readonly #listener: Listener | undefined;
  readonly #turnedAway = new Set<TurnedAway>();
  #connection: C | undefined;
  #closed = false;

  /** Listens at once; throws `PosixError` EADDRINUSE when the path is taken. */
  constructor(options: ClientSeatOptions<C>) {
    this.#options = options;
    const { path, reactor, log } = options;
    if (path === undefined) return;
    const accepted = (fd: number): void => this.#admit(fd);
    this.#listener = new Listener(listenUnix(path), { reactor, log, path, accepted });
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
    for (const client of this.#turnedAway) client.close();
    this.#listener?.close();
    return true;
  }

  #admit(fd: number): void {
    // The client before this one may have gone without our having looked.
    this.#connection?.checkAlive();
    if (this.#connection === undefined) {
      this.adopt(fd);
      return;
    }
    const { log, reactor } = this.#options;
    log.warn('second client refused: one is being served already');
    if (this.#turnedAway.size >= maxTurnedAway) {
      closeFd(fd);
      return;
    }
    const onEnd = (client: TurnedAway): boolean => this.#turnedAway.delete(client);
    this.#turnedAway.add(new TurnedAway({ fd, reactor, onEnd }));
  }
}
