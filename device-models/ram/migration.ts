import {
  CompanionError,
  type DeviceMigration,
  PageTracker,
  type PreCopySession,
  type RegisterBlock,
  type StateRecord,
} from '../../src/device/index.ts';
import type { DmaEngine, Transfer } from './dma-engine.ts';
import type { BoardMemory } from './memory.ts';
import type { registers } from './registers.ts';

/** Pages in one record: 1 MiB. */
const runLimit = 256;

class RamStateError extends CompanionError {
  constructor(message: string) {
    super('VC_RAM_STATE', message);
  }
}

/** How a `ram` device travels: its registers, a transfer under way, and the pages that were ever written. */
export class RamMigration implements DeviceMigration {
  readonly p2p = true;
  readonly geometry: { readonly memorySize: number };
  readonly #bank: RegisterBlock<typeof registers>;
  readonly #memory: BoardMemory;
  readonly #engine: DmaEngine;
  readonly #reset: () => void;

  constructor(
    bank: RegisterBlock<typeof registers>,
    memory: BoardMemory,
    engine: DmaEngine,
    reset: () => void,
  ) {
    this.#bank = bank;
    this.#memory = memory;
    this.#engine = engine;
    this.#reset = reset;
    this.geometry = { memorySize: memory.bytes.length };
  }

  estimate(): number {
    return 512 + this.#memory.written.count * this.#memory.written.pageSize;
  }

  *save(): Iterable<StateRecord> {
    const left = new PageTracker(this.#memory.bytes.length);
    left.copyFrom(this.#memory.written);
    for (let record = this.#takePages(left); record; record = this.#takePages(left)) yield record;
    yield this.#saveRegisters();
  }

  preCopy(): PreCopySession {
    const initial = new PageTracker(this.#memory.bytes.length);
    initial.copyFrom(this.#memory.written);
    const changes = new PageTracker(this.#memory.bytes.length);
    this.#memory.changes = changes;
    const take = (): StateRecord | undefined => this.#takePages(initial) ?? this.#takePages(changes);
    const saveRegisters = (): StateRecord => this.#saveRegisters();
    return {
      initialBytes: () => initial.count * initial.pageSize,
      dirtyBytes: () => changes.count * changes.pageSize,
      next: take,
      *final() {
        for (let record = take(); record; record = take()) yield record;
        yield saveRegisters();
      },
      end: () => {
        if (this.#memory.changes === changes) this.#memory.changes = undefined;
      },
    };
  }

  beginLoad(): void {
    this.#reset();
    this.#memory.clear();
  }

  load(record: StateRecord): void {
    if (record.section === 'memory' && 'bytes' in record) {
      const { offset, bytes } = record;
      if (!Number.isSafeInteger(offset) || offset < 0 || offset + bytes.length > this.#memory.bytes.length) {
        throw new RamStateError(`memory at 0x${offset.toString(16)} lies outside the device`);
      }
      this.#memory.touch(offset, bytes.length);
      this.#memory.bytes.set(bytes, offset);
    } else if (record.section === 'registers' && 'value' in record) {
      this.#loadRegisters(record.value);
    } else throw new RamStateError(`there is no section "${record.section}" in a ram device`);
  }

  endLoad(): void {}

  /** The next run of marked pages, taken off `pages`. Re-read later if the guest writes again meanwhile. */
  #takePages(pages: PageTracker): StateRecord | undefined {
    const first = pages.next(0);
    if (first < 0) return undefined;
    const count = pages.run(first, runLimit);
    for (let page = first; page < first + count; page++) pages.clear(page);
    const offset = first * pages.pageSize;
    return {
      section: 'memory',
      offset,
      bytes: this.#memory.bytes.subarray(offset, offset + count * pages.pageSize),
    };
  }

  #saveRegisters(): StateRecord {
    const { transfer } = this.#engine;
    return {
      section: 'registers',
      value: { bank: this.#bank.save(), transfer: transfer ? { ...transfer } : null },
    };
  }

  #loadRegisters(value: unknown): void {
    const { bank, transfer } = (value ?? {}) as { bank?: unknown; transfer?: Partial<Transfer> | null };
    this.#bank.load(bank);
    if (this.#bank.get('MEMORY_SIZE') !== this.#memory.bytes.length)
      throw new RamStateError('MEMORY_SIZE differs');
    this.#engine.transfer = undefined;
    if (transfer === null) return;
    const { direction, guestAddress, deviceAddress, left } = transfer ?? {};
    const given = { direction, guestAddress, deviceAddress, left } as Transfer;
    if (!this.#engine.validTransfer(given))
      throw new RamStateError('the transfer under way is not a valid one');
    this.#engine.transfer = given;
  }
}
