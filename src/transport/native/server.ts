import { defaultOffer, type OfferedCapabilities } from '../../vfio-user/capabilities.ts';
import { ClientSeat } from '../client-seat.ts';
import { connectionOptions, type ServerOptions } from '../server-options.ts';
import type { Role, ServeCompanion } from './handler.ts';
import { Session } from './session.ts';

export interface NativeServerOptions extends ServerOptions {
  /**
   * `device`: everything, for QEMU. `migration`: only VERSION, DEVICE_FEATURE, the MIG_* messages and COMPANION,
   * for the orchestrator; the device is not attached to such a client.
   */
  readonly role: Role;
  /** Serves COMPANION on the migration socket; makes the server offer `vfio_companion`. Throws to refuse. */
  readonly companion?: ServeCompanion;
  readonly capabilities?: Partial<OfferedCapabilities>;
  /** How long a client may leave its replies unread; default 10,000 ms. */
  readonly outputTimeoutMs?: number;
}

/** Serves one device to one client at a time on a UNIX socket, client after client. */
export class NativeServer {
  readonly #seat: ClientSeat<Session>;

  /** Listens at once; throws `PosixError` EADDRINUSE when the path is taken. */
  constructor(options: NativeServerOptions) {
    const { reactor, path, role, companion, outputTimeoutMs = 10_000, onClientGone } = options;
    const offer = { ...defaultOffer, companion: companion !== undefined, ...options.capabilities };
    const log = options.log.child({ socket: role });
    const common = { ...connectionOptions(options), role, log, offer, companion, outputTimeoutMs };
    this.#seat = new ClientSeat({
      reactor,
      path,
      log,
      serve: (fd, onEnd) => new Session({ ...common, fd, onEnd }),
      onClientGone,
    });
  }

  /** Whether a client is connected (negotiated or about to). */
  get connected(): boolean {
    return this.#seat.taken;
  }

  /** Serves a client on a connected socket, which becomes the server's. Throws when there is one already. */
  adopt(fd: number): void {
    this.#seat.adopt(fd);
  }

  /** Ends the client's connection, stops listening, removes the socket file. */
  close(): void {
    this.#seat.close();
  }
}
