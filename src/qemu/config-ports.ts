/**
 * PCI configuration access at a QEMU from outside, by the monitor's `i` and `o` on ports 0xCF8/0xCFC. What
 * stands in 0xCF8 is guest state: `save` it before the first access and `restore` it after the last.
 */
import { CompanionError } from '../errors.ts';
import { configAddressValue, type PciAddress } from './pci-address.ts';

const addressPort = 0xcf8;
const dataPort = 0xcfc;

/** HMP's letters for an access of so many bytes (gdb's: b, h, w). */
const letters = { 1: 'b', 2: 'h', 4: 'w' } as const;
export type ConfigAccessSize = keyof typeof letters;

/** The part of a QMP session that is used here. */
export interface Monitor {
  hmp(line: string, options?: { timeoutMs?: number }): Promise<string>;
}

export class ConfigPorts {
  readonly #monitor: Monitor;
  #saved: number | undefined;

  constructor(monitor: Monitor) {
    this.#monitor = monitor;
  }

  /** The guest's 0xCF8 as saved; undefined before `save`. */
  get saved(): number | undefined {
    return this.#saved;
  }

  /** Remembers the guest's 0xCF8, once. */
  async save(): Promise<number> {
    this.#saved ??= await this.#in(addressPort, 4);
    return this.#saved;
  }

  /** Puts `value`, or what was saved, back into 0xCF8. */
  async restore(value = this.#saved): Promise<void> {
    if (value !== undefined) await this.#out(addressPort, 4, value);
  }

  async read(at: PciAddress, offset: number, size: ConfigAccessSize): Promise<number> {
    const [, value] = await Promise.all([
      this.#out(addressPort, 4, configAddressValue(at, offset)),
      this.#in(dataPort + (offset & 3), size),
    ]);
    return value;
  }

  async write(at: PciAddress, offset: number, size: ConfigAccessSize, value: number): Promise<void> {
    await Promise.all([
      this.#out(addressPort, 4, configAddressValue(at, offset)),
      this.#out(dataPort + (offset & 3), size, value),
    ]);
  }

  async #in(port: number, size: ConfigAccessSize): Promise<number> {
    const text = await this.#monitor.hmp(`i /${letters[size]} 0x${port.toString(16)}`);
    const digits = /= 0x([0-9a-f]+)/i.exec(text)?.[1];
    if (digits === undefined)
      throw new CompanionError('VC_QMP_HMP', `QEMU can't read port 0x${port.toString(16)}: ${text}`);
    return Number.parseInt(digits, 16);
  }

  async #out(port: number, size: ConfigAccessSize, value: number): Promise<void> {
    const text = await this.#monitor.hmp(
      `o /${letters[size]} 0x${port.toString(16)} 0x${value.toString(16)}`,
    );
    if (text.trim() !== '')
      throw new CompanionError('VC_QMP_HMP', `QEMU can't write port 0x${port.toString(16)}: ${text}`);
  }
}
