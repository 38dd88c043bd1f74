/** What the channel needs of the connection that it sends on. */
export interface DmaPort {
  /** Negotiated, open, and no request of the client is being held up. */
  readonly mayWait: boolean;
  readonly open: boolean;
  /** Output waits for the client to read. */
  readonly blocked: boolean;
  send(bytes: Buffer, length: number, payload?: Uint8Array): void;
  /** Serves the socket; returns whether anything came. Waits for it at most `timeoutMs`. */
  serveWhileWaiting(timeoutMs: number): boolean;
  beginWait(): void;
  endWait(): void;
  /** Monotonic nanoseconds. */
  now(): number;
}

export interface DmaChannelOptions {
  /** Bytes in one message: what both sides have negotiated. */
  readonly chunk: number;
  /** Messages in flight for one `read` or `write`. */
  readonly window: number;
  /** Messages in flight of a byte batch. */
  readonly batchWindow: number;
  /** Longest time without any reply, after which ETIMEDOUT is thrown. */
  readonly timeoutMs: number;
  /**
   * The client is QEMU's, or made after it: make sure first that it uses the specification's layout (see `#probe`), and
   * count on its answer to a refused write even if that was posted (see `postBatch`).
   */
  readonly probe: boolean;
}
