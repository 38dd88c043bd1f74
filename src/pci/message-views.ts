/** Live views of the MSI and MSI-X capabilities: what interrupts need to know, read from the bytes each time. */

import { msiControl, msixControl } from './capabilities.ts';
import type { ConfigLayout } from './layout.ts';

/** MSI as the guest has set it up. */
export class MsiView {
  /** Offset of the capability in configuration space, and its bytes. */
  readonly capability: number;
  readonly length: number;
  /** Messages that the function asks for. */
  readonly vectors: number;
  readonly #bytes: Buffer;
  readonly #mask: number | undefined;
  readonly #pending: number | undefined;

  constructor(capability: number, bytes: Buffer, layout: ConfigLayout) {
    this.capability = capability;
    this.#bytes = bytes;
    this.#mask = layout.registers.get('msi.mask')?.offset;
    this.#pending = layout.registers.get('msi.pending')?.offset;
    const last = layout.register(this.#pending === undefined ? 'msi.data' : 'msi.pending');
    this.length = last.offset + last.size - capability;
    this.vectors = 1 << ((this.#control & 0x000e) >> msiControl.multipleCapableShift);
  }

  get #control(): number {
    return this.#bytes.readUInt16LE(this.capability + 2);
  }

  get enabled(): boolean {
    return (this.#control & msiControl.enable) !== 0;
  }

  /** Messages that the guest has given to the function; never more than it asked for. */
  get granted(): number {
    const wanted = 1 << ((this.#control & msiControl.multipleEnableMask) >> msiControl.multipleEnableShift);
    return Math.min(wanted, this.vectors);
  }

  /** Whether the guest has masked message `vector`. */
  masks(vector: number): boolean {
    if (this.#mask === undefined) return false;
    return ((this.#bytes.readUInt32LE(this.#mask) >>> vector) & 1) !== 0;
  }

  /** Replaces the pending bits that the guest reads. */
  showPending(bits: number): void {
    if (this.#pending !== undefined) this.#bytes.writeUInt32LE(bits >>> 0, this.#pending);
  }
}

/** MSI-X as the guest has set it up. */
export class MsixView {
  /** Offset of the capability in configuration space. */
  readonly capability: number;
  readonly #bytes: Buffer;

  constructor(capability: number, bytes: Buffer) {
    this.capability = capability;
    this.#bytes = bytes;
  }

  /** The message control register. */
  get control(): number {
    return this.#bytes.readUInt16LE(this.capability + 2);
  }

  get enabled(): boolean {
    return (this.control & msixControl.enable) !== 0;
  }

  /** Function Mask: all vectors are masked, whatever the table says. */
  get functionMask(): boolean {
    return (this.control & msixControl.functionMask) !== 0;
  }
}
