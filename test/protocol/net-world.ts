import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../src/log.ts';
import { createReactor, type Reactor } from '../../src/loop/index.ts';
import { parseMac } from '../../src/net/ethernet.ts';
import { SwitchPort, type SwitchPortOptions } from '../../src/net/switch/client.ts';
import { Switch, type SwitchOptions } from '../../src/net/switch/switch.ts';

const PATIENCE_MS = 10_000;

/** Distinct locally administered unicast addresses. */
export const mac = (n: number): Uint8Array =>
  parseMac(
    `52:54:00:00:${(n >> 8).toString(16).padStart(2, '0')}:${(n & 0xff).toString(16).padStart(2, '0')}`,
  );
export const broadcast: Uint8Array = new Uint8Array(6).fill(0xff);

/** A frame whose payload is a sequence number (and padding). */
export function numbered(to: Uint8Array, from: Uint8Array, sequence: number, length = 64): Buffer {
  const frame = Buffer.alloc(length);
  frame.set(to, 0);
  frame.set(from, 6);
  frame.writeUInt16BE(0x88b5, 12);
  frame.writeUInt32BE(sequence, 14);
  return frame;
}
export const sequenceOf = (frame: Uint8Array): number => Buffer.from(frame).readUInt32BE(14);

/** What a port's device took; `room` false makes it refuse. */
export interface Inbox {
  frames: Buffer[];
  room: boolean;
  readonly sequences: number[];
}

/** A loop, a directory, a switch; everything closed at the end. */
export class NetWorld {
  readonly reactor: Reactor = createReactor({
    busyWaitNs: 0,
    onError: (error) => {
      this.errors.push(error);
    },
  });
  readonly log = silentLogger;
  readonly directory = mkdtempSync(join(tmpdir(), 'vc-net-'));
  readonly errors: unknown[] = [];
  #named = 0;
  readonly #closers: (() => void)[] = [];

  path(name: string): string {
    return join(this.directory, name);
  }

  own<T extends { close(): void }>(thing: T): T {
    this.#closers.push(() => thing.close());
    return thing;
  }

  onClose(action: () => void): void {
    this.#closers.push(action);
  }

  makeSwitch(options: Partial<SwitchOptions> = {}): Switch {
    return this.own(new Switch({ reactor: this.reactor, log: this.log, path: this.path('sw'), ...options }));
  }

  port(options: Partial<SwitchPortOptions> = {}): SwitchPort {
    return this.own(
      new SwitchPort({ reactor: this.reactor, log: this.log, path: this.path('sw'), ...options }),
    );
  }

  /** A port with an inbox, known to the switch. */
  async joined(network: Switch, options: Partial<SwitchPortOptions> = {}): Promise<[SwitchPort, Inbox]> {
    const name = options.name ?? `port-${++this.#named}`;
    const port = this.port({ ...options, name });
    const box = inbox(port);
    await this.until(() => network.stats.ports.some((joined) => joined.name === name));
    await this.settle();
    return [port, box];
  }

  /** Runs the loop until it is so. */
  async until(condition: () => boolean): Promise<void> {
    const end = Date.now() + PATIENCE_MS;
    while (!condition()) {
      if (this.errors.length > 0) throw this.errors[0];
      if (Date.now() > end) throw new Error(`never came true: ${condition}`);
      this.reactor.turn(5);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Runs the loop until nothing is ready any more: all of this world is in this process. */
  async settle(): Promise<void> {
    for (let round = 0; round < 20; round++) {
      this.reactor.turn(0);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  close(): void {
    for (const close of this.#closers.reverse()) close();
    this.reactor.close();
    rmSync(this.directory, { recursive: true, force: true });
    if (this.errors.length > 0) throw this.errors[0];
  }
}

export function inbox(port: { receive(handler: (frame: Uint8Array) => boolean): void }): Inbox {
  const box: Inbox = {
    frames: [],
    room: true,
    get sequences() {
      return this.frames.map(sequenceOf);
    },
  };
  port.receive((frame) => {
    if (!box.room) return false;
    box.frames.push(Buffer.from(frame));
    return true;
  });
  return box;
}
