import type { DeviceMigration } from '../device/migration.ts';
import type { Device, DeviceModel, OptionTable } from '../device/model.ts';
import { createDirtyLog, type DirtyScopeName, type DirtyTracker, GuestMemoryMap } from '../dma/index.ts';
import type { DmaMapRequest } from '../dma/types.ts';
import { errno, RequestError } from '../errors.ts';
import { limitedLogger } from '../limited-logger.ts';
import type { Logger } from '../log.ts';
import type { Reactor } from '../loop/types.ts';
import { ready } from '../loop/types.ts';
import { type MigrationController, type MigrationHooks, migrationState } from '../migration/index.ts';
import { ConfigSpace, InterruptController } from '../pci/index.ts';
import { adoptEventfd, closeFd, eventfdDrain, eventfdSignal } from '../posix/index.ts';
import type {
  ClientLink,
  IrqInfo,
  IrqSet,
  RegionInfo,
  RegionIoFd,
  ServedDevice,
  ServedMigration,
} from '../transport/served-device.ts';
import { deviceFlags, pciIrq, pciRegion } from '../vfio-user/constants.ts';
import { DeviceActivity } from './activity.ts';
import { BarSet, isBarRegion } from './bars.ts';
import { CompanionService, type CompanionTarget } from './companion.ts';
import { describeDevice, describeRegisters } from './device-info.ts';
import { Doorbells } from './doorbells.ts';
import type { RuntimeExtension } from './extension.ts';
import { DeviceHealth } from './health.ts';
import { RuntimeHost } from './host.ts';
import { createMigration, servedMigration } from './migration.ts';
import { checkDevice } from './model-check.ts';
import { resolveOptions } from './options.ts';
import { DeviceRegions } from './regions.ts';
import { DeviceResets } from './resets.ts';

export interface RuntimeSettings {
  readonly reactor: Reactor;
  readonly log: Logger;
  /** Values of the model's options (`--set`); see `resolveOptions`. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** How much a dirty log takes for dirty; default `precise`. */
  readonly dirtyScope?: DirtyScopeName;
  /** Start held: answer everything, start nothing; for the destination of a migration. */
  readonly held?: boolean;
  /** Leaves optional features of the migration protocol out. */
  readonly migration?: { readonly p2p?: boolean; readonly preCopy?: boolean };
  /** What else an orchestrator can ask of this process. */
  readonly extension?: RuntimeExtension;
}

/**
 * A model brought to life: joins its device with configuration space, BARs, guest memory, interrupts and
 * migration into what a transport serves. One instance is one device, whoever is connected.
 */
export class DeviceRuntime<T extends OptionTable = OptionTable> implements ServedDevice {
  readonly name: string;
  readonly info = {
    regions: pciRegion.count,
    irqs: pciIrq.count,
    flags: deviceFlags.reset | deviceFlags.pci,
  };
  readonly model: DeviceModel<T>;
  readonly config: ConfigSpace;
  readonly interrupts: InterruptController;
  readonly memory = new GuestMemoryMap();
  /** For a client that drives the migration over the device socket, as the specification has it. */
  readonly migration: ServedMigration | undefined;
  /** For an orchestrator beside the client. */
  readonly orchestrated: ServedMigration | undefined;
  readonly dirtyLog: DirtyTracker;
  readonly companion: CompanionService;

  readonly #reactor: Reactor;
  readonly #extension: RuntimeExtension | undefined;
  readonly #bars: BarSet;
  readonly #doorbells: Doorbells;
  readonly #device: Device;
  readonly #health: DeviceHealth;
  readonly #regions: DeviceRegions;
  readonly #activity: DeviceActivity;
  readonly #resets: DeviceResets;
  readonly #migration: MigrationController | undefined;
  #client: ClientLink | undefined;
  /** Whether the orchestrator moved the state machine last. */
  #byOrchestrator = false;
  /** Whether the client on the device socket, not the orchestrator, started the dirty log last. */
  #loggedByClient = false;

