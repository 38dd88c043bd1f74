import { type DmaRegion, dmaProt, type GuestMemory } from '../dma/types.ts';
import { errno, RequestError } from '../errors.ts';
import { silentLogger } from '../log.ts';
import type { Timer, Watch } from '../loop/types.ts';
import { bulkPieceBytes, type StateRecord } from './migration.ts';
import type {
  BarHandler,
  Device,
  DeviceHost,
  DeviceModel,
  Interrupts,
  OptionTable,
  OptionValues,
} from './model.ts';
import type { BarIndex, PciDescription } from './pci-description.ts';

/** Guest memory that is one plain buffer from address 0; everything outside faults. */
export class FlatMemory implements GuestMemory {
  readonly bytes: Buffer;
  /** Every write in order: what a dirty log would have seen. */
  readonly writes: { iova: number; length: number }[] = [];
  /** No views: as memory that is reached by messages only. */
  messageOnly = false;

  /** @param memory bytes of guest memory, or how many of them */
  constructor(memory: number | Buffer) {
    this.bytes = typeof memory === 'number' ? Buffer.alloc(memory) : memory;
  }

  read(iova: number, target: Uint8Array): void {
    this.#check(iova, target.length);
    this.bytes.copy(target, 0, iova, iova + target.length);
  }

  write(iova: number, source: Uint8Array): void {
    this.#checkWrite(iova, source.length);
    this.bytes.set(source, iova);
  }

  view(iova: number, length: number): Uint8Array | undefined {
    this.#check(iova, length);
    return this.messageOnly ? undefined : this.bytes.subarray(iova, iova + length);
  }

  writableView(iova: number, length: number): Uint8Array | undefined {
    if (this.messageOnly) {
      this.#check(iova, length);
      return undefined;
    }
    this.#checkWrite(iova, length);
    return this.bytes.subarray(iova, iova + length);
  }

  readUint16BE(iova: number): number {
    this.#check(iova, 2);
    return this.bytes.readUInt16BE(iova);
  }

  readUint32BE(iova: number): number {
    this.#check(iova, 4);
    return this.bytes.readUInt32BE(iova);
  }

  readUint32LE(iova: number): number {
    this.#check(iova, 4);
    return this.bytes.readUInt32LE(iova);
  }

  writeUint32BE(iova: number, value: number): void {
    this.#checkWrite(iova, 4);
    this.bytes.writeUInt32BE(value, iova);
  }

  writeUint32LE(iova: number, value: number): void {
    this.#checkWrite(iova, 4);
    this.bytes.writeUInt32LE(value, iova);
  }

  writeUint8(iova: number, value: number): void {
    this.#checkWrite(iova, 1);
    this.bytes.writeUInt8(value, iova);
  }

  accessible(iova: number, length: number): boolean {
    return iova >= 0 && iova + length <= this.bytes.length;
  }

  regions(): readonly DmaRegion[] {
    const size = this.bytes.length;
    return [{ iova: 0, size, prot: dmaProt.read | dmaProt.write, mapped: !this.messageOnly }];
  }

  #check(iova: number, length: number): void {
    if (!this.accessible(iova, length)) {
      throw new RequestError(errno.EFAULT, `0x${iova.toString(16)}+${length} is not guest memory`);
    }
  }

  #checkWrite(iova: number, length: number): void {
    this.#check(iova, length);
    this.note(iova, length);
  }

  /** Told of every write, and of every writable view, to memory that is there. */
  protected note(iova: number, length: number): void {
    this.writes.push({ iova, length });
  }
}

/**
 * A world for one device, with no server and no socket: flat guest memory, a clock that stands still until
 * told, interrupts that are counted. For unit tests of models; deferred work runs in `settle()`.
 */
export class TestHost implements DeviceHost {
  readonly log = silentLogger;
  readonly dma: FlatMemory;
  /** Messages moved, oldest first. */
  readonly messageLog: { kind: 'read' | 'write'; iova: number; length: number }[] = [];
  readonly messages = {
    read: (iova: number, target: Uint8Array): void => {
      this.messageLog.push({ kind: 'read', iova, length: target.length });
      this.dma.read(iova, target);
    },
    write: (iova: number, source: Uint8Array): void => {
      this.messageLog.push({ kind: 'write', iova, length: source.length });
      this.dma.bytes.set(source, iova);
    },
  };
  /** Vectors in the order they were triggered. */
  readonly triggered: number[] = [];
  /** The level of INTx. */
  intx = false;
  /** What the guest has enabled: what `interrupts.mode` says. */
  mode: Interrupts['mode'] = 'msix';
  readonly interrupts: Interrupts;
  readonly pci = { busMaster: true, memorySpace: true };
  mayInitiate = true;
  #time = 0;
  readonly #deferred: (() => void)[] = [];
  readonly #timers = new Set<{ due: number; callback: () => void }>();
  readonly #barMemory = new Map<BarIndex, Uint8Array>();
  #bars: PciDescription['bars'] | undefined;

