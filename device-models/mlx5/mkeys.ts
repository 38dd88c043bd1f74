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

/** Whether a WQE may use an address with a key. */
export interface MkeyCheck {
  allows(lkey: number, address: number, length: number): boolean;
}

/** All memory keys. */
export class Mkeys implements MkeyCheck {
  readonly table = new ObjectTable<Mkey>('mkey', 0x100, limits.mkeys, 16 * limits.mkeys);

  allows(lkey: number, address: number, length: number): boolean {
    const mkey = this.table.find(lkey >>> 8);
    if (mkey === undefined || mkey.settings.variant !== (lkey & 0xff)) return false;
    const { wholeSpace, start } = mkey.settings;
    return wholeSpace || (address >= start && address + length <= start + mkey.settings.length);
  }
}
