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
  /** Takes away what has been made so far, from the last to the first. */
  readonly #undo: (() => void)[] = [];

  constructor(
    model: DeviceModel<T>,
    settings: Partial<RuntimeSettings> = {},
    serve: ServeDevice = serveNatively,
  ) {
    const { reactor } = this;
    const log = silentLogger;
    const turn = (): void => {
      for (let round = 0; round < turnsToAnswer; round++) reactor.turn(0);
    };
    const connect = (server: { adopt(fd: number): void }): VfioUserClient => {
      const [ours, theirs] = socketPair();
      server.adopt(ours);
      const client = VfioUserClient.raw(theirs, { pump: turn, capabilities: { companion: true } });
      this.#undo.push(() => client.close());
      client.negotiate();
      return client;
    };
    this.#undo.push(() => reactor.close());
    try {
      this.runtime = new DeviceRuntime(model, { reactor, log, ...settings });
      const runtime = this.runtime as unknown as DeviceRuntime;
      this.#undo.push(() => runtime.close());
      const device = serve({ reactor, device: runtime, log, whileWaiting: () => void this.client.poll() });
      this.#undo.push(() => device.close());
      const migration = new NativeServer({
        reactor,
        device: orchestratorPort(runtime),
        role: 'migration',
        log,
        companion: (request, sendReplies) => this.runtime.companion.handle(request, sendReplies),
        onClientGone: () => this.runtime.companion.release(),
      });
      this.#undo.push(() => migration.close());
      this.#undo.push(() => this.settle());
      this.client = connect(device);
      this.orchestrator = connect(migration);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Lets the servers work until they have nothing left to do. */
  settle(): void {
    for (let round = 0; round < turnsToSettle; round++) this.reactor.turn(0);
  }

  /** Shared guest memory at `iova`, mapped by the device and visible to the caller. */
  guestMemory(iova: number, size: number): Buffer {
    const fd = memfdCreate('guest', size);
    const mapping = MappedMemory.map(fd, 0, size, mmapProt.READ | mmapProt.WRITE);
    // The device's own mapping goes first, with the device.
    this.#undo.unshift(() => {
      mapping.unmap();
      closeFd(fd);
    });
    const bytes = mapping.windows[0];
    if (!bytes) throw new Error('no window');
    this.client.dmaMap({ iova, size, prot: dmaProt.read | dmaProt.write, fd, bytes });
    return bytes;
  }

  close(): void {
    for (const undo of this.#undo.splice(0).reverse()) undo();
  }
}