  /**
   * @throws ModelOptionError, PciDescriptionError, and CompanionError with what else is wrong with the model, its options or the dirty
   *   scope; whatever the model throws. Nothing is left behind then
   */
  constructor(model: DeviceModel<T>, settings: RuntimeSettings) {
    const { reactor, log } = settings;
    const options = resolveOptions(model, settings.options);
    const description = model.pci(options);
    this.name = model.name;
    this.model = model;
    this.#reactor = reactor;
    this.#extension = settings.extension;
    const limited = limitedLogger(log, () => reactor.now());
    this.#health = new DeviceHealth(model.name, limited, () => void this.interrupts.signalError());
    this.config = new ConfigSpace(description, {
      commandChanged: () => this.#commandChanged(),
      msiControlChanged: () => this.interrupts.configChanged(),
      msixControlChanged: () => this.interrupts.configChanged(),
      // In D3hot a function is no bus master, whatever its command register says.
      powerStateChanged: () => this.#commandChanged(),
      functionLevelReset: () => this.#resets.functionLevel(),
    });
    this.interrupts = new InterruptController(description, this.config, {
      signal: eventfdSignal,
      close: closeFd,
      watch: (fd, signaled) =>
        reactor.watch(fd, ready.read, () => {
          eventfdDrain(fd);
          signaled();
        }),
    });
    this.#bars = new BarSet(description);
    this.#doorbells = new Doorbells(description, reactor, (bar, offset, value) => {
      this.#health.run(() => this.#bars.write(bar, offset, value.length, value, 0));
    });
    const { config, interrupts } = this;
    const [bars, doorbells, health] = [this.#bars, this.#doorbells, this.#health];
    this.#regions = new DeviceRegions({ config, bars, doorbells, health });
    let device: Device | undefined;
    this.#activity = new DeviceActivity(settings.held ?? false, { health, interrupts, device: () => device });
    this.#resets = new DeviceResets({
      ...{ name: model.name, log, config, interrupts, doorbells, health, activity: this.#activity },
      device: () => this.#device,
      unwind: (then) => this.#client?.unwind(then) ?? false,
      functionWasReset: () => this.#migration?.deviceWasReset(),
    });
    const host = new RuntimeHost({
      log: limited,
      reactor,
      dma: this.memory,
      interrupts: this.interrupts,
      pci: this.config,
      bars: this.#bars,
      health: this.#health,
      client: () => this.#client?.dma,
      mayInitiate: () => this.mayInitiate,
    });
    try {
      device = model.create(host, options);
      checkDevice(model.name, device, description.bars);
      this.#bars.connect(device.bars, interrupts.windows);
      const { migration } = device;
      const dirtyLog = createDirtyLog({
        scope: settings.dirtyScope ?? 'precise',
        memory: this.memory,
        pinned: migration?.pinnedRanges,
        attach: (sink) => this.memory.setDirtySink(sink),
      });
      this.dirtyLog = dirtyLog;
      const hooks = this.#migrationHooks;
      const parts = { model, device: migration, config, interrupts, dirtyLog, hooks, log };
      this.#migration = createMigration({ ...parts, options: settings.migration });
    } catch (error) {
      this.#abandon(device);
      throw error;
    }
    this.#device = device;
    this.migration = servedMigration(this.#migration, {
      moves: () => this.#moved(false),
      logs: () => {
        this.#loggedByClient = true;
      },
    });
    this.orchestrated = servedMigration(this.#migration, {
      moves: () => this.#moved(true),
      logs: () => {
        this.#loggedByClient = false;
      },
    });
    this.companion = new CompanionService(this.#companionTarget, () => reactor.now());
  }

  /** Whether the device may start something by itself. */
  get mayInitiate(): boolean {
    return this.#activity.active && !this.#resets.due && !this.#health.broken;
  }

  get held(): boolean {
    return this.#activity.held;
  }

  get connected(): boolean {
    return this.#client !== undefined;
  }

  get broken(): boolean {
    return this.#health.broken;
  }

  /** What must be equal at the destination of a migration. */
  get geometry(): DeviceMigration['geometry'] {
    return this.#device.migration?.geometry ?? {};
  }

  /** Names of the companion operations that the model adds. */
  get operations(): string[] {
    return [...Object.keys(this.#device.operations ?? {}), ...Object.keys(this.#extension?.operations ?? {})];
  }

  /** Holds the device, or lets it go: a held device answers everything and starts nothing. */
  hold(on: boolean): void {
    this.#activity.hold(on);
  }

  attach(link: ClientLink): void {
    this.#client = link;
    this.memory.setMessageDma(link.dma);
    this.memory.setClientDirtySink(link.dirty);
  }

  /** What the client began of a migration ends with it (docs/decisions/0011-a-client-that-leaves.md). */
  detach(): void {
    this.#dropClient();
    this.#resets.unwound();
    if (this.#loggedByClient) this.#migration?.stopDmaLogging();
    this.#loggedByClient = false;
    if (!this.#byOrchestrator && this.#migration && this.#migration.state !== migrationState.RUNNING)
      this.reset();
  }

  #dropClient(): void {
    this.#client = undefined;
    this.memory.setMessageDma(undefined);
    this.memory.setClientDirtySink(undefined);
    this.dmaUnmapAll();
    this.#doorbells.close();
    this.interrupts.detach();
  }

  regionInfo(index: number): RegionInfo {
    return this.#regions.info(index);
  }

  regionIoFds(index: number): readonly RegionIoFd[] {
    return this.#regions.ioFds(index);
  }

  irqInfo(index: number): IrqInfo {
    return this.interrupts.irqInfo(index);
  }

  setIrqs(request: IrqSet): void {
    adoptEventfds(request);
    this.interrupts.setIrqs(request);
  }

  regionRead(index: number, offset: number, count: number, target: Buffer, at: number): void {
    this.#regions.read(index, offset, count, target, at);
  }

  checkRegionWrite(index: number, offset: number, count: number): void {
    this.#regions.checkWrite(index, offset, count);
  }

  regionWrite(index: number, offset: number, count: number, source: Buffer, at: number): void {
    this.#regions.write(index, offset, count, source, at);
  }

  dmaMap(region: DmaMapRequest): void {
    try {
      this.memory.map(region);
    } catch (error) {
      // It may have failed half-way.
      this.#collectLater();
      throw error;
    }
    // What is reached by message only is written by the client, who knows of it.
    if (region.fd !== undefined) this.dirtyLog.mapped(region.iova, region.size, region.prot);
  }

  dmaUnmap(iova: number, size: number): void {
    this.memory.unmap(iova, size);
    this.#collectLater();
  }

  dmaUnmapAll(): void {
    this.memory.unmapAll();
    this.#collectLater();
  }

  /**
   * DEVICE_RESET. The migration state becomes RUNNING, with one exception: a save in PRE_COPY that an orchestrator
   * drives survives and starts over, for the reset is then a guest's reboot that the orchestrator knows nothing of
   * (docs/decisions/0010-reset-and-migration.md).
   */
  reset(): void {
    this.#resets.all('client');
    if (this.#byOrchestrator) this.#migration?.deviceWasReset();
    else this.#migration?.reset();
  }

  close(): void {
    this.#migration?.close();
    this.companion.release();
    this.#device.close?.();
    this.#health.close();
    this.#dropClient();
    this.memory.collect();
    this.#bars.close();
  }

  get #migrationHooks(): MigrationHooks {
    return {
      // What is left of a model that failed in the middle of something must not go on elsewhere as if it were whole.
      save: () => this.#health.check(),
      quiesce: () => this.#activity.quiesce(),
      stop: () => {
        this.#doorbells.drain();
        this.#health.check();
      },
      resume: () => this.#activity.resume(),
      failed: () => this.#activity.silence(),
    };
  }

  get #companionTarget(): CompanionTarget {
    const { config } = this;
    return {
      info: () => ({ ...describeDevice(this), ...this.#extension?.info() }),
      hold: (on) => this.hold(on),
      reset: () => {
        this.#resets.all('client');
        this.#migration?.reset();
      },
      fireVectors: () => this.interrupts.fireAll(),
      stopped: () => this.#extension?.stopped?.(),
      get busMaster() {
        return config.busMaster;
      },
      registers: () => describeRegisters(config),
      msixTable: () => this.#msixTable(),
      client: () => this.#client?.dma,
      settle: () => this.#client?.settle(),
      memory: this.memory,
      takeDirtyPages: () => this.dirtyLog.takeDirtyPages(),
      peekDirtyPages: (from, limit) => this.dirtyLog.peekDirtyPages(from, limit),
      dirtyPageEstimate: () => this.dirtyLog.count,
      migration: () => this.orchestrated,
      modelOperation: (op, request) => this.#modelOperation(op, request),
    };
  }

  /** There will be nobody to call `close`. That it fails, too, is only told: the reason for all this says more. */
  #abandon(device: Device | undefined): void {
    this.#health.run(() => device?.close?.());
    this.#health.close();
    this.#bars.close();
  }

  #moved(byOrchestrator: boolean): () => void {
    const before = this.#byOrchestrator;
    this.#byOrchestrator = byOrchestrator;
    return () => {
      this.#byOrchestrator = before;
    };
  }

  /** Device code up the stack may still hold a view of what was unmapped; deferred tasks run below it. */
  #collectLater(): void {
    this.#reactor.defer(() => this.memory.collect());
  }

  #msixTable(): { address: number; size: number } | undefined {
    const table = this.config.msix && this.interrupts.windows[0];
    if (!table || !isBarRegion(table.bar)) return undefined;
    const base = this.config.bar(table.bar)?.address;
    return base === undefined ? undefined : { address: base + table.offset, size: table.size };
  }

  #commandChanged(): void {
    this.interrupts.configChanged();
    this.#health.run(() => this.#device.commandChanged?.());
  }

  #modelOperation(op: string, request: Readonly<Record<string, unknown>>): unknown {
    for (const operations of [this.#device.operations, this.#extension?.operations]) {
      if (operations && Object.hasOwn(operations, op)) return operations[op]?.(request);
    }
    throw new RequestError(errno.EOPNOTSUPP, `${this.name} has no companion operation "${op}"`);
  }
}

/** A descriptor that is no eventfd could block the loop for ever: refused (EINVAL). */
function adoptEventfds({ data }: IrqSet): void {
  if (data.type !== 'eventfd') return;
  for (const fd of data.fds) if (fd !== undefined && fd >= 0) adoptEventfd(fd);
}
