import type { DeviceMigration } from '../device/migration.ts';
import type { Device, DeviceModel, OptionTable, ResetKind } from '../device/model.ts';
import type { BarIndex } from '../device/pci-description.ts';
import { createDirtyLog, type DirtyScopeName, type DirtyTracker, GuestMemoryMap } from '../dma/index.ts';
import { errno, RequestError } from '../errors.ts';
import { limitedLogger } from '../limited-logger.ts';
import type { Logger } from '../log.ts';
import type { Reactor } from '../loop/types.ts';
import { ready } from '../loop/types.ts';
import { type MigrationController, type MigrationHooks, migrationState } from '../migration/index.ts';
import { ConfigSpace, InterruptController } from '../pci/index.ts';
import { adoptEventfd, closeFd, eventfdDrain, eventfdSignal } from '../posix/index.ts';
import {
  type ClientLink,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
  type RegionIoFd,
  regionFlags,
  type ServedDevice,
  type ServedMigration,
} from '../transport/served-device.ts';
import { deviceFlags, pciIrq, pciRegion } from '../vfio-user/constants.ts';
import { BarSet, isBarRegion } from './bars.ts';
import { CompanionService } from './companion.ts';
import { describeDevice, describeRegisters } from './device-info.ts';
import { Doorbells } from './doorbells.ts';
import type { RuntimeExtension } from './extension.ts';
import { DeviceHealth } from './health.ts';
import { RuntimeHost } from './host.ts';
import { createMigration, servedMigration } from './migration.ts';
import { checkDevice } from './model-check.ts';
import { resolveOptions } from './options.ts';

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

  readonly #log: Logger;
  readonly #reactor: Reactor;
  readonly #extension: RuntimeExtension | undefined;
  readonly #bars: BarSet;
  readonly #doorbells: Doorbells;
  readonly #device: Device;
  readonly #health: DeviceHealth;
  readonly #migration: MigrationController | undefined;
  #client: ClientLink | undefined;
  /** Whether the orchestrator moved the state machine last. */
  #byOrchestrator = false;
  /** Whether the client on the device socket, not the orchestrator, started the dirty log last. */
  #loggedByClient = false;
  #held: boolean;
  /** By a function level reset that came while the model was at work. */
  #modelResetDue = false;
  /** From quiesce to resume. */
  #quiet = false;

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
    this.#log = log;
    this.#reactor = reactor;
    this.#extension = settings.extension;
    this.#held = settings.held ?? false;
    const limited = limitedLogger(log, () => reactor.now());
    this.#health = new DeviceHealth(model.name, limited, () => void this.interrupts.signalError());
    this.config = new ConfigSpace(description, {
      commandChanged: () => this.#commandChanged(),
      msiControlChanged: () => this.interrupts.configChanged(),
      msixControlChanged: () => this.interrupts.configChanged(),
      // In D3hot a function is no bus master, whatever its command register says.
      powerStateChanged: () => this.#commandChanged(),
      functionLevelReset: () => this.#functionLevelReset(),
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
    if (this.#held) this.interrupts.hold();
    this.#bars = new BarSet(description);
    this.#doorbells = new Doorbells(description, reactor, (bar, offset, value) => {
      this.#health.run(() => this.#bars.write(bar, offset, value.length, value, 0));
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
    const { config, interrupts } = this;
    let device: Device | undefined;
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
    this.companion = new CompanionService(
      {
        info: () => ({ ...describeDevice(this), ...this.#extension?.info() }),
        hold: (on) => this.hold(on),
        reset: () => {
          this.#resetDevice('client');
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
      },
      () => reactor.now(),
    );
  }

  /** Whether the device may start something by itself. */
  get mayInitiate(): boolean {
    return !this.#held && !this.#quiet && !this.#modelResetDue && !this.#health.broken;
  }

  get held(): boolean {
    return this.#held;
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
    if (on === this.#held) return;
    this.#held = on;
    if (this.#quiet) return;
    if (on) this.#suspend();
    else this.#revive();
  }

  attach(link: ClientLink): void {
    this.#client = link;
    this.memory.setMessageDma(link.dma);
    this.memory.setClientDirtySink(link.dirty);
  }

  /** What the client began of a migration ends with it (docs/decisions/0011-a-client-that-leaves.md). */
  detach(): void {
    this.#dropClient();
    this.#unwound();
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
    this.#checkRegion(index);
    if (isBarRegion(index)) return this.#bars.info(index);
    if (index === pciRegion.config)
      return { size: this.config.size, flags: regionFlags.read | regionFlags.write };
    return { size: 0, flags: 0 };
  }

  regionIoFds(index: number): readonly RegionIoFd[] {
    this.#checkRegion(index);
    return this.#doorbells.offer(index);
  }

  irqInfo(index: number): IrqInfo {
    return this.interrupts.irqInfo(index);
  }

  setIrqs(request: IrqSet): void {
    adoptEventfds(request);
    this.interrupts.setIrqs(request);
  }

  regionRead(index: number, offset: number, count: number, target: Buffer, at: number): void {
    if (index === pciRegion.config) {
      this.config.read(offset, count, target, at);
      return;
    }
    const bar = this.#bar(index, offset, count);
    this.#health.check();
    try {
      this.#bars.read(bar, offset, count, target, at);
    } catch (error) {
      this.#health.failed(error);
    }
  }

  checkRegionWrite(index: number, offset: number, count: number): void {
    if (index === pciRegion.config) this.config.checkRange(offset, count);
    else {
      this.#bar(index, offset, count);
      this.#health.check();
    }
  }

  regionWrite(index: number, offset: number, count: number, source: Buffer, at: number): void {
    if (index === pciRegion.config) {
      this.config.write(offset, count, source, at);
      return;
    }
    const bar = this.#bar(index, offset, count);
    this.#health.check();
    this.#health.enter();
    try {
      this.#bars.write(bar, offset, count, source, at);
    } catch (error) {
      this.#health.failed(error);
    } finally {
      this.#health.leave();
    }
  }

  dmaMap(region: { iova: number; size: number; prot: number; fd?: number; fdOffset: number }): void {
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
    this.#resetDevice('client');
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
      quiesce: () => {
        this.#quiet = true;
        if (!this.#held) this.#suspend();
      },
      stop: () => {
        this.#doorbells.drain();
        this.#health.check();
      },
      start: () => {},
      resume: () => {
        this.#quiet = false;
        if (!this.#held) this.#revive();
      },
      failed: () => {
        this.#quiet = true;
      },
    };
  }

  /** There will be nobody to call `close`. That it fails, too, is only told: the reason for all this says more. */
  #abandon(device: Device | undefined): void {
    this.#health.run(() => device?.close?.());
    this.#health.close();
    this.#bars.close();
  }

  #resetDevice(kind: ResetKind): void {
    this.#log.debug(`${this.name}: reset (${kind})`);
    this.config.reset(kind);
    this.#doorbells.forget();
    this.#resetModel(kind);
  }

  #resetModel(kind: ResetKind): void {
    this.#health.mend();
    this.interrupts.reset();
    this.#health.run(() => this.#device.reset(kind));
  }

  #moved(byOrchestrator: boolean): () => void {
    const before = this.#byOrchestrator;
    this.#byOrchestrator = byOrchestrator;
    return () => {
      this.#byOrchestrator = before;
    };
  }

  /** In the middle of the model's DMA by message, the model is reset once it has unwound, and can do no harm until then. */
  #functionLevelReset(): void {
    if (this.#health.busy && this.#client?.unwind(() => this.#unwound())) {
      this.config.reset('flr');
      // Not when it has unwound: what rings from now on is for the device after that.
      this.#doorbells.forget();
      this.interrupts.hold();
      this.#modelResetDue = true;
      return;
    }
    this.#resetDevice('flr');
    this.#migration?.deviceWasReset();
  }

  #unwound(): void {
    if (!this.#modelResetDue) return;
    this.#modelResetDue = false;
    this.#log.debug(`${this.name}: reset of the model`);
    this.#resetModel('flr');
    if (!this.#held && !this.#quiet) this.interrupts.release();
    this.#migration?.deviceWasReset();
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

  #suspend(): void {
    this.#health.run(() => this.#device.quiesce?.());
    this.interrupts.hold();
  }

  #revive(): void {
    this.interrupts.release();
    this.#health.run(() => this.#device.resume?.());
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

  #checkRegion(index: number): void {
    if (index < 0 || index >= pciRegion.count) {
      throw new RequestError(errno.EINVAL, `there is no region ${index}; the last is ${pciRegion.count - 1}`);
    }
  }

  /** The BAR that `index` is, with the range checked. */
  #bar(index: number, offset: number, count: number): BarIndex {
    this.#checkRegion(index);
    if (!isBarRegion(index)) throw new RequestError(errno.EINVAL, `region ${index} can't be accessed`);
    this.#bars.check(index, offset, count);
    return index;
  }
}

/** A descriptor that is no eventfd could block the loop for ever: refused (EINVAL). */
function adoptEventfds({ data }: IrqSet): void {
  if (data.type !== 'eventfd') return;
  for (const fd of data.fds) if (fd !== undefined && fd >= 0) adoptEventfd(fd);
}
