/**
 * The message interrupts of one VFIO index (MSI or MSI-X): an eventfd and a pending bit for each vector.
 * A message goes out when its vector has a descriptor, is not masked and the function is not held; else
 * its pending bit remembers it.
 */

import { pbaSize } from './validate.ts';

/** How descriptors are used and given back; injected, so that nothing here needs a real one. */
export interface DescriptorPort {
  /** Adds one to an eventfd; never blocks. */
  signal(fd: number): void;
  close(fd: number): void;
}

export class MessageVectors {
  readonly count: number;
  /** Pending bits in the layout of the MSI-X PBA: bit 0 of byte 0 is vector 0. */
  readonly pendingBytes: Buffer;
  readonly #fds: (number | undefined)[];
  readonly #port: DescriptorPort;
  readonly #blocked: (vector: number) => boolean;
  readonly #pendingChanged: (() => void) | undefined;
  #pendingCount = 0;
  #connected = 0;

  /** `blocked` tells whether `vector` must not be sent now (masked, held). */
  constructor(
    count: number,
    port: DescriptorPort,
    blocked: (vector: number) => boolean,
    pendingChanged?: () => void,
  ) {
    this.count = count;
    this.pendingBytes = Buffer.alloc(pbaSize(count));
    this.#fds = new Array<number | undefined>(count).fill(undefined);
    this.#port = port;
    this.#blocked = blocked;
    this.#pendingChanged = pendingChanged;
  }

  /** Vectors that have a descriptor. */
  get connected(): number {
    return this.#connected;
  }

  /** Sends the message of `vector`, or remembers it. Returns whether it was sent. */
  trigger(vector: number): boolean {
    const fd = this.#fds[vector];
    if (fd === undefined || this.#blocked(vector)) {
      this.#setPending(vector, true);
      return false;
    }
    this.#setPending(vector, false);
    this.#port.signal(fd);
    return true;
  }

  /** Whether `vector` has a descriptor. */
  isConnected(vector: number): boolean {
    return this.#fds[vector] !== undefined;
  }

  /** Sends what is pending and may go now. */
  flush(): void {
    if (this.#pendingCount === 0) return;
    for (let vector = 0; vector < this.count; vector++) this.#flushOne(vector);
  }

  /** Replaces the descriptor of `vector`; the old one is closed. A pending message goes out by the new one. */
  connect(vector: number, fd: number | undefined): void {
    const old = this.#fds[vector];
    if (old !== undefined) {
      this.#connected--;
      if (old !== fd) this.#port.close(old);
    }
    this.#fds[vector] = fd;
    if (fd === undefined) return;
    this.#connected++;
    this.#flushOne(vector);
  }

  /** Drops all descriptors. */
  disconnect(): void {
    for (let vector = 0; vector < this.count && this.#connected > 0; vector++)
      this.connect(vector, undefined);
  }

  isPending(vector: number): boolean {
    return (((this.pendingBytes[vector >> 3] ?? 0) >> (vector & 7)) & 1) !== 0;
  }

  /** The vectors whose message waits, in order. */
  get pending(): number[] {
    const vectors: number[] = [];
    if (this.#pendingCount === 0) return vectors;
    for (let vector = 0; vector < this.count; vector++) if (this.isPending(vector)) vectors.push(vector);
    return vectors;
  }

  clearPending(): void {
    this.pendingBytes.fill(0);
    this.#pendingCount = 0;
    this.#pendingChanged?.();
  }

  /** Remembers a message without trying to send it. */
  setPending(vector: number): void {
    this.#setPending(vector, true);
  }

  /** Fewer messages than vectors: what waits at one that has none waits at the one that it shares. */
  fold(granted: number): void {
    if (this.#pendingCount === 0) return;
    for (let vector = granted; vector < this.count; vector++) {
      if (!this.isPending(vector)) continue;
      this.#setPending(vector, false);
      this.#setPending(vector % granted, true);
    }
  }

  #flushOne(vector: number): void {
    if (this.isPending(vector)) this.trigger(vector);
  }

  #setPending(vector: number, on: boolean): void {
    const byte = this.pendingBytes[vector >> 3] ?? 0;
    const bit = 1 << (vector & 7);
    if (((byte & bit) !== 0) === on) return;
    this.pendingBytes[vector >> 3] = byte ^ bit;
    this.#pendingCount += on ? 1 : -1;
    this.#pendingChanged?.();
  }
}
