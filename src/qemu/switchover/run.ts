import { quietEngine } from '../../engine.ts';
import { type Logger, silentLogger } from '../../log.ts';
import { Timeline } from '../../report/timeline.ts';
import type { Phase, PrecopySample, RamReport } from '../../report/types.ts';
import { ConfigPorts } from '../config-ports.ts';
import type { DevicePeer, MarkResult, PeerInfo } from '../device-peer.ts';
import type { PciAddress } from '../pci-address.ts';
import type { QmpSession } from '../qmp.ts';
import type { Carrying } from './carry.ts';
import { fenced } from './fence.ts';
import { defaultTimeouts, type MigrateOptions, type Timeouts } from './options.ts';
import type { Told } from './preset.ts';
import type { StateChannel } from './state-channel.ts';

/** One device on its way. */
export interface DeviceRun {
  readonly id: string;
  readonly source: DevicePeer;
  readonly destination: DevicePeer;
  /** The source once more, for what undoes the migration: the one above asks nothing any more when that is given up. */
  readonly unfenced: DevicePeer;
  /** `VFIO_MIGRATION_*` bits that both sides offer. */
  flags: number;
  sourceInfo: PeerInfo;
  /** The destination before anything was done to it. */
  pristine: PeerInfo;
  address: PciAddress;
  /** What the destination QEMU was told in advance; undefined: nothing. */
  told: Told | undefined;
  /** Opened by the first piece of state. */
  channel: StateChannel | undefined;
  /** Ends with the last piece of state that was moved while the guest ran. */
  fed: Promise<void>;
  /** Such a piece is under way. */
  feeding: boolean;
  sentBytes: number;
  /** Time spent in moving state, ms, and bytes moved then: for the rate. */
  pumpMs: number;
  initialBytes: number;
  dirtyBytes: number;
  dirtyPages: number;
  dataSize: number;
  finalBytes: number;
  /** All that the source server had to give has been taken: its loss does no harm any more. */
  sourceDone: boolean;
  /** As they were when the vCPUs had stopped. */
  frozen: PeerInfo | undefined;
  msixTable: Buffer | undefined;
  mark: MarkResult | undefined;
  /** Both servers are ready to have pages carried; undefined: they are marked. */
  carrying: Carrying | undefined;
  /** Ends when the source's server has given what it kept from being marked; how many pages. */
  carried: Promise<number>;
  /** Pages that have been put into place at the destination. */
  carriedPages: number;
  replayed: number;
  replayPath: 'ecam' | 'ports' | 'early' | 'none';
  configCompared: boolean | null;
  configDifferences: string[];
  msixTableEqual: boolean | null;
  stateEqual: boolean | null;
}

/** A command of QEMU's monitor that sets something, with what it is set to. */
export interface Setting {
  readonly command: string;
  readonly args: object;
}

/** How far a migration has come; what rollback has to undo follows from it. */
export interface Progressed {
  /** Something has been changed at either side. */
  touched: boolean;
  migrateSent: boolean;
  /** vCPUs stopped at the source. */
  stopped: boolean;
  continued: boolean;
  /** The destination QEMU has everything. */
  completed: boolean;
  contSent: boolean;
  /** `cont` was refused, or taken back before the destination had loaded the guest: it will not run it. */
  contVoid: boolean;
  committed: boolean;
}

/** Everything that the steps of one migration share. */
export class Run {
  readonly options: MigrateOptions;
  readonly timeouts: Timeouts;
  readonly downtimeLimitMs: number;
  readonly log: Logger;
  readonly timeline = new Timeline();
  readonly source: QmpSession;
  /** The source once more, for what undoes the migration; see `fenced`. */
  readonly unfenced: QmpSession;
  readonly destination: QmpSession;
  readonly sourcePorts: ConfigPorts;
  readonly destinationPorts: ConfigPorts;
  readonly devices: DeviceRun[];
  readonly samples: PrecopySample[] = [];
  readonly phases: { phase: Phase; atMs: number }[] = [];
  readonly warnings: string[] = [];
  /** Processes by the UNIX sockets at which they listen, as far as somebody had to know. */
  readonly listeners = new Map<string, number>();
  readonly progressed: Progressed = {
    touched: false,
    migrateSent: false,
    stopped: false,
    continued: false,
    completed: false,
    contSent: false,
    contVoid: false,
    committed: false,
  };
  readonly started = performance.now();
  readonly startedAt = new Date().toISOString();
  phase: Phase = 'connect';
  /** The guest ran at the source until it was stopped for the switchover. */
  wasRunning = true;
  /** Guest-physical address of the ECAM window; undefined: none. */
  ecamBase: number | undefined;
  /** The guest's 0xCF8. */
  cf8: number | undefined;
  /** Puts borrowed registers of the source back; see `borrowBusMaster`. */
  giveBack: (() => Promise<void>) | undefined;
  /** QEMU's settings before we changed them: what to send to restore them. */
  restoreSettings: Setting[] = [];
  /** The same of the destination's. */
  readonly leaveSettings: Setting[] = [];
  resumeUs: number | undefined;
  /** When the last pass of RAM began; see `Timeline.now`. */
  continuedUs = 0;
  /** Ends when the destination QEMU has loaded the guest. */
  arrived: Promise<unknown> = Promise.resolve();
  /** Ends when all devices' final state has been loaded. */
  moved: Promise<unknown> = Promise.resolve();
  /** Ends when the destination is not told anything more in advance. */
  settled: Promise<void> = Promise.resolve();
  ram: RamReport | null = null;
  ramBytes = 0;
  rounds = 0;
  #wakeEngine: (() => void) | undefined;
  readonly #undo: (() => void)[] = [];
  readonly #stop: AbortController;
  readonly #never: Promise<never>;

