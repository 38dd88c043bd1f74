import { errno, RequestError } from '../errors.ts';
import { type ArcName, arcsOf, arcTable, pathBetween } from './arcs.ts';
import {
  type FeatureSet,
  flagsOf,
  isMigrationState,
  type MigrationState,
  migrationState,
  stateName,
} from './state.ts';

/** What a device does on each arc. Throwing refuses the arc: the state stays where it was. */
export type ArcHandlers = { readonly [K in ArcName]?: () => void };

export interface StateMachineOptions {
  readonly features: FeatureSet;
  readonly handlers: ArcHandlers;
  /** The machine was reset: whatever session is open is over. Runs once the arc under way has returned. */
  onReset(): void;
  /** The machine has gone to ERROR because of `error`. */
  onError(error: unknown): void;
  /** Each state entered, for logs and traces. */
  onEnter?(state: MigrationState, from: MigrationState): void;
}

/**
 * Walks the migration state machine of one device. Handlers run one arc at a time and to completion; a
 * handler that serves other requests meanwhile (a device that waits for a DMA reply) may see a reset
 * arrive: it is kept until the arc has returned and ends the walk. Any other request in that time is
 * answered with EBUSY instead of being run inside the first one.
 */
export class StateMachine {
  readonly features: FeatureSet;
  readonly flags: number;
  readonly #options: StateMachineOptions;
  #state: MigrationState = migrationState.RUNNING;
  /** The arc, read or write that is running, for messages. */
  #running: string | undefined;
  #resetWanted = false;
  #resets = 0;

  constructor(options: StateMachineOptions) {
    this.#options = options;
    this.features = options.features;
    this.flags = flagsOf(options.features);
    const missing = arcsOf(options.features).find((name) => options.handlers[name] === undefined);
    if (missing !== undefined) throw new TypeError(`no handler for the arc ${missing}`);
  }

  get state(): MigrationState {
    return this.#state;
  }

  /**
   * Walks to `target`. Throws EINVAL and does nothing when that is forbidden. When an arc fails its error
   * is thrown and the state is the last one reached, or ERROR if the arc left RESUMING.
   */
  request(target: number): void {
    if (!isMigrationState(target)) {
      throw new RequestError(errno.EINVAL, `${target} is not a migration state`);
    }
    const path = pathBetween(this.features, this.#state, target);
    if (path === undefined) {
      throw new RequestError(
        errno.EINVAL,
        `a device in ${stateName(this.#state)} can't go to ${stateName(target)}`,
        this.#state === migrationState.ERROR ? { hint: 'Reset the device: that alone leaves ERROR.' } : {},
      );
    }
    for (const name of path) {
      const handler = this.#options.handlers[name];
      if (handler === undefined) throw new TypeError(`no handler for the arc ${name}`);
      const before = this.#state;
      const done = this.exclusive(`${stateName(before)} → ${stateName(arcTable[name][1])}`, () => {
        try {
          handler();
        } catch (error) {
          if (before === migrationState.RESUMING) this.fail(error);
          throw error;
        }
        this.#enter(arcTable[name][1]);
      });
      if (!done) {
        throw new RequestError(errno.EIO, `the device was reset on its way to ${stateName(target)}`);
      }
    }
  }

  /**
   * Runs `work` as the only request, then a reset that came meanwhile. Returns false when there was one.
   * For everything that must not meet an arc: reading and writing the stream.
   */
  exclusive(what: string, work: () => void): boolean {
    if (this.#running !== undefined) {
      throw new RequestError(errno.EBUSY, `${what} was asked for during ${this.#running}`);
    }
    const resets = this.#resets;
    this.#running = what;
    try {
      work();
    } finally {
      this.#running = undefined;
      if (this.#resetWanted) this.#reset();
    }
    return this.#resets === resets;
  }

  /** RUNNING, from any state; at once, or when what is under way has returned. */
  reset(): void {
    this.#resetWanted = true;
    if (this.#running === undefined) this.#reset();
  }

  /** ERROR, because of `error`; for failures outside an arc (a chunk that can't be loaded). */
  fail(error: unknown): void {
    this.#enter(migrationState.ERROR);
    this.#options.onError(error);
  }

  #reset(): void {
    this.#resetWanted = false;
    this.#resets++;
    this.#options.onReset();
    this.#enter(migrationState.RUNNING);
  }

  #enter(state: MigrationState): void {
    const from = this.#state;
    this.#state = state;
    if (from !== state) this.#options.onEnter?.(state, from);
  }
}
