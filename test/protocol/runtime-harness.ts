import type { DeviceModel, OptionTable } from '../../src/device/index.ts';
import { dmaProt } from '../../src/dma/index.ts';
import { silentLogger } from '../../src/log.ts';
import { createReactor, type Reactor } from '../../src/loop/index.ts';
import { closeFd, MappedMemory, memfdCreate, mmapProt, socketPair } from '../../src/posix/index.ts';
import { DeviceRuntime, type RuntimeSettings } from '../../src/runtime/device-runtime.ts';
import { orchestratorPort } from '../../src/runtime/orchestrator-port.ts';
import { NativeServer } from '../../src/transport/native/index.ts';
import { VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { nativeServer, type ServerUnderTest } from './harness.ts';

/** A real model behind a real server, with clients for both sockets, all on the test's own thread. */
export class Bench {
  readonly reactor: Reactor = createReactor({ busyWaitNs: 0 });
  readonly runtime: DeviceRuntime;
  /** On the device socket. */
  readonly client: VfioUserClient;
  /** On the migration socket. */
  readonly orchestrator: VfioUserClient;
  readonly #servers: { close(): void }[];
  readonly #guests: { fd: number; mapping: MappedMemory }[] = [];

  /** @param under what serves the device socket; the migration socket is always ours */
  constructor(
    model: DeviceModel<OptionTable>,
    settings: Partial<RuntimeSettings> = {},
    under: ServerUnderTest = nativeServer,
  ) {
    const { reactor } = this;
    const log = silentLogger;
    this.runtime = new DeviceRuntime(model, { reactor, log, ...settings });
    const turn = (): void => {
      for (let round = 0; round < 16; round++) reactor.turn(0);
    };
    const connect = (server: { adopt(fd: number): void }): VfioUserClient => {
      const [ours, theirs] = socketPair();
      server.adopt(ours);
      const client = VfioUserClient.raw(theirs, { pump: turn, capabilities: { companion: true } });
      client.negotiate();
      return client;
    };
    const device = under.create({
      reactor,
      device: this.runtime,
      role: 'device',
      log,
      whileWaiting: () => void this.client.poll(),
    });
    const migration = new NativeServer({
      reactor,
      device: orchestratorPort(this.runtime),
      role: 'migration',
      log,
      companion: (request) => this.runtime.companion.handle(request),
      onClientGone: () => this.runtime.companion.release(),
    });
    this.#servers = [device, migration];
    this.client = connect(device);
    this.orchestrator = connect(migration);
  }

  /** Lets the server work until it has nothing left to do. */
  settle(): void {
    for (let round = 0; round < 64; round++) this.reactor.turn(0);
  }

  /** Shared guest memory at `iova`, mapped by the device and visible to the test. */
  guestMemory(iova: number, size: number): Buffer {
    const fd = memfdCreate('guest', size);
    const mapping = MappedMemory.map(fd, 0, size, mmapProt.READ | mmapProt.WRITE);
    const bytes = mapping.windows[0];
    if (!bytes) throw new Error('no window');
    this.client.dmaMap({ iova, size, prot: dmaProt.read | dmaProt.write, fd, bytes });
    this.#guests.push({ fd, mapping });
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
