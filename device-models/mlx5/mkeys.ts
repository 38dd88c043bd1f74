import { limits } from './limits.ts';
import { DeviceObject, ObjectTable } from './objects.ts';

/** `mkc.access_mode`: physical addresses (the driver's netdev uses nothing else), or translated. */
export const mkeyAccessMode = { PA: 0, MTT: 1 } as const;

/** What CREATE_MKEY says. */
export interface MkeySettings {
  /** Low byte of the key, chosen by the driver. */
  readonly variant: number;
  readonly pd: number;
  readonly localRead: boolean;
  readonly localWrite: boolean;
  /** The whole address space; else `[start, start + length)`. */
  readonly wholeSpace: boolean;
  readonly start: number;
  readonly length: number;
  readonly accessMode: number;
}

/** A memory key in physical address mode. Its key is `id << 8 | variant`. */
export class Mkey extends DeviceObject {
  readonly settings: MkeySettings;

  constructor(id: number, settings: MkeySettings) {
    super(id);
    this.settings = settings;
  }
}

/** Whether a work queue of protection domain `pd` may use an address with a key: to send from it, or to receive into it. */
export interface MkeyCheck {
  readable(lkey: number, pd: number, address: number, length: number): boolean;
  writable(lkey: number, pd: number, address: number, length: number): boolean;
}

/** All memory keys. */
export class Mkeys implements MkeyCheck {
  readonly table = new ObjectTable<Mkey>('mkey', 0x100, limits.mkeys, 16 * limits.mkeys);

  readable(lkey: number, pd: number, address: number, length: number): boolean {
    const settings = this.#covering(lkey, pd, address, length);
    return settings?.localRead === true;
  }

  writable(lkey: number, pd: number, address: number, length: number): boolean {
    const settings = this.#covering(lkey, pd, address, length);
    return settings?.localWrite === true;
  }

  /** The key `lkey`, if it is of the same protection domain and all of the range lies in its own. */
  #covering(lkey: number, pd: number, address: number, length: number): MkeySettings | undefined {
    const settings = this.table.find(lkey >>> 8)?.settings;
    if (settings === undefined || settings.variant !== (lkey & 0xff) || settings.pd !== pd) return undefined;
    const { wholeSpace, start } = settings;
    if (wholeSpace || (address >= start && address + length <= start + settings.length)) return settings;
    return undefined;
  }
}
