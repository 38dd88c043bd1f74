import { errno, RequestError } from '../../errors.ts';
import type { DmaPort } from './port.ts';
import type { Transfer } from './transfer.ts';

/** Tries to receive before the thread sleeps: a reply usually takes some microseconds. */
const triesBeforeSleep = 40;
const nsPerMs = 1e6;

/** How a channel waits for replies, and what ends the wait: time, the client leaving, a reset. */
export class ReplyWait {
  readonly #port: DmaPort;
  readonly #timeoutMs: number;
  #cancelled = false;

  /** @param timeoutMs longest time without any reply to a call */
  constructor(port: DmaPort, timeoutMs: number) {
    this.#port = port;
    this.#timeoutMs = timeoutMs;
  }

  /** Ends all waits, and refuses further ones until `allow()`. */
  cancel(): void {
    this.#cancelled = true;
  }

  allow(): void {
    this.#cancelled = false;
  }

  /** Between `cancel()` and `allow()`. */
  get cancelled(): boolean {
    return this.#cancelled;
  }

  /** Throws ECANCELED between `cancel()` and `allow()`. */
  checkCancelled(): void {
    if (!this.#cancelled) return;
    throw new RequestError(errno.ECANCELED, 'DMA by message: the client resets the device');
  }

  /** Serves the connection until something has come. Throws ETIMEDOUT, ENOTCONN, ECANCELED. */
  once(transfer: Transfer): void {
    const port = this.#port;
    const { inFlight } = transfer;
    for (let tries = 0; tries < triesBeforeSleep; tries++) {
      this.checkCancelled();
      if (port.serveWhileWaiting(0)) {
        // Something else has come: a client that goes on asking must not be waited for for ever.
        if (transfer.inFlight === inFlight) this.#timeLeft(transfer);
        return;
      }
      if (!port.open) this.#disconnected(transfer);
    }
    this.asleep(transfer);
  }

  /** As `once`, at once leaving the processor to the client. */
  asleep(transfer: Transfer): void {
    const port = this.#port;
    this.checkCancelled();
    port.serveWhileWaiting(Math.ceil(this.#timeLeft(transfer)));
    if (!port.open) this.#disconnected(transfer);
  }

  /** Milliseconds, above 0; throws ETIMEDOUT. */
  #timeLeft(transfer: Transfer): number {
    const left = this.#timeoutMs - (this.#port.now() - transfer.progress) / nsPerMs;
    if (left > 0) return left;
    throw new RequestError(
      errno.ETIMEDOUT,
      `DMA by message: the client has not answered for ${this.#timeoutMs} ms, requests open: ${transfer.inFlight}`,
      { hint: 'is QEMU stuck or stopped?' },
    );
  }

  #disconnected(transfer: Transfer): never {
    throw new RequestError(
      errno.ENOTCONN,
      `DMA by message: the client left with ${transfer.inFlight} requests open`,
    );
  }
}
