import { silentLogger } from '../../src/log.ts';
import { createReactor } from '../../src/loop/index.ts';
import { socketPair } from '../../src/posix/index.ts';
import { type LibvfioUser, libraryVariable, locateLibvfioUser } from '../../src/setup/libvfio-user.ts';
import { LibvfioUserServer } from '../../src/transport/libvfio-user/index.ts';
import { VfioUserClient } from '../../src/vfio-user/client/index.ts';
import type { ServerUnderTest } from './harness.ts';

/** Rounds of the loop that are enough for the server to take in all that was sent. */
const rounds = 8;

/** The libraries that can be had here: the one that `make libvfio-user` built, and that of `$LIBVFIO_USER`. */
export function librariesHere(): readonly LibvfioUser[] {
  const built = locateLibvfioUser({ ...process.env, [libraryVariable]: '' });
  const named = process.env[libraryVariable] ? locateLibvfioUser() : undefined;
  const all = [built, named].filter((library) => library !== undefined);
  return all.filter(({ path }, i) => all.findIndex((other) => other.path === path) === i);
}

/** The C library of one generation as a server under test. */
export function libvfioUserServer(library: LibvfioUser): ServerUnderTest {
  return {
    name: `libvfio-user ${library.generation}`,
    kind: 'libvfio-user',
    generation: library.generation,
    serve(device, options = {}) {
      const reactor = createReactor({ busyWaitNs: 0 });
      const clients: VfioUserClient[] = [];
      const turn = () => {
        for (let i = 0; i < rounds; i++) reactor.turn(0);
      };
      const { dmaWindow, dmaBatchWindow, dmaTimeoutMs, negotiationTimeoutMs } = options;
      const server = new LibvfioUserServer({
        library,
        reactor,
        device,
        log: options.log ?? silentLogger,
        dmaTimeoutMs: dmaTimeoutMs ?? 2000,
        socketTimeoutMs: 100,
        ...(dmaWindow !== undefined && { dmaWindow }),
        ...(dmaBatchWindow !== undefined && { dmaBatchWindow }),
        ...(negotiationTimeoutMs !== undefined && { negotiationTimeoutMs }),
        whileWaiting: () => {
          for (const client of clients) if (client.open) client.poll();
        },
      });
      const raw: ReturnType<ServerUnderTest['serve']>['raw'] = (clientOptions = {}) => {
        const [ours, theirs] = socketPair();
        server.adopt(ours);
        const client = VfioUserClient.raw(theirs, { pump: turn, ...clientOptions });
        clients.push(client);
        return client;
      };
      return {
        raw,
        connect(clientOptions) {
          const client = raw(clientOptions);
          client.negotiate();
          return client;
        },
        turn,
        close() {
          for (const client of clients) client.close();
          turn();
          server.close();
          reactor.close();
        },
      };
    },
  };
}
