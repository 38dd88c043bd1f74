import { CompanionError, errno } from '../errors.ts';
import type { Logger } from '../log.ts';

/** Answers every access to a device whose own code failed, until it is reset. */
export class DeviceBrokenError extends CompanionError {
  constructor(name: string) {
    super('VC_DEVICE_BROKEN', `device ${name} is broken: its model failed`, {
      errno: errno.EIO,
      hint: 'reset the device; the log has the stack of the failure',
    });
  }
}

/**
 * Stands between the framework and a model's code: what the model throws on purpose (`CompanionError`)
 * answers the request, anything else is a bug of the model and breaks this one device.
 */
export class DeviceHealth {
  readonly #name: string;
  readonly #log: Logger;
  readonly #onBroken: () => void;
  #broken = false;
  #closed = false;
  #depth = 0;

  constructor(name: string, log: Logger, onBroken: () => void) {
    this.#name = name;
    this.#log = log;
    this.#onBroken = onBroken;
  }

  get broken(): boolean {
    return this.#broken;
  }

  /** Whether the model's code is on the stack, in the middle of something. */
  get busy(): boolean {
    return this.#depth > 0;
  }

  /** The model's code is called for a request; to be followed by `leave` in any case. */
  enter(): void {
    this.#depth += 1;
  }

  leave(): void {
    this.#depth -= 1;
  }

  /** Throws when the device is broken. */
  check(): void {
    if (this.#broken) throw new DeviceBrokenError(this.#name);
  }

  /** Called with whatever a model's code threw inside a request; always throws. */
  failed(error: unknown): never {
    if (error instanceof CompanionError) throw error;
    this.#break(error);
    throw new DeviceBrokenError(this.#name);
  }

  /** Runs model code that nobody waits for (timers, deferred work): nothing leaves it. */
  run(task: () => void): void {
    if (this.#broken || this.#closed) return;
    this.#depth += 1;
    try {
      task();
    } catch (error) {
      if (error instanceof CompanionError) this.#log.warn({ err: error }, `${this.#name}: ${error.message}`);
      else this.#break(error);
    } finally {
      this.#depth -= 1;
    }
  }

  /** A reset makes the device whole again. */
  mend(): void {
    if (this.#broken) this.#log.info(`${this.#name}: reset after a failure`);
    this.#broken = false;
  }

  /** The model is closed: what it had put off is not done any more. */
  close(): void {
    this.#closed = true;
  }

  #break(error: unknown): void {
    if (this.#broken) return;
    this.#broken = true;
    this.#log.error(
      { err: error },
      `${this.#name}: the model failed; the device is broken until it is reset`,
    );
    this.#onBroken();
  }
}
