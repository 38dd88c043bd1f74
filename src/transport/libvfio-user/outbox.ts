import { PosixError, sendMessage } from '../../posix/index.ts';

/**
 * The device's own messages on their way to the client. What the socket does not take waits here, and replies of the
 * library with it: they must not get into the middle of a message.
 */
export class Outbox {
  readonly #fd: number;
  /** Told of the socket's error, after which it is of no more use. */
  readonly #failed: (error: PosixError) => void;
  #unsent: Buffer = Buffer.alloc(0);

  constructor(fd: number, failed: (error: PosixError) => void) {
    this.#fd = fd;
    this.#failed = failed;
  }

  /** Whether bytes wait for the client to read. */
  get blocked(): boolean {
    return this.#unsent.length > 0;
  }

  send(bytes: Buffer, length: number, payload: Uint8Array | undefined): void {
    if (this.blocked) {
      this.#unsent = Buffer.concat([this.#unsent, bytes.subarray(0, length), payload ?? Buffer.alloc(0)]);
      return;
    }
    const sent = this.#transmit(bytes, length, payload);
    if (sent === undefined || sent === length + (payload?.length ?? 0)) return;
    this.#unsent = Buffer.concat([bytes.subarray(0, length), payload ?? Buffer.alloc(0)]).subarray(sent);
  }

  /** Sends what waits, as far as the client has read. */
  flush(): void {
    const sent = this.#transmit(this.#unsent, this.#unsent.length, undefined);
    if (sent !== undefined && sent > 0) this.#unsent = this.#unsent.subarray(sent);
  }

  /** Bytes that the socket took; undefined when it failed. */
  #transmit(bytes: Buffer, length: number, payload: Uint8Array | undefined): number | undefined {
    try {
      return Math.max(0, sendMessage(this.#fd, bytes, length, payload, undefined, false));
    } catch (error) {
      if (!(error instanceof PosixError)) throw error;
      this.#failed(error);
      return undefined;
    }
  }
}
