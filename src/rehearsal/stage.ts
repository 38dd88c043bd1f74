import type { DeviceModel, OptionTable } from '../device/model.ts';
import { dmaProt } from '../dma/types.ts';
import { silentLogger } from '../log.ts';
import { createReactor, type Reactor } from '../loop/index.ts';
import { closeFd, MappedMemory, memfdCreate, mmapProt, socketPair } from '../posix/index.ts';
import { DeviceRuntime, type RuntimeSettings } from '../runtime/device-runtime.ts';
import { orchestratorPort } from '../runtime/orchestrator-port.ts';
import { NativeServer } from '../transport/native/index.ts';
import type { ServerOptions } from '../transport/server-options.ts';
import { VfioUserClient } from '../vfio-user/client/index.ts';

/** Turns of the loop that are enough for a server to finish what it was asked. */
const turnsToAnswer = 16;
const turnsToSettle = 64;

/** A server of the device socket. */
export type ServeDevice = (options: ServerOptions) => { adopt(fd: number): void; close(): void };

const serveNatively: ServeDevice = (options) => new NativeServer({ ...options, role: 'device' });

/** A device behind real servers, with a client for each of its sockets, all on the caller's thread. For rehearsals and tests. */
export class Stage<T extends OptionTable = OptionTable> {
  readonly reactor: Reactor = createReactor({ busyWaitNs: 0 });
  readonly runtime: DeviceRuntime<T>;
  /** On the device socket. */
  readonly client: VfioUserClient;
  /** On the migration socket. */
  readonly orchestrator: VfioUserClient;
  readonly #servers: { close(): void }[];
  readonly #guests: { fd: number; mapping: MappedMemory }[] = [];

  constructor(
    model: DeviceModel<T>,
    settings: Partial<RuntimeSettings> = {},
    serve: ServeDevice = serveNatively,
  ) {
    const { reactor } = this;
    const log = silentLogger;
    this.runtime = new DeviceRuntime(model, { reactor, log, ...settings });
    const runtime = this.runtime as unknown as DeviceRuntime;
    const turn = (): void => {
      for (let round = 0; round < turnsToAnswer; round++) reactor.turn(0);
    };
    const connect = (server: { adopt(fd: number): void }): VfioUserClient => {
      const [ours, theirs] = socketPair();
      server.adopt(ours);
      const client = VfioUserClient.raw(theirs, { pump: turn, capabilities: { companion: true } });
      client.negotiate();
      return client;
    };
    const device = serve({ reactor, device: runtime, log, whileWaiting: () => void this.client.poll() });
    const migration = new NativeServer({
      reactor,
      device: orchestratorPort(runtime),
      role: 'migration',
      log,
      companion: (request, sendReplies) => this.runtime.companion.handle(request, sendReplies),
      onClientGone: () => this.runtime.companion.release(),
    });
    this.#servers = [device, migration];
    this.client = connect(device);
    this.orchestrator = connect(migration);
  }

  /** Lets the servers work until they have nothing left to do. */
  settle(): void {
    for (let round = 0; round < turnsToSettle; round++) this.reactor.turn(0);
  }

  /** Shared guest memory at `iova`, mapped by the device and visible to the caller. */
  guestMemory(iova: number, size: number): Buffer {
    const fd = memfdCreate('guest', size);
    const mapping = MappedMemory.map(fd, 0, size, mmapProt.READ | mmapProt.WRITE);
    this.#guests.push({ fd, mapping });
    const bytes = mapping.windows[0];
    if (!bytes) throw new Error('no window');
    this.client.dmaMap({ iova, size, prot: dmaProt.read | dmaProt.write, fd, bytes });
    return bytes;
  }

  close(): void {
    this.client.close();
    this.orchestrator.close();
    this.settle();
    for (const server of this.#servers) server.close();
    this.runtime.close();
    this.reactor.close();
    for (const { fd, mapping } of this.#guests) {
      mapping.unmap();
      closeFd(fd);
    }
  }
}
