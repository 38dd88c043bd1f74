import { unlinkSync } from 'node:fs';
import type { Logger } from '../../log.ts';
import { type Reactor, ready, type Watch } from '../../loop/types.ts';
import { acceptUnix, closeFd, listenUnix } from '../../posix/index.ts';
import { type LibvfioUser, locateLibvfioUser } from '../../setup/libvfio-user.ts';
import { LimitedLog } from '../native/limited-log.ts';
import type { ServedDevice } from '../served-device.ts';
import { VfuContext } from './context.ts';
import { DeviceAdapter } from './device-adapter.ts';
import { LibvfioUserError } from './errors.ts';
import { syslog } from './layout.ts';
import { bindLibrary } from './library.ts';
import { Session } from './session.ts';

/** As far as both transports have them, options mean what `NativeServerOptions` says. */
export interface LibvfioUserServerOptions {
  readonly reactor: Reactor;
  readonly device: ServedDevice;
  /** Where to listen. Undefined: nowhere, clients come by `adopt()`. */
  readonly path?: string;
  readonly log: Logger;
  /** Default: `requireLibvfioUser()`. */
  readonly library?: LibvfioUser;
  readonly dmaWindow?: number;
  readonly dmaBatchWindow?: number;
  readonly dmaTimeoutMs?: number;
  readonly negotiationTimeoutMs?: number;
  /** How long the library may wait for a client that stops in the middle of a message; default 2000 ms. */
  readonly socketTimeoutMs?: number;
  /**
   * How long a message may take to arrive whole before the library gets what there is of it; default 1000 ms. One that
   * is longer than the client's socket buffer never does.
   */
  readonly messagePatienceMs?: number;
  readonly whileWaiting?: () => void;
  readonly onClientGone?: () => void;
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
  readonly #options: LibvfioUserServerOptions;
  readonly #limited: LimitedLog;
  readonly #adapter: DeviceAdapter;
  readonly #context: VfuContext;
  readonly #listenFd: number | undefined;
  readonly #watch: Watch | undefined;
  #session: Session | undefined;
  #closed = false;

  /**
   * Listens at once.
   *
   * @throws LibvfioUserError, SetupError when there is no library or it refuses the device; PosixError EADDRINUSE when
   *   the path is taken
   */
  constructor(options: LibvfioUserServerOptions) {
    const { reactor, device, path } = options;
    this.#options = options;
    this.library = options.library ?? requireLibvfioUser();
    const log = options.log.child({ socket: 'device' });
    this.#limited = new LimitedLog(log, () => reactor.now());
    this.#adapter = new DeviceAdapter(device, log, this.#limited);
    const library = bindLibrary(this.library.path, this.library.generation);
    this.#context = new VfuContext(library, device, this.#adapter, logLevel(options.log));
    if (path === undefined) return;
    try {
      const listenFd = listenUnix(path);
      this.#listenFd = listenFd;
      this.#watch = reactor.watch(listenFd, ready.read, () => this.#accept(listenFd));
    } catch (error) {
      this.#context.destroy();
      throw error;
    }
  }

  get connected(): boolean {
    return this.#session?.open === true;
  }

  /** Serves a client on a connected socket, which becomes the server's. Throws when there is one already. */
  adopt(fd: number): void {
    const { reactor, device, log, whileWaiting } = this.#options;
    if (this.#session !== undefined) throw new Error('a client is being served already');
    this.#session = new Session({
      fd,
      reactor,
      device,
      context: this.#context,
      adapter: this.#adapter,
      log: log.child({ socket: 'device' }),
      limited: this.#limited,
      dmaWindow: this.#options.dmaWindow ?? 64,
      dmaBatchWindow: this.#options.dmaBatchWindow ?? 256,
      dmaTimeoutMs: this.#options.dmaTimeoutMs ?? 5000,
      socketTimeoutMs: this.#options.socketTimeoutMs ?? 2000,
      messagePatienceMs: this.#options.messagePatienceMs ?? 1000,
      negotiationTimeoutMs: this.#options.negotiationTimeoutMs ?? 10_000,
      whileWaiting,
      onEnd: (session) => {
        if (this.#session === session) this.#session = undefined;
        if (!this.#closed) this.#options.onClientGone?.();
      },
    });
  }

  /** Ends the client's connection, stops listening, removes the socket file, frees the library's context. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#session?.close();
    this.#watch?.close();
    this.#context.destroy();
    if (this.#listenFd === undefined) return;
    closeFd(this.#listenFd);
    try {
      if (this.#options.path !== undefined) unlinkSync(this.#options.path);
    } catch {
      // Gone already: somebody cleaned up before us.
    }
  }

  #accept(listenFd: number): void {
    for (let fd = acceptUnix(listenFd); fd !== undefined; fd = acceptUnix(listenFd)) {
      // The client before this one may have gone without our having looked.
      this.#session?.checkAlive();
      if (this.#session === undefined) this.adopt(fd);
      else {
        this.#options.log.warn({ socket: 'device' }, 'second client refused: one is being served already');
        closeFd(fd);
      }
    }
  }
}

/** What the library need not even format. It calls client errors errors; they are warnings here. */
function logLevel(log: Logger): number {
  if (log.isLevelEnabled('trace')) return syslog.debug;
  if (log.isLevelEnabled('debug')) return syslog.info;
  return log.isLevelEnabled('warn') ? syslog.warning : syslog.error;
}
