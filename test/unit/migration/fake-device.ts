import {
  type DeviceMigration,
  type PreCopySession,
  type StateRecord,
  StateRefused,
} from '../../../src/device/index.ts';
import { createDirtyLog } from '../../../src/dma/dirty-scopes.ts';
import { silentLogger } from '../../../src/log.ts';
import {
  MigrationController,
  type MigrationHooks,
  type MigrationOptions,
} from '../../../src/migration/index.ts';

const page = 4096;

/** A small device with registers and memory, and every way to save them that a model may offer. */
export class FakeDevice implements DeviceMigration {
  readonly p2p: boolean;
  readonly geometry: { readonly memorySize: number };
  readonly memory: Buffer;
  registers: Record<string, unknown> = { control: 1, name: 'fake', wide: 2n ** 40n };
  /** Pages written since they were read; undefined when nobody tracks. */
  changed: Set<number> | undefined;
  preCopy?: () => PreCopySession;
  loaded: 'no' | 'loading' | 'yes' = 'no';
  loadVersion = 0;
  /** How often a load began. */
  loads = 0;
  /** Bulk records that came. */
  bulks = 0;
  sessions = 0;
  failNextRecord = false;
  onNext: (() => void) | undefined;

  constructor(options: { p2p?: boolean; preCopy?: boolean; memorySize?: number } = {}) {
    this.p2p = options.p2p ?? true;
    this.memory = Buffer.alloc(options.memorySize ?? 8 * page);
    this.geometry = { memorySize: this.memory.length };
    if (options.preCopy ?? true) this.preCopy = () => this.#preCopy();
  }

  poke(offset: number, value: number): void {
    this.memory[offset] = value;
    this.changed?.add(Math.floor(offset / page));
  }

  reset(): void {
    this.memory.fill(0);
    this.registers = { control: 0 };
    this.loaded = 'no';
  }

  estimate(): number {
    return this.memory.length + 100;
  }

  *save(): Iterable<StateRecord> {
    yield { section: 'memory', offset: 0, bytes: this.memory };
    yield { section: 'registers', value: this.registers };
  }

  beginLoad(version: number): void {
    this.reset();
    this.loaded = 'loading';
    this.loadVersion = version;
    this.loads++;
  }

  load(record: StateRecord): void {
    if ('bytes' in record && record.section === 'memory') {
      if (record.offset + record.bytes.length > this.memory.length)
        throw new StateRefused('outside the memory');
      this.memory.set(record.bytes, record.offset);
      this.bulks++;
    } else if ('value' in record && record.section === 'registers') {
      this.registers = record.value as Record<string, unknown>;
    } else throw new StateRefused(`no section ${record.section}`);
  }

  endLoad(): void {
    if (typeof this.registers.control !== 'number') throw new Error('control is no number');
    this.loaded = 'yes';
  }

  #preCopy(): PreCopySession {
    this.sessions++;
    const initial = new Set(Array.from({ length: this.memory.length / page }, (_, i) => i));
    const changed = new Set<number>();
    this.changed = changed;
    const take = (): StateRecord | undefined => {
      this.onNext?.();
      if (this.failNextRecord) throw new Error('the device can not read itself');
      for (const from of [initial, changed]) {
        for (const number of from) {
          from.delete(number);
          const offset = number * page;
          return { section: 'memory', offset, bytes: this.memory.subarray(offset, offset + page) };
        }
      }
      return undefined;
    };
    const registers = () => this.registers;
    return {
      initialBytes: () => initial.size * page,
      dirtyBytes: () => changed.size * page,
      next: take,
      *final() {
        for (let record = take(); record; record = take()) yield record;
        yield { section: 'registers', value: registers() };
      },
      end: () => {
        this.sessions--;
        if (this.changed === changed) this.changed = undefined;
      },
    };
  }
}

/** A controller over a fake device, with what its hooks were asked. */
export function fakeMigration(
  device: FakeDevice,
  change: Partial<MigrationOptions> & { hook?: (name: string) => void } = {},
) {
  const calls: string[] = [];
  const called = (name: string) => () => {
    calls.push(name);
    change.hook?.(name);
  };
  const hooks: MigrationHooks = {
    quiesce: called('quiesce'),
    stop: called('stop'),
    resume: called('resume'),
    failed: called('failed'),
  };
  let pci: unknown = { command: 7 };
  const controller = new MigrationController({
    model: { name: 'fake', stateVersion: 2, loadsVersions: [1] },
    device,
    framework: [
      {
        section: 'pci',
        save: () => pci,
        load: (value) => {
          pci = value;
        },
      },
    ],
    hooks,
    dirtyLog: createDirtyLog({ scope: 'precise', memory: { regions: () => [] }, attach: () => {} }),
    log: silentLogger,
    ...change,
  });
  return { controller, calls, pci: () => pci, setPci: (value: unknown) => (pci = value) };
}

/** Reads until the stream pauses or ends. */
export function readAll(controller: { read(target: Uint8Array): number }, size = 65536): Buffer {
  const parts: Buffer[] = [];
  for (;;) {
    const target = Buffer.alloc(size);
    const count = controller.read(target);
    parts.push(target.subarray(0, count));
    if (count < size) return Buffer.concat(parts);
  }
}
