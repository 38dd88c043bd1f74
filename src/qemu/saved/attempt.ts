/** Work that can be given up: by who has asked for it, or because a party is gone. */
import type { CompanionError } from '../../errors.ts';
import { refusal } from '../errors.ts';

export class Attempt {
  readonly #controller = new AbortController();
  readonly #never: Promise<never>;
  readonly #asked: AbortSignal | undefined;
  readonly #cancel: () => void;
  #done = false;

  /**
   * @param what it is, for the message: "saving"
   * @param asked aborted by who has asked for it
   */
  constructor(what: string, asked: AbortSignal | undefined) {
    const { signal } = this.#controller;
    this.#never = new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason));
    });
    this.#never.catch(() => undefined);
    this.#asked = asked;
    this.#cancel = () => this.fail(refusal('VC_CANCELLED', `${what} was cancelled`));
    if (asked?.aborted === true) this.#cancel();
    else asked?.addEventListener('abort', this.#cancel, { once: true });
  }

  /** Aborted when all is given up; the reason is the error. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Gives up: every wait ends with `error`. The first reason stays. */
  fail(error: CompanionError): void {
    if (!this.#done) this.#giveUp(error);
  }

  /** From now on nothing can be given up any more. */
  commit(): void {
    this.#done = true;
  }

  /** What has ended the work, which fails with `error`: that, or what had it given up. Nothing of it goes on. */
  reasonFor(error: unknown): unknown {
    this.#giveUp(error);
    return this.signal.reason;
  }

  /** Waits for `work`, or for the reason to give up. */
  async until<T>(work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    return Promise.race([work, this.#never]);
  }

  /** Nothing is listened to any more. */
  end(): void {
    this.#asked?.removeEventListener('abort', this.#cancel);
  }

  #giveUp(error: unknown): void {
    if (!this.signal.aborted) this.#controller.abort(error);
  }
}
