import { StateRefused } from '../../../src/device/index.ts';
import { isAddress } from '../work-queue.ts';

/** A saved value, taken apart with a check at every step: it comes from a peer. */
export class StateReader {
  readonly #value: Readonly<Record<string, unknown>>;
  readonly #where: string;

  /** @throws StateRefused when `value` has no named fields */
  constructor(value: unknown, where: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new StateRefused(`${where} is no record`);
    }
    this.#value = value as Readonly<Record<string, unknown>>;
    this.#where = where;
  }

  refuse(name: string, what: string): StateRefused {
    return new StateRefused(`${this.#where}.${name} ${what}`);
  }

  /** Whole number from `min` to `max`. */
  number(name: string, min: number, max: number): number {
    const value = this.#value[name];
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      throw this.refuse(name, `is not a whole number from ${min} to ${max}`);
    }
    return value;
  }

  uint(name: string, bits: number): number {
    return this.number(name, 0, 2 ** bits - 1);
  }

  /** A number that states of the same version may lack: its meaning then is the model's. */
  optionalUint(name: string, bits: number): number | undefined {
    return this.#value[name] === undefined ? undefined : this.uint(name, bits);
  }

  /** Where `length` bytes may be that a guest named: as the commands take it. */
  address(name: string, length: number, alignment = 1): number {
    const value = this.number(name, 0, Number.MAX_SAFE_INTEGER);
    if (!isAddress(value, length, alignment)) throw this.refuse(name, 'is no address');
    return value;
  }

  /** A counter: any finite number from 0. */
  counter(name: string): number {
    const value = this.#value[name];
    if (typeof value !== 'number' || !(value >= 0) || value > Number.MAX_SAFE_INTEGER) {
      throw this.refuse(name, 'is not a counter');
    }
    return value;
  }

  boolean(name: string): boolean {
    const value = this.#value[name];
    if (typeof value !== 'boolean') throw this.refuse(name, 'is neither true nor false');
    return value;
  }

  bytes(name: string, length: number): Uint8Array {
    const value = this.#value[name];
    if (!(value instanceof Uint8Array) || value.length !== length) {
      throw this.refuse(name, `is not ${length} bytes`);
    }
    return Uint8Array.from(value);
  }

  array(name: string, maxLength: number): readonly unknown[] {
    const value = this.#value[name];
    if (!Array.isArray(value) || value.length > maxLength) {
      throw this.refuse(name, `is not a list of at most ${maxLength}`);
    }
    return value;
  }

  /** A list of whole numbers from 0 to `max`. */
  numbers(name: string, maxLength: number, max: number): number[] {
    return this.array(name, maxLength).map((value, index) => {
      if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max) {
        throw this.refuse(`${name}[${index}]`, `is not a whole number from 0 to ${max}`);
      }
      return value;
    });
  }

  record(name: string): StateReader {
    return new StateReader(this.#value[name], `${this.#where}.${name}`);
  }

  records(name: string, maxLength: number): StateReader[] {
    return this.array(name, maxLength).map(
      (value, index) => new StateReader(value, `${this.#where}.${name}[${index}]`),
    );
  }
}
