/**
 * MSI-X table and pending bit array as regions of a BAR (PCI Local Bus 3.0 section 6.8.2).
 *
 * QEMU's client emulates the table and never forwards a write to it, but forwards PBA reads. Other clients
 * may write it here: then the mask bit of each vector control that was written is honoured. One that was
 * never written reads as masked, its power-on value, and masks nothing.
 */

import { errno, RequestError } from '../errors.ts';
import { PciStateError } from './errors.ts';
import { msixEntrySize } from './validate.ts';

/** A part of a BAR that belongs to MSI-X and not to the device model. */
export interface BarWindow {
  readonly bar: number;
  readonly offset: number;
  readonly size: number;
  /** Offsets count from the start of the window. */
  read(offset: number, count: number, target: Buffer, at: number): void;
  write(offset: number, count: number, source: Buffer, at: number): void;
}

const vectorControlOffset = 12;
const vectorControl = { maskBit: 1 } as const;

/** Saved form: present only if a client has written the table here. */
export interface MsixTableState {
  readonly entries: Uint8Array;
  /** Vectors whose vector control was written. */
  readonly controlWritten: readonly number[];
}

export class MsixTable {
  readonly size: number;
  readonly #vectors: number;
  readonly #entries: Buffer;
  readonly #controlWritten: Uint8Array;
  readonly #unmasked: () => void;
  #anyWritten = false;

  /** `unmasked` is called after a write that has opened a vector. */
  constructor(vectors: number, unmasked: () => void) {
    this.#vectors = vectors;
    this.size = vectors * msixEntrySize;
    this.#entries = Buffer.alloc(this.size);
    this.#controlWritten = new Uint8Array(vectors);
    this.#unmasked = unmasked;
    this.reset();
  }

  read(offset: number, count: number, target: Buffer, at: number): void {
    checkWindow('MSI-X table', this.size, offset, count);
    this.#entries.copy(target, at, offset, offset + count);
  }

  /** Any size and alignment. Of vector control only the mask bit is writable. */
  write(offset: number, count: number, source: Buffer, at: number): void {
    checkWindow('MSI-X table', this.size, offset, count);
    let opened = false;
    for (let i = 0; i < count; i++) {
      const o = offset + i;
      const value = source[at + i] ?? 0;
      const field = o % msixEntrySize;
      if (field < vectorControlOffset) this.#entries[o] = field === 0 ? value & 0xfc : value;
      else if (field === vectorControlOffset) {
        const vector = (o - field) / msixEntrySize;
        this.#controlWritten[vector] = 1;
        this.#entries[o] = value & vectorControl.maskBit;
        if ((value & vectorControl.maskBit) === 0) opened = true;
      }
      this.#anyWritten = true;
    }
    if (opened) this.#unmasked();
  }

  /** Whether a client has masked `vector` through this table. */
  masks(vector: number): boolean {
    if (this.#controlWritten[vector] !== 1) return false;
    return ((this.#entries[vector * msixEntrySize + vectorControlOffset] ?? 0) & vectorControl.maskBit) !== 0;
  }

  /** Power-on contents: zero, every vector masked, nothing written. */
  reset(): void {
    this.#entries.fill(0);
    for (let vector = 0; vector < this.#vectors; vector++)
      this.#entries[vector * msixEntrySize + vectorControlOffset] = vectorControl.maskBit;
    this.#controlWritten.fill(0);
    this.#anyWritten = false;
  }

  save(): MsixTableState | undefined {
    if (!this.#anyWritten) return undefined;
    const controlWritten: number[] = [];
    this.#controlWritten.forEach((written, vector) => {
      if (written === 1) controlWritten.push(vector);
    });
    return { entries: Uint8Array.from(this.#entries), controlWritten };
  }

  /** Throws `PciStateError`, unchanged, for what `save()` cannot have given. */
  load(saved: unknown): void {
    const state = checkTableState(saved, this.size, this.#vectors);
    this.reset();
    if (state === undefined) return;
    this.#entries.set(state.entries);
    // Reserved bits are zero, whatever the saved bytes say.
    for (let vector = 0; vector < this.#vectors; vector++) {
      const at = vector * msixEntrySize;
      this.#entries[at] = (this.#entries[at] ?? 0) & 0xfc;
      const control = (this.#entries[at + vectorControlOffset] ?? 0) & vectorControl.maskBit;
      this.#entries.fill(0, at + vectorControlOffset, at + msixEntrySize);
      this.#entries[at + vectorControlOffset] = control;
    }
    for (const vector of state.controlWritten) this.#controlWritten[vector] = 1;
    this.#anyWritten = true;
  }
}

/** Checks the saved form without loading it; undefined when nothing was saved. */
export function checkTableState(saved: unknown, size: number, vectors: number): MsixTableState | undefined {
  if (saved === undefined || saved === null) return undefined;
  const state = saved as Partial<Record<keyof MsixTableState, unknown>>;
  const { entries, controlWritten } = state;
  if (!(entries instanceof Uint8Array) || entries.length !== size)
    throw new PciStateError(`saved MSI-X table is not ${size} bytes`);
  return { entries, controlWritten: checkVectors('MSI-X table', controlWritten, vectors) };
}

/** A list of different vectors below `vectors`. */
export function checkVectors(what: string, list: unknown, vectors: number): number[] {
  if (!Array.isArray(list) || list.length > vectors)
    throw new PciStateError(`saved ${what}: not a list of at most ${vectors} vectors`);
  return list.map((vector: unknown) => {
    if (typeof vector !== 'number' || !Number.isInteger(vector) || vector < 0 || vector >= vectors)
      throw new PciStateError(`saved ${what}: vector ${String(vector)} does not exist, there are ${vectors}`);
    return vector;
  });
}

/** Throws EINVAL unless `[offset, offset + count)` lies within `size`. */
export function checkWindow(what: string, size: number, offset: number, count: number): void {
  const whole = Number.isInteger(offset) && Number.isInteger(count);
  if (!whole || offset < 0 || count < 0 || offset + count > size)
    throw new RequestError(errno.EINVAL, `${what} has ${size} bytes: no ${count} at offset ${offset}`);
}
