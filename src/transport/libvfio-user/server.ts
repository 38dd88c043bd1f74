import { LimitedLog } from '../../limited-log.ts';
import type { Logger } from '../../log.ts';
import { type LibvfioUser, locateLibvfioUser } from '../../setup/libvfio-user.ts';
import { ClientSeat } from '../client-seat.ts';
import { connectionOptions, type ServerOptions } from '../server-options.ts';
import { VfuContext } from './context.ts';
import { DeviceAdapter } from './device-adapter.ts';
import { LibvfioUserError } from './errors.ts';
import { syslog } from './layout.ts';
import { bindLibrary } from './library.ts';
import { Session } from './session.ts';

export interface LibvfioUserServerOptions extends ServerOptions {
  /** Default: `requireLibvfioUser()`. */
  readonly library?: LibvfioUser;
  /** How long the library may wait for a client that stops in the middle of a message; default 2000 ms. */
  readonly socketTimeoutMs?: number;
  /**
   * How long a message may take to arrive whole before the library gets what there is of it; default 1000 ms. One that
   * is longer than the client's socket buffer never does.
   */
  readonly messagePatienceMs?: number;
}

/** The library that this transport needs; throws with the way to get one. */
export function requireLibvfioUser(): LibvfioUser {
  const library = locateLibvfioUser();
  if (library !== undefined) return library;
  throw new LibvfioUserError('there is no libvfio-user to serve with', {
    hint: 'run make libvfio-user, which builds the copy in Debian’s QEMU source, or set LIBVFIO_USER to a libvfio-user.so',
  });
}

/** Serves one device to one client at a time through libvfio-user, client after client. */
export class LibvfioUserServer {
  readonly library: LibvfioUser;
  readonly #context: VfuContext;
  readonly #seat: ClientSeat<Session>;

  /**
   * Listens at once.
   *
   * @throws LibvfioUserError, SetupError when there is no library or it refuses the device; PosixError EADDRINUSE when
   *   the path is taken
   */
  constructor(options: LibvfioUserServerOptions) {
    const { reactor, device, path, onClientGone, socketTimeoutMs = 2000, messagePatienceMs = 1000 } = options;
    this.library = options.library ?? requireLibvfioUser();
    const log = options.log.child({ socket: 'device' });
    const limited = new LimitedLog(log, () => reactor.now());
    const adapter = new DeviceAdapter(device, log, limited);
    const library = bindLibrary(this.library.path, this.library.generation);
    const context = new VfuContext(library, device, adapter, logLevel(options.log));
    this.#context = context;
    const patience = { socketTimeoutMs, messagePatienceMs };
    const common = { ...connectionOptions(options), ...patience, context, adapter, log, limited };
    const serve = (fd: number, onEnd: (session: Session) => void) => new Session({ ...common, fd, onEnd });
    try {
      this.#seat = new ClientSeat({ reactor, path, log, serve, onClientGone });
    } catch (error) {
      context.destroy();
      throw error;
    }
  }

  get connected(): boolean {
    return this.#seat.taken;
  }

  /** Serves a client on a connected socket, which becomes the server's. Throws when there is one already. */
  adopt(fd: number): void {
    this.#seat.adopt(fd);
  }

  /** Ends the client's connection, stops listening, removes the socket file, frees the library's context. */
  close(): void {
    if (this.#seat.close()) this.#context.destroy();
  }
}

/** What the library need not even format. It calls client errors errors; they are warnings here. */
function logLevel(log: Logger): number {
  if (log.isLevelEnabled('trace')) return syslog.debug;
  if (log.isLevelEnabled('debug')) return syslog.info;
  return log.isLevelEnabled('warn') ? syslog.warning : syslog.error;
}
