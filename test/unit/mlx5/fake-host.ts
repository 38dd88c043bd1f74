import { type DeviceHost, errno, RequestError, type Timer } from '../../../src/device/index.ts';
import { FlatMemory } from '../../../src/device/testing.ts';
import { type Logger, silentLogger } from '../../../src/log.ts';
import type { FrameOffload, NetPort } from '../../../src/net/types.ts';

export const memoryBytes = 8 * 1024 * 1024;

/** Guest memory from address 0. Traffic writes more than is worth a record of every write. */
export class FakeMemory extends FlatMemory {
  /** The client waits for an answer itself: nothing can be asked of it. Only of interest with `messageOnly`. */
  clientWaits = false;

  constructor(memory: number | Buffer = memoryBytes) {
    super(memory);
  }

  override accessible(iova: number, length: number): boolean {
    if (this.clientWaits && this.messageOnly) throw new RequestError(errno.EAGAIN, 'the client waits itself');
    return super.accessible(iova, length);
  }

  protected override note(): void {}
}

class FakeTimer implements Timer {
  due = Number.POSITIVE_INFINITY;
  readonly callback: () => void;
  readonly #host: FakeHost;

  constructor(host: FakeHost, callback: () => void) {
    this.#host = host;
    this.callback = callback;
  }

  get armed(): boolean {
    return this.due !== Number.POSITIVE_INFINITY;
  }

  arm(delayNs: number): void {
    this.due = this.#host.now() + delayNs;
  }

  cancel(): void {
    this.due = Number.POSITIVE_INFINITY;
  }

  close(): void {
    this.cancel();
    this.#host.timers.delete(this);
  }
}

/** A host whose time moves only when told to. */
export class FakeHost implements DeviceHost {
  /** What the device logged as an error: its own mistakes. */
  readonly errors: unknown[] = [];
  /** Commands that it refused. */
  refusals = 0;
  readonly log: Logger = Object.assign(Object.create(silentLogger), {
    debug: () => {
      this.refusals++;
    },
    error: (...what: unknown[]) => void this.errors.push(what),
  });
  readonly dma: FakeMemory;
  readonly fired: number[] = [];
  readonly timers = new Set<FakeTimer>();
  readonly pci = { busMaster: true, memorySpace: true };
  mayInitiate = true;
  time = 1_000_000;
  /** True: deferred tasks wait for `runDeferred`, as they do for the end of the access that is under way. */
  holdsDeferred = false;
  readonly #deferred: (() => void)[] = [];
  /** Called for each interrupt: the driver's handler. */
  onInterrupt: (vector: number) => void = () => {};
  readonly interrupts = {
    mode: 'msix' as const,
    trigger: (vector: number) => {
      this.fired.push(vector);
      this.onInterrupt(vector);
    },
    setIntx: () => {},
  };
  readonly messages = { read: () => {}, write: () => {} };

  constructor(dma = new FakeMemory()) {
    this.dma = dma;
  }

  barMemory(): Uint8Array {
    throw new Error('no mappable BAR');
  }

  now(): number {
    return this.time;
  }

  timer(callback: () => void): Timer {
    const timer = new FakeTimer(this, callback);
    this.timers.add(timer);
    return timer;
  }

  watch(): never {
    throw new Error('nothing to watch');
  }

  defer(task: () => void): void {
    if (this.holdsDeferred) this.#deferred.push(task);
    else task();
  }

  runDeferred(): void {
    for (const task of this.#deferred.splice(0)) task();
  }

  /** Lets time pass and due timers run, in order. */
  advance(ns: number): void {
    const end = this.time + ns;
    for (;;) {
      const next = [...this.timers].sort((a, b) => a.due - b.due)[0];
      if (next === undefined || next.due > end) break;
      this.time = Math.max(this.time, next.due);
      next.cancel();
      next.callback();
    }
    this.time = end;
  }
}

/** A port whose other end is the test. */
export class FakePort implements NetPort {
  offloads = false;
  segmentsUdp = false;
  linkUp = true;
  accepting = true;
  readonly sent: Buffer[] = [];
  readonly sentOffloads: (FrameOffload | undefined)[] = [];
  readonly announced: string[] = [];
  activated = 0;
  readonly kept: Buffer[] = [];
  closed = false;
  #handler: (frame: Uint8Array) => boolean = () => true;
  #link: (up: boolean) => void = () => {};

  send(parts: readonly Uint8Array[], length: number, offload?: FrameOffload): boolean {
    if (!this.accepting) return false;
    const frame = Buffer.concat(parts);
    if (frame.length !== length) throw new Error(`pieces make ${frame.length} bytes, not ${length}`);
    this.sent.push(frame);
    this.sentOffloads.push(offload === undefined ? undefined : { ...offload });
    return true;
  }

  receive(handler: (frame: Uint8Array) => boolean): void {
    this.#handler = handler;
  }

  ready(): void {
    while (this.kept.length > 0) {
      const frame = this.kept[0];
      if (frame === undefined || !this.#handler(frame)) return;
      this.kept.shift();
    }
  }

  onLink(handler: (up: boolean) => void): void {
    this.#link = handler;
  }

  activate(): void {
    this.activated += 1;
  }

  announce(mac: Uint8Array, vlan?: number): void {
    const name = Buffer.from(mac).toString('hex');
    this.announced.push(vlan === undefined ? name : `${name} in ${vlan}`);
  }

  close(): void {
    this.closed = true;
  }

  /** A frame arrives; true when the device took it at once. */
  inject(frame: Uint8Array): boolean {
    if (this.kept.length === 0 && this.#handler(frame)) return true;
    this.kept.push(Buffer.from(frame));
    return false;
  }

  setLink(up: boolean): void {
    this.linkUp = up;
    this.#link(up);
  }
}