  /** @param options `memorySize`: bytes of guest memory, default 1 MiB */
  constructor(options: { memorySize?: number } = {}) {
    this.dma = new FlatMemory(options.memorySize ?? 1 << 20);
    const host = this;
    this.interrupts = {
      get mode() {
        return host.mode;
      },
      trigger: (vector) => void this.triggered.push(vector),
      setIntx: (asserted) => {
        this.intx = asserted;
      },
    };
  }

  /** The device that will live here has these BARs. */
  describe(bars: PciDescription['bars']): void {
    this.#bars = bars;
  }

  /** Of a device whose BARs nobody has described, any BAR has 1 MiB. */
  barMemory(bar: BarIndex): Uint8Array {
    const size = this.#bars === undefined ? 1 << 20 : this.#mappableSize(bar);
    let memory = this.#barMemory.get(bar);
    if (memory === undefined) {
      memory = new Uint8Array(size);
      this.#barMemory.set(bar, memory);
    }
    return memory;
  }

  now(): number {
    return this.#time;
  }

  timer(callback: () => void): Timer {
    const entry = { due: Number.POSITIVE_INFINITY, callback };
    this.#timers.add(entry);
    return {
      arm: (delay) => {
        entry.due = this.#time + delay;
      },
      cancel: () => {
        entry.due = Number.POSITIVE_INFINITY;
      },
      get armed() {
        return entry.due !== Number.POSITIVE_INFINITY;
      },
      close: () => void this.#timers.delete(entry),
    };
  }

  watch(): Watch {
    return { modify: () => {}, close: () => {} };
  }

  defer(task: () => void): void {
    this.#deferred.push(task);
  }

  /** Runs deferred work until there is none. */
  settle(): void {
    for (let task = this.#deferred.shift(); task; task = this.#deferred.shift()) task();
  }

  /** Lets `ns` nanoseconds pass, firing timers in order, and settles. */
  advance(ns: number): void {
    const end = this.#time + ns;
    this.settle();
    for (;;) {
      const next = [...this.#timers].sort((a, b) => a.due - b.due)[0];
      if (!next || next.due > end) break;
      this.#time = Math.max(this.#time, next.due);
      next.due = Number.POSITIVE_INFINITY;
      next.callback();
      this.settle();
    }
    this.#time = end;
  }

  #mappableSize(bar: BarIndex): number {
    const { size, mappable = [] } = this.#bars?.[bar] ?? { size: 0 };
    if (mappable.length > 0) return size;
    throw new RequestError(errno.EINVAL, `BAR ${bar} has no mappable part, so no memory of its own`);
  }
}

/** A device of `model` in a `TestHost`, with its options' defaults filled in. */
export function createTestDevice<T extends OptionTable>(
  model: DeviceModel<T>,
  options: Partial<OptionValues<T>> = {},
  host = new TestHost(),
): { device: Device; host: TestHost } {
  const defaults = Object.fromEntries(
    Object.entries(model.options).map(([key, spec]) => [key, spec.default]),
  );
  const values = { ...defaults, ...options } as OptionValues<T>;
  host.describe(model.pci(values).bars);
  return { device: model.create(host, values), host };
}

/** A little-endian register read, as a CPU would do it. */
export function readRegister(bar: BarHandler | undefined, offset: number, width: 1 | 2 | 4 = 4): number {
  const bytes = Buffer.alloc(width);
  bar?.read(offset, width, bytes, 0);
  return bytes.readUIntLE(0, width);
}

/** A little-endian register write; 8 bytes wide for addresses. */
export function writeRegister(
  bar: BarHandler | undefined,
  offset: number,
  value: number,
  width: 1 | 2 | 4 | 8 = 4,
): void {
  const bytes = Buffer.alloc(width);
  if (width === 8) bytes.writeBigUInt64LE(BigInt(value));
  else bytes.writeUIntLE(value, 0, width);
  bar?.write(offset, width, bytes, 0);
}

/** Copies of a record, in as many pieces as it would be loaded in. */
function* copiesOf(record: StateRecord): Iterable<StateRecord> {
  if (!('bytes' in record)) {
    yield structuredClone(record);
    return;
  }
  const { section, offset, bytes } = record;
  for (let at = 0; at < bytes.length; at += bulkPieceBytes)
    yield { section, offset: offset + at, bytes: Uint8Array.from(bytes.subarray(at, at + bulkPieceBytes)) };
}

/**
 * Saves `source` whole and loads the copy into `target`, as a migration would, through fresh copies of all bytes. Neither device is
 * quiesced or resumed.
 * @param version the state version of `source`
 */
export function transplant(source: Device, target: Device, version: number): void {
  const records: StateRecord[] = [];
  for (const record of source.migration?.save() ?? []) records.push(...copiesOf(record));
  target.migration?.beginLoad(version);
  for (const record of records) target.migration?.load(record);
  target.migration?.endLoad();
}
