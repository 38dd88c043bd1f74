import { silentLogger } from '../../src/log.ts';
import { createReactor } from '../../src/loop/index.ts';
import { socketPair } from '../../src/posix/index.ts';
import type { LibvfioUser } from '../../src/setup/libvfio-user.ts';
import type { LibraryGeneration } from '../../src/setup/libvfio-user-library.ts';
import { NativeServer, type NativeServerOptions } from '../../src/transport/native/index.ts';
import type { ServedDevice } from '../../src/transport/served-device.ts';
import { type ClientOptions, VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { librariesHere, throughLibrary } from './libvfio-user-server.ts';

/** A server with a device behind it, on the test's own thread. */
export interface RunningServer {
  /** A client that has negotiated. */
  connect(options?: ClientOptions): VfioUserClient;
  /** A client that has not. */
  raw(options?: ClientOptions): VfioUserClient;
  /** Lets the server do what it has to do. */
  turn(): void;
  close(): void;
}

/** Of libvfio-user's transport only: how long a message may take to arrive whole; default 20 ms. */
interface Patience {
  readonly messagePatienceMs?: number;
}

export type ServerOptions = Partial<Omit<NativeServerOptions, 'reactor' | 'device' | 'path'>> & Patience;

/** Makes a server to which clients come by `adopt`. */
export type CreateServer = (options: Omit<NativeServerOptions, 'path'> & Patience) => {
  adopt(fd: number): void;
  close(): void;
};

/** One implementation of the server side; the tables of test/protocol run against each. */
export interface ServerUnderTest {
  /** For titles of tests. */
  readonly name: string;
  readonly kind: 'native' | 'libvfio-user';
  /** Of the library. */
  readonly generation?: LibraryGeneration;
  readonly library?: LibvfioUser;
  readonly create: CreateServer;
  serve(device: ServedDevice, options?: ServerOptions): RunningServer;
}

/** Rounds of the loop that are enough for the server to take in all that was sent. */
const rounds = 8;

function serveWith(create: CreateServer, device: ServedDevice, options: ServerOptions): RunningServer {
  const reactor = createReactor({ busyWaitNs: 0 });
  const clients: VfioUserClient[] = [];
  const turn = () => {
    for (let i = 0; i < rounds; i++) reactor.turn(0);
  };
  const server = create({
    role: 'device',
    log: silentLogger,
    dmaTimeoutMs: 2000,
    whileWaiting: () => {
      for (const client of clients) if (client.open) client.poll();
    },
    ...options,
    reactor,
    device,
  });
  const raw = (clientOptions: ClientOptions = {}) => {
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
}

function underTest(
  what: Pick<ServerUnderTest, 'name' | 'kind' | 'generation' | 'library'>,
  create: CreateServer,
): ServerUnderTest {
  return { ...what, create, serve: (device, options = {}) => serveWith(create, device, options) };
}

export const nativeServer = underTest(
  { name: 'native', kind: 'native' },
  (options) => new NativeServer(options),
);

/** Both generations of the C library, as far as they are here: `make libvfio-user` builds one. */
export const libraryServers: readonly ServerUnderTest[] = librariesHere().map((library) =>
  underTest(
    {
      name: `libvfio-user ${library.generation}`,
      kind: 'libvfio-user',
      generation: library.generation,
      library,
    },
    throughLibrary(library),
  ),
);

/** Every server that can be had here. */
export const serversUnderTest: readonly ServerUnderTest[] = [nativeServer, ...libraryServers];

/** Regions that a server announces: the 2022 library has one more, for migration v1. */
export function regionsOf({ generation }: ServerUnderTest): number {
  return generation === 'v1' ? 10 : 9;
}
