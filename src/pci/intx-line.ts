/**
 * INTx as VFIO offers it: a level inside the function, an event outside. When the line fires it masks
 * itself (VFIO_IRQ_INFO_AUTOMASKED); the client unmasks after the guest has served it, and it fires
 * again if the level is still there.
 */

import type { DescriptorPort } from './message-vectors.ts';

export class IntxLine {
  readonly #port: DescriptorPort;
  readonly #allowed: () => boolean;
  #fd: number | undefined;
  #asserted = false;
  #masked = false;

  /** `allowed` tells whether the function may use INTx now (not disabled, no messages, not held). */
  constructor(port: DescriptorPort, allowed: () => boolean) {
    this.#port = port;
    this.#allowed = allowed;
  }

  get asserted(): boolean {
    return this.#asserted;
  }

  get masked(): boolean {
    return this.#masked;
  }

  get connected(): boolean {
    return this.#fd !== undefined;
  }

  /** Sets the level; fires if that makes the line due. */
  setLevel(asserted: boolean): void {
    this.#asserted = asserted;
    this.evaluate();
  }

  /** Sets the level without firing (a load). */
  restoreLevel(asserted: boolean): void {
    this.#asserted = asserted;
    this.#masked = false;
  }

  mask(): void {
    this.#masked = true;
  }

  /** The client is ready for another event. */
  unmask(): void {
    this.#masked = false;
    this.evaluate();
  }

  /**
   * Replaces the descriptor; the old one is closed. The first one starts unmasked, one that takes another's
   * place keeps the mask: an event may be under way (as kernel vfio).
   */
  connect(fd: number | undefined): void {
    if (this.#fd === undefined) this.#masked = false;
    else if (this.#fd !== fd) this.#port.close(this.#fd);
    this.#fd = fd;
    this.evaluate();
  }

  /** Fires if the level is asserted, the line not masked and its use allowed. */
  evaluate(): void {
    if (!this.#asserted || this.#masked || this.#fd === undefined || !this.#allowed()) return;
    this.#masked = true;
    this.#port.signal(this.#fd);
  }

  /** A client's loopback test: signals whatever level and mask are, and changes neither. */
  loopback(): void {
    if (this.#fd !== undefined) this.#port.signal(this.#fd);
  }

  /** Level gone and mask open; the descriptor stays. */
  reset(): void {
    this.#asserted = false;
    this.#masked = false;
  }
}
