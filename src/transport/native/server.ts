import { unlinkSync } from 'node:fs';
import type { Logger } from '../../log.ts';
import { type Reactor, ready, type Timer, type Watch } from '../../loop/types.ts';
import { acceptUnix, closeFd, listenUnix } from '../../posix/index.ts';
import { defaultOffer, type OfferedCapabilities } from '../../vfio-user/capabilities.ts';
import type { ServedDevice } from '../served-device.ts';
import type { Role } from './handler.ts';
import { Session } from './session.ts';

export interface NativeServerOptions {
  readonly reactor: Reactor;
  readonly device: ServedDevice;
  /** Where to listen. Undefined: nowhere, clients come by `adopt()`. */
  readonly path?: string;
  /**
   * `device`: everything, for QEMU. `migration`: only VERSION, DEVICE_FEATURE, the MIG_* messages and COMPANION,
   * for the orchestrator; the device is not attached to such a client.
   */
  readonly role: Role;
  readonly log: Logger;
  /** Serves COMPANION on the migration socket; makes the server offer `vfio_companion`. Throws to refuse. */
  readonly companion?: (request: unknown) => unknown;
  readonly capabilities?: Partial<OfferedCapabilities>;
  /** DMA messages in flight; default 64. */
  readonly dmaWindow?: number;
  /** Single-byte writes in flight; default 256. */
  readonly dmaBatchWindow?: number;
  /** How long a DMA reply may take; default 5000 ms, as long as QEMU itself waits for one. */
  readonly dmaTimeoutMs?: number;
  /** How long a client may leave its replies unread; default 10,000 ms. */
  readonly outputTimeoutMs?: number;
  /** How long a client may take to send VERSION; default 10,000 ms. */
  readonly negotiationTimeoutMs?: number;
  /** Called while a DMA reply is waited for: lets a test run its client on the same thread. */
  readonly whileWaiting?: () => void;
  /** A client has gone, after `device.detach()`. */
  readonly onClientGone?: () => void;
}

/** Pause after `accept` failed, for want of descriptors: the connection would be reported again at once. */
const acceptPauseNs = 100e6;

/** Serves one device to one client at a time on a UNIX socket, client after client. */
export class NativeServer {
  readonly #options: NativeServerOptions;
  readonly #offer: OfferedCapabilities;
  readonly #listenFd: number | undefined;
  readonly #watch: Watch | undefined;
  readonly #retry: Timer | undefined;
  #session: Session | undefined;
  #closed = false;

  /** Listens at once; throws `PosixError` EADDRINUSE when the path is taken. */
  constructor(options: NativeServerOptions) {
    this.#options = options;
    this.#offer = { ...defaultOffer, companion: options.companion !== undefined, ...options.capabilities };
    if (options.path === undefined) return;
    const listenFd = listenUnix(options.path);
    this.#listenFd = listenFd;
    const watch = options.reactor.watch(listenFd, ready.read, () => this.#accept(listenFd));
    this.#watch = watch;
    this.#retry = options.reactor.timer(() => watch.modify(ready.read));
  }

  /** Whether a client is connected (negotiated or about to). */
  get connected(): boolean {
    return this.#session?.open === true;
  }

  /** Serves a client on a connected socket, which becomes the server's. Throws when there is one already. */
  adopt(fd: number): void {
    const { reactor, device, role, log, companion, whileWaiting } = this.#options;
    if (this.#session !== undefined) throw new Error('a client is being served already');
    this.#session = new Session({
      fd,
      reactor,
      device,
      role,
      log: log.child({ socket: role }),
      offer: this.#offer,
      companion,
      dmaWindow: this.#options.dmaWindow ?? 64,
      dmaBatchWindow: this.#options.dmaBatchWindow ?? 256,
      dmaTimeoutMs: this.#options.dmaTimeoutMs ?? 5000,
      outputTimeoutMs: this.#options.outputTimeoutMs ?? 10_000,
      negotiationTimeoutMs: this.#options.negotiationTimeoutMs ?? 10_000,
      whileWaiting,
      onEnd: (session) => {
        if (this.#session === session) this.#session = undefined;
        if (!this.#closed) this.#options.onClientGone?.();
      },
    });
  }

  /** Ends the client's connection, stops listening, removes the socket file. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#session?.close();
    this.#watch?.close();
    this.#retry?.close();
    if (this.#listenFd === undefined) return;
    closeFd(this.#listenFd);
    try {
      if (this.#options.path !== undefined) unlinkSync(this.#options.path);
    } catch {
      // Gone already: somebody cleaned up before us.
    }
  }

  #accept(listenFd: number): void {
    try {
      for (let fd = acceptUnix(listenFd); fd !== undefined; fd = acceptUnix(listenFd)) this.#admit(fd);
    } catch (error) {
      this.#options.log.error({ err: error, socket: this.#options.role }, 'a client could not be accepted');
      this.#watch?.modify(0);
      this.#retry?.arm(acceptPauseNs);
    }
  }

  #admit(fd: number): void {
    // The client before this one may have gone without our having looked.
    this.#session?.checkAlive();
    if (this.#session === undefined) {
      this.adopt(fd);
      return;
    }
    this.#options.log.warn(
      { socket: this.#options.role },
      'second client refused: one is being served already',
    );
    closeFd(fd);
  }
}
