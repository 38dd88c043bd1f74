import { type LibvfioUser, libraryVariable, locateLibvfioUser } from '../../src/setup/libvfio-user.ts';
import { LibvfioUserServer } from '../../src/transport/libvfio-user/index.ts';
import type { CreateServer } from './harness.ts';

/** The libraries that can be had here: the one that `make libvfio-user` built, and that of `$LIBVFIO_USER`. */
export function librariesHere(): readonly LibvfioUser[] {
  const built = locateLibvfioUser({ ...process.env, [libraryVariable]: '' });
  const named = process.env[libraryVariable] ? locateLibvfioUser() : undefined;
  const all = [built, named].filter((library) => library !== undefined);
  return all.filter(({ path }, i) => all.findIndex((other) => other.path === path) === i);
}

/** Servers through `library`. Options of the native server that the library has no use for are left out. */
export function throughLibrary(library: LibvfioUser): CreateServer {
  return ({ reactor, device, log, whileWaiting, ...options }) => {
    const { dmaWindow, dmaBatchWindow, dmaTimeoutMs, negotiationTimeoutMs, messagePatienceMs = 20 } = options;
    return new LibvfioUserServer({
      ...{ library, reactor, device, log, socketTimeoutMs: 100, messagePatienceMs },
      ...{ whileWaiting, dmaWindow, dmaBatchWindow, dmaTimeoutMs, negotiationTimeoutMs },
    });
  };
}
