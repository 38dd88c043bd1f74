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
  /** The only queue that may use it; left out for any (`anyQueue`), and by servers that kept no such thing. */
  readonly qpn?: number;
}

/** `mkc.qpn` of a key that every queue of its protection domain may use. */
export const anyQueue = 0xffffff;

/** A memory key in physical address mode. Its key is `id << 8 | variant`. */
export class Mkey extends DeviceObject {
  readonly settings: MkeySettings;

  constructor(id: number, settings: MkeySettings) {
    super(id);
    this.settings = settings;
  }
}

/** What a key asks of the work queue that uses it. */
export interface KeyUser {
  readonly id: number;
  readonly settings: { readonly wq: { readonly pd: number } };
}

/** Whether a work queue may use an address with a key: to send from it, or to receive into it. */
export interface MkeyCheck {
  readable(lkey: number, queue: KeyUser, address: number, length: number): boolean;
  writable(lkey: number, queue: KeyUser, address: number, length: number): boolean;
}

/** All memory keys. */
export class Mkeys implements MkeyCheck {
  readonly table = new ObjectTable<Mkey>('mkey', 0x100, limits.mkeys, 16 * limits.mkeys);

  readable(lkey: number, queue: KeyUser, address: number, length: number): boolean {
    const settings = this.#covering(lkey, queue, address, length);
    return settings?.localRead === true;
  }

  writable(lkey: number, queue: KeyUser, address: number, length: number): boolean {
    const settings = this.#covering(lkey, queue, address, length);
    return settings?.localWrite === true;
  }

  /** The key `lkey`, if it is of the queue's protection domain, for that queue, and all of the range lies in its own. */
  #covering(lkey: number, queue: KeyUser, address: number, length: number): MkeySettings | undefined {
    const settings = this.table.find(lkey >>> 8)?.settings;
    if (settings === undefined || settings.variant !== (lkey & 0xff)) return undefined;
    const { wholeSpace, start, pd, qpn } = settings;
    if (pd !== queue.settings.wq.pd || (qpn !== undefined && qpn !== queue.id)) return undefined;
    if (wholeSpace || (address >= start && address + length <= start + settings.length)) return settings;
    return undefined;
  }
}