  /** @param stop what fences the sources of `devices`, too */
  constructor(
    options: MigrateOptions,
    source: QmpSession,
    destination: QmpSession,
    devices: DeviceRun[],
    stop = new AbortController(),
  ) {
    this.#stop = stop;
    this.options = options;
    this.downtimeLimitMs = options.downtimeLimitMs ?? 300;
    // What is within the limit is not late.
    const final = defaultTimeouts.final + this.downtimeLimitMs;
    this.timeouts = { ...defaultTimeouts, final, ...options.timeouts };
    this.log = options.log ?? silentLogger;
    this.unfenced = source;
    this.source = fenced(source, stop.signal, ['anticipate', 'close', 'seen']);
    this.destination = destination;
    this.sourcePorts = new ConfigPorts(this.source);
    this.destinationPorts = new ConfigPorts(destination);
    this.devices = devices;
    this.#never = new Promise((_resolve, reject) => {
      this.#stop.signal.addEventListener('abort', () => reject(this.#stop.signal.reason));
    });
    this.#never.catch(() => undefined);
  }

  /** Aborted when the migration must be given up; the reason is the error. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  get elapsedMs(): number {
    return performance.now() - this.started;
  }

  /** Gives the migration up: every wait ends with `error`. The first reason stays. */
  fail(error: Error): void {
    if (!this.#stop.signal.aborted) this.#stop.abort(error);
  }

  /** Waits for `work`, or for the reason to give up. */
  async until<T>(work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    return Promise.race([work, this.#never]);
  }

  /** Waits for all of `work`, or for the reason to give up. */
  async all<T>(work: readonly Promise<T>[]): Promise<T[]> {
    return this.until(Promise.all(work));
  }

  /** `work` for every device at once. */
  async each<T>(work: (device: DeviceRun) => Promise<T>): Promise<T[]> {
    return this.all(this.devices.map(work));
  }

  /** Keeps all parties but the QEMUs, this process included, from work that can wait. Ends with the connections, too. */
  async quiet(on: boolean): Promise<void> {
    this.#wakeEngine?.();
    this.#wakeEngine = on ? quietEngine() : undefined;
    await this.all(
      this.devices.flatMap(({ source, destination }) => [source.quiet(on), destination.quiet(on)]),
    );
  }

  /** Has something undone when the migration is over. */
  atEnd(undo: () => void): void {
    this.#undo.push(undo);
  }

  /** The migration is over: this process goes on as before. */
  close(): void {
    this.#wakeEngine?.();
    for (const undo of this.#undo) undo();
  }

  /** Somebody has paused the guest, or has had it go on, while it was not yet stopped for the switchover. */
  setRunning(on: boolean): void {
    this.log.info(`the guest was ${on ? 'started' : 'paused'} by somebody; so it will arrive`);
    this.wasRunning = on;
    // What a blackout is made of counts from where it has begun to.
    if (!this.progressed.stopped) this.timeline.zero(undefined);
  }

  async enter(phase: Phase): Promise<void> {
    this.phase = phase;
    this.phases.push({ phase, atMs: this.elapsedMs });
    this.log.debug({ phase }, 'migration phase');
    this.options.onProgress?.({ phase, elapsedMs: this.elapsedMs });
    if (this.options.onPhase === undefined) return;
    const hook = Promise.resolve(this.options.onPhase(phase));
    // A rollback waits for its hook whatever has happened: the reason to give up is known already.
    if (phase === 'rollback') await hook;
    else await this.until(hook);
  }

  warn(message: string): void {
    this.warnings.push(message);
    this.log.warn(message);
  }
}
