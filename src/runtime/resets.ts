import type { Device, ResetKind } from '../device/model.ts';
import type { Logger } from '../log.ts';
import type { ConfigSpace, InterruptController } from '../pci/index.ts';
import type { DeviceActivity } from './activity.ts';
import type { Doorbells } from './doorbells.ts';
import type { DeviceHealth } from './health.ts';

export interface ResetParts {
  readonly name: string;
  readonly log: Logger;
  readonly config: ConfigSpace;
  readonly interrupts: InterruptController;
  readonly doorbells: Doorbells;
  readonly health: DeviceHealth;
  readonly activity: DeviceActivity;
  device(): Device;
  /** As `ClientLink.unwind`; false when there is no client either. */
  unwind(then: () => void): boolean;
  /** The guest has reset the function, and that is done. */
  functionWasReset(): void;
}

/** Resets of a device: of all of it at once, or by the guest (FLR), which may come while the model is in the middle of something. */
export class DeviceResets {
  readonly #parts: ResetParts;
  /** By a function level reset that came while the model was at work. */
  #modelDue = false;

  constructor(parts: ResetParts) {
    this.#parts = parts;
  }

  /** Whether the model is still to be reset: it is neither what it was nor new. */
  get due(): boolean {
    return this.#modelDue;
  }

  all(kind: ResetKind): void {
    const { log, name, config, doorbells } = this.#parts;
    log.debug(`${name}: reset (${kind})`);
    config.reset(kind);
    doorbells.forget();
    this.#model(kind);
  }

  /** In the middle of the model's DMA by message, the model is reset once it has unwound, and can do no harm until then. */
  functionLevel(): void {
    const { health, config, doorbells, interrupts, unwind, functionWasReset } = this.#parts;
    if (health.busy && unwind(() => this.unwound())) {
      config.reset('flr');
      // Not when it has unwound: what rings from now on is for the device after that.
      doorbells.forget();
      interrupts.hold();
      this.#modelDue = true;
      return;
    }
    this.all('flr');
    functionWasReset();
  }

  /** The model is in the middle of nothing any more, or nobody is left whom it waits for. */
  unwound(): void {
    if (!this.#modelDue) return;
    this.#modelDue = false;
    const { log, name, activity, interrupts, functionWasReset } = this.#parts;
    log.debug(`${name}: reset of the model`);
    this.#model('flr');
    if (activity.active) interrupts.release();
    functionWasReset();
  }

  #model(kind: ResetKind): void {
    const { health, interrupts, device } = this.#parts;
    health.mend();
    interrupts.reset();
    health.run(() => device().reset(kind));
  }
}
