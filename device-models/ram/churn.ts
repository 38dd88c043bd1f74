import type { DeviceHost, RegisterBlock, Timer } from '../../src/device/index.ts';
import type { registers } from './registers.ts';

const pageSize = 4096;
/** Writes made up for at once when the loop was late. */
const burst = 64;

/**
 * Writes guest memory without being asked again: page after page of a ring gets the running number of
 * the write in its first four bytes. What a NIC's receive queue does to a migration, without a NIC.
 */
export class ChurnEngine {
  readonly #host: DeviceHost;
  readonly #bank: RegisterBlock<typeof registers>;
  readonly #timer: Timer;
  #due = 0;

  constructor(host: DeviceHost, bank: RegisterBlock<typeof registers>) {
    this.#host = host;
    this.#bank = bank;
    this.#timer = host.timer(() => this.#tick());
  }

  /** Call after CHURN_INTERVAL changed, and when the device runs again. */
  arm(): void {
    this.#due = this.#host.now();
    this.#next();
  }

  stop(): void {
    this.#timer.cancel();
  }

  close(): void {
    this.#timer.close();
  }

  get #intervalNs(): number {
    return this.#bank.get('CHURN_INTERVAL') * 1000;
  }

  #next(): void {
    const interval = this.#intervalNs;
    if (interval === 0 || this.#bank.get('CHURN_PAGES') === 0) {
      this.#timer.cancel();
      return;
    }
    this.#due += interval;
    this.#timer.arm(Math.max(0, this.#due - this.#host.now()));
  }

  #tick(): void {
    if (!this.#host.mayInitiate || !this.#host.pci.busMaster) return;
    const now = this.#host.now();
    for (let writes = 0; writes < burst; writes++) {
      if (!this.#write()) return;
      if (this.#due + this.#intervalNs > now) break;
      this.#due += this.#intervalNs;
    }
    if (this.#due + this.#intervalNs * burst < now) this.#due = now;
    this.#next();
  }

  #write(): boolean {
    const pages = this.#bank.get('CHURN_PAGES');
    const count = (this.#bank.get('CHURN_COUNT') + 1) >>> 0;
    if (pages === 0) return false;
    try {
      this.#host.dma.writeUint32LE(this.#bank.get('CHURN_ADDRESS') + (count % pages) * pageSize, count);
    } catch (error) {
      this.#host.log.warn({ err: error }, 'ram: the churn ring is not guest memory; churn is off');
      this.#bank.set('CHURN_INTERVAL', 0);
      return false;
    }
    this.#bank.set('CHURN_COUNT', count);
    return true;
  }
}
