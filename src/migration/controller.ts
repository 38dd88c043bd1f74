import type { DirtyTracker } from '../dma/dirty-tracker.ts';
import { errno, RequestError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { DmaRange, ServedMigration } from '../transport/served-device.ts';
import { LoadSession } from './load-session.ts';
import { type PrecopyInfo, SaveSession } from './save-session.ts';
import { type FrameworkSection, frameworkVersion, type StateModel, type StateSource } from './sections.ts';
import { type FeatureSet, type MigrationState, migrationState as s, stateName } from './state.ts';
import { type ArcHandlers, StateMachine } from './state-machine.ts';

/**
 * What the arcs do to the device; the runtime's part. Each may throw, which refuses the arc, and must then
 * leave the device as it was.
 */
export interface MigrationHooks {
  /** A save is about to begin, of a device that runs or has been stopped. */
  save?(): void;
  /** RUNNING → RUNNING_P2P: finish what is begun, start nothing; still answer others. */
  quiesce(): void;
  /** RUNNING_P2P → STOP: nothing changes by itself any more, and nothing from outside changes it. */
  stop(): void;
  /** RUNNING_P2P → RUNNING. */
  resume(): void;
  /** The device is in ERROR; only a reset helps. */
  failed(error: unknown): void;
}

export interface MigrationOptions {
  readonly model: StateModel;
  /** Undefined: the device has no state of its own, only the framework's sections travel. */
  readonly device: StateSource['device'];
  readonly framework: readonly FrameworkSection[];
  readonly hooks: MigrationHooks;
  readonly dirtyLog: DirtyTracker;
  /**
   * Switches off what the device could do. P2P states are an extension of the vfio-user
   * specification (docs/decisions/0020-p2p-states.md). Both default to true.
   */
  readonly options?: { readonly p2p?: boolean; readonly preCopy?: boolean };
  readonly log: Logger;
}

/**
 * The migration half of a served device: state machine, read and write session, dirty log. The arcs
 * are those of mlx5_vfio_pci: the initiator is suspended on the way to the P2P states, the responder on
 * the way to STOP; a session is opened by →PRE_COPY*, STOP→STOP_COPY and STOP→RESUMING.
 */
export class MigrationController implements ServedMigration {
  readonly #machine: StateMachine;
  readonly #source: StateSource;
  readonly #hooks: MigrationHooks;
  readonly #dirtyLog: DirtyTracker;
  readonly #log: Logger;
  #save: SaveSession | undefined;
  #load: LoadSession | undefined;

  constructor(options: MigrationOptions) {
    this.#source = {
      model: options.model,
      device: options.device,
      framework: options.framework,
      frameworkVersion,
    };
    this.#hooks = options.hooks;
    this.#dirtyLog = options.dirtyLog;
    this.#log = options.log;
    const features: FeatureSet = {
      p2p: (options.device?.p2p ?? false) && (options.options?.p2p ?? true),
      preCopy: options.device?.preCopy !== undefined && (options.options?.preCopy ?? true),
    };
    this.#machine = new StateMachine({
      features,
      handlers: this.#handlers(),
      onReset: () => this.#onReset(),
      onError: (error) => this.#onError(error),
      onEnter: (state, from) => this.#log.debug(`migration: ${stateName(from)} → ${stateName(state)}`),
    });
  }

  get flags(): number {
    return this.#machine.flags;
  }

  get state(): MigrationState {
    return this.#machine.state;
  }

  setState(state: number): void {
    this.#machine.request(state);
  }

  dataSize(): number {
    if (this.#save !== undefined) return this.#save.remainingBytes();
    return 4096 + (this.#source.device?.estimate() ?? 0);
  }

  precopyInfo(): PrecopyInfo {
    const { state } = this.#machine;
    if ((state !== s.PRE_COPY && state !== s.PRE_COPY_P2P) || this.#save === undefined) {
      throw new RequestError(errno.EINVAL, `there is no precopy information in ${stateName(state)}`);
    }
    return this.#save.info();
  }

  read(target: Uint8Array): number {
    const session = this.#save;
    if (session === undefined) {
      throw new RequestError(errno.EINVAL, `there is no state to read in ${stateName(this.state)}`);
    }
    let count = 0;
    const done = this.#machine.exclusive('reading state', () => {
      count = session.read(target);
    });
    if (!done) throw new RequestError(errno.EIO, 'the device was reset while its state was read');
    return count;
  }

  write(source: Uint8Array): void {
    const session = this.#load;
    if (session === undefined) {
      throw new RequestError(errno.EINVAL, `no state can be written in ${stateName(this.state)}`);
    }
    const done = this.#machine.exclusive('writing state', () => {
      try {
        session.write(source);
      } catch (error) {
        this.#machine.fail(error);
        throw error;
      }
    });
    if (!done) throw new RequestError(errno.EIO, 'the device was reset while state was written');
  }

  startDmaLogging(pageSize: number, ranges: readonly DmaRange[]): number {
    return this.#dirtyLog.start(pageSize, ranges);
  }

  stopDmaLogging(): void {
    this.#dirtyLog.stop();
  }

  reportDmaLogging(iova: number, length: number, pageSize: number, bitmap: Uint8Array): void {
    this.#dirtyLog.report(iova, length, pageSize, bitmap);
  }

  /**
   * The client resets the device (vfio.h: allowed in every state, ends in RUNNING, sessions are over). Call
   * it after the device itself was reset. The dirty log goes on: what was written stays dirty.
   */
  reset(): void {
    this.#machine.reset();
  }

  /**
   * The guest reset the device (a reboot or an FLR). In the PRE_COPY states the migration goes on with a
   * session that starts over: the stream tells the loader to forget what it has, and precopy
   * information announces new initial bytes (`VFIO_PRECOPY_INFO_REINIT`). In any other state the same as
   * `reset()`.
   */
  deviceWasReset(): void {
    if (this.#save !== undefined && (this.state === s.PRE_COPY || this.state === s.PRE_COPY_P2P)) {
      this.#save.restart();
    } else this.#machine.reset();
  }

  /** Ends whatever session is open, without a change of state; when the server closes. */
  close(): void {
    this.#closeSessions();
    this.#dirtyLog.stop();
  }

  #handlers(): ArcHandlers {
    const quiesce = () => this.#hooks.quiesce();
    const stop = () => this.#hooks.stop();
    const resume = () => this.#hooks.resume();
    return {
      RUNNING_RUNNING_P2P: quiesce,
      RUNNING_P2P_RUNNING: resume,
      RUNNING_P2P_STOP: stop,
      // It answers others again by itself.
      STOP_RUNNING_P2P: () => {},
      RUNNING_STOP: () => this.#stopAll(),
      STOP_RUNNING: resume,
      RUNNING_PRE_COPY: () => this.#openSave(true),
      RUNNING_P2P_PRE_COPY_P2P: () => this.#openSave(true),
      PRE_COPY_RUNNING: () => this.#closeSessions(),
      PRE_COPY_P2P_RUNNING_P2P: () => this.#closeSessions(),
      PRE_COPY_PRE_COPY_P2P: quiesce,
      PRE_COPY_P2P_PRE_COPY: resume,
      PRE_COPY_P2P_STOP_COPY: () => this.#finishSave(stop),
      PRE_COPY_STOP_COPY: () => this.#finishSave(() => this.#stopAll()),
      STOP_STOP_COPY: () => this.#openSave(false),
      STOP_COPY_STOP: () => this.#closeSessions(),
      STOP_RESUMING: () => {
        this.#load = new LoadSession(this.#source);
      },
      RESUMING_STOP: () => {
        this.#load?.finish();
        this.#load = undefined;
      },
    };
  }

  #openSave(running: boolean): void {
    this.#hooks.save?.();
    this.#save = new SaveSession(this.#source, running);
  }

  #finishSave(stop: () => void): void {
    this.#save?.assertIntact();
    stop();
    this.#save?.finish();
  }

  /** Without P2P states: both suspensions in one arc, or neither. */
  #stopAll(): void {
    this.#hooks.quiesce();
    try {
      this.#hooks.stop();
    } catch (error) {
      this.#hooks.resume();
      throw error;
    }
  }

  #closeSessions(): void {
    const save = this.#save;
    this.#save = undefined;
    this.#load = undefined;
    save?.close();
  }

  #onReset(): void {
    const { state } = this.#machine;
    const running = state === s.RUNNING || state === s.PRE_COPY;
    this.#attempt('ending the session', () => this.#closeSessions());
    if (!running) this.#attempt('resuming', () => this.#hooks.resume());
  }

  /** A reset always ends in RUNNING: what fails on the way is only told. */
  #attempt(what: string, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#log.warn({ err: error }, `migration: ${what} after a reset failed`);
    }
  }

  #onError(error: unknown): void {
    this.#load = undefined;
    this.#log.warn({ err: error }, 'migration: the device is in ERROR until it is reset');
    this.#hooks.failed(error);
  }
}
