/**
 * The configuration space of one function: what a client reads and writes in region 7, and what the rest of
 * the server wants to know of it. Bytes and masks come from `chain.ts`; here is the behaviour.
 */

import type { ResetKind } from '../device/model.ts';
import type { BarIndex, PciDescription } from '../device/pci-description.ts';
import { errno, RequestError } from '../errors.ts';
import { type BarLayout, type BarState, barArea, barBase, isAssigned } from './bars.ts';
import { express, powerControl } from './capabilities.ts';
import { layoutFunction } from './chain.ts';
import { type ConfigState, geometryOf, loadRegisters, saveRegisters } from './config-state.ts';
import { command, status, statusErrors } from './header.ts';
import { type ConfigLayout, type PlacedRegister, readRegister, writeRegister } from './layout.ts';
import { MsiView, MsixView } from './message-views.ts';

/** The power states that a function of ours knows. */
export type PowerState = 'D0' | 'D3hot';

/**
 * Told after a write of the guest has taken effect as a whole, in this order, each only on a change.
 * `reset()` and `load()` call none of them.
 */
export interface ConfigHooks {
  barsChanged?(): void;
  /** Old and new value of the command register. */
  commandChanged?(old: number, value: number): void;
  /** Any register of the MSI capability. */
  msiControlChanged?(msi: MsiView): void;
  msixControlChanged?(msix: MsixView): void;
  powerStateChanged?(old: PowerState, value: PowerState): void;
  /** The guest asked for a function level reset; the register has been written. */
  functionLevelReset?(): void;
}

/** PMCSR value of D3hot; D1 and D2 do not exist here. */
const d3hot = 3;

export class ConfigSpace {
  readonly size: 256 | 4096;
  readonly layout: ConfigLayout;
  readonly bars: readonly BarLayout[];
  /** Offset of each standard capability by name: `pm`, `pcie`, `msi`, `msix`, `vendor0` … */
  readonly capabilities: ReadonlyMap<string, number>;
  /** Live view of the MSI capability; undefined when there is none. */
  readonly msi: MsiView | undefined;
  /** Live view of the MSI-X capability; undefined when there is none. */
  readonly msix: MsixView | undefined;
  /** What must be equal at both ends of a migration. */
  readonly geometry: Readonly<Record<string, number | string | boolean>>;

  readonly #hooks: ConfigHooks;
  readonly #bytes: Buffer;
  readonly #before: Buffer;
  readonly #powerControl: PlacedRegister | undefined;
  readonly #devctl: PlacedRegister | undefined;
  readonly #msiRange: readonly [number, number];
  readonly #command: PlacedRegister;
  readonly #status: PlacedRegister;

  /** Throws `PciDescriptionError` when `description` is not a possible function. */
  constructor(description: PciDescription, hooks: ConfigHooks = {}) {
    const { config, bars, capabilities } = layoutFunction(description);
    this.size = config.size;
    this.layout = config;
    this.bars = bars;
    this.capabilities = capabilities;
    this.#hooks = hooks;
    this.#bytes = Buffer.from(config.initial);
    this.#before = Buffer.alloc(config.size);
    this.#command = config.register('command');
    this.#status = config.register('status');
    this.#powerControl = config.registers.get('pm.control');
    this.#devctl = config.registers.get('pcie.devctl');
    const msiAt = capabilities.get('msi');
    this.msi = msiAt === undefined ? undefined : new MsiView(msiAt, this.#bytes, config);
    this.#msiRange = msiAt === undefined ? [0, 0] : [msiAt, msiAt + (this.msi?.length ?? 0)];
    const msixAt = capabilities.get('msix');
    this.msix = msixAt === undefined ? undefined : new MsixView(msixAt, this.#bytes);
    this.geometry = geometryOf(description, config.size, bars);
  }

  /** Reads `count` bytes at `offset` into `target` at `at`. Throws EINVAL beyond the space. */
  read(offset: number, count: number, target: Buffer, at: number): void {
    this.checkRange(offset, count);
    this.#bytes.copy(target, at, offset, offset + count);
  }

  /** A write of any size and alignment. Throws EINVAL beyond the space. Hooks run before it returns. */
  write(offset: number, count: number, source: Buffer, at: number): void {
    this.checkRange(offset, count);
    const { writable, clearOnOne, act } = this.layout;
    const bytes = this.#bytes;
    bytes.copy(this.#before, 0);
    let acted = false;
    for (let i = 0; i < count; i++) {
      const o = offset + i;
      const value = source[at + i] ?? 0;
      const mask = writable[o] ?? 0;
      const kept = ((bytes[o] ?? 0) & ~mask) | (value & mask);
      bytes[o] = kept & ~(value & (clearOnOne[o] ?? 0));
      if ((value & (act[o] ?? 0)) !== 0) acted = true;
    }
    this.#refuseUnknownPowerState();
    this.#tell(acted);
  }

  /** Throws EINVAL unless `[offset, offset + count)` lies within the space. */
  checkRange(offset: number, count: number): void {
    const whole = Number.isInteger(offset) && Number.isInteger(count);
    if (!whole || offset < 0 || count < 0 || offset + count > this.size)
      throw new RequestError(
        errno.EINVAL,
        `configuration space has ${this.size} bytes: no ${count} at offset ${offset}`,
      );
  }

  /**
   * Back to power-on values. A function level reset (`flr`) keeps the BARs, as kernel vfio does: its client
   * answers BAR reads itself, so that a guest which restores only what differs never writes them again.
   */
  reset(kind: ResetKind = 'client'): void {
    for (let o = 0; o < this.size; o++) {
      if (kind === 'flr' && o >= barArea.start && o < barArea.end) continue;
      this.#bytes[o] = this.layout.initial[o] ?? 0;
    }
  }

  /** Guest-written registers by name; plain data. */
  save(): ConfigState {
    return saveRegisters(this.layout, this.geometry, this.#bytes);
  }

  /** Becomes what `save()` gave; checks everything first and throws `PciStateError`. Calls no hooks. */
  load(saved: unknown): void {
    loadRegisters(this.layout, this.geometry, saved).copy(this.#bytes);
  }

  /** A copy of all bytes as a client would read them. */
  snapshot(): Buffer {
    return Buffer.from(this.#bytes);
  }

  /** The command register. */
  get command(): number {
    return readRegister(this.#bytes, this.#command.offset, 2);
  }

  get powerState(): PowerState {
    return powerStateIn(this.#bytes, this.#powerControl);
  }

  /** Bus Master Enable, in D0. */
  get busMaster(): boolean {
    return this.#enabled(command.master);
  }

  /** Memory Space Enable, in D0. */
  get memorySpace(): boolean {
    return this.#enabled(command.memory);
  }

  /** I/O Space Enable, in D0. */
  get ioSpace(): boolean {
    return this.#enabled(command.io);
  }

  /** Interrupt Disable of the command register. */
  get intxDisabled(): boolean {
    return (this.command & command.intxDisable) !== 0;
  }

  /** Offset of the PCI Express capability. */
  get pcieCapability(): number | undefined {
    return this.capabilities.get('pcie');
  }

  /** The state of a BAR; undefined when the function has none of that index. */
  bar(index: BarIndex): BarState | undefined {
    const layout = this.bars.find((bar) => bar.index === index);
    if (layout === undefined) return undefined;
    const base = barBase(this.#bytes, layout);
    const decoded = layout.kind === 'io' ? this.ioSpace : this.memorySpace;
    return { ...layout, base, decoded, address: decoded && isAssigned(layout, base) ? base : undefined };
  }

  /** Interrupt Status of the status register: the level of INTx, whether it is disabled or not. */
  setInterruptStatus(on: boolean): void {
    const old = readRegister(this.#bytes, this.#status.offset, 2);
    const value = on ? old | status.interrupt : old & ~status.interrupt;
    writeRegister(this.#bytes, this.#status.offset, 2, value);
  }

  /** Latches error bits of the status register (`status` in header.ts) until the guest clears them. */
  reportErrors(bits: number): void {
    const old = readRegister(this.#bytes, this.#status.offset, 2);
    writeRegister(this.#bytes, this.#status.offset, 2, old | (bits & statusErrors));
  }

  /** Pending bits of the MSI capability; without per-vector masking there are none to show. */
  setMsiPending(bits: number): void {
    this.msi?.showPending(bits);
  }

  #enabled(bit: number): boolean {
    return (this.command & bit) !== 0 && this.powerState === 'D0';
  }

  /** An unsupported state is discarded and the write completes (PCI PM 1.2 section 3.2.4). */
  #refuseUnknownPowerState(): void {
    const register = this.#powerControl;
    if (register === undefined) return;
    const value = readRegister(this.#bytes, register.offset, 2);
    const state = value & powerControl.stateMask;
    if (state === 0 || state === d3hot) return;
    const old = readRegister(this.#before, register.offset, 2) & powerControl.stateMask;
    writeRegister(this.#bytes, register.offset, 2, (value & ~powerControl.stateMask) | old);
  }

  #tell(acted: boolean): void {
    const hooks = this.#hooks;
    const oldCommand = readRegister(this.#before, this.#command.offset, 2);
    const newCommand = this.command;
    const oldPower = powerStateIn(this.#before, this.#powerControl);
    const newPower = this.powerState;
    const barsDiffer = this.#differs(barArea.start, barArea.end);
    const msiDiffers = this.#differs(...this.#msiRange);
    const msixAt = this.msix?.capability ?? 0;
    const msixDiffers = this.msix !== undefined && this.#differs(msixAt, msixAt + 4);
    // All comparisons are made: a hook may write or reset this space.
    if (barsDiffer) hooks.barsChanged?.();
    if (oldCommand !== newCommand) hooks.commandChanged?.(oldCommand, newCommand);
    if (msiDiffers && this.msi !== undefined) hooks.msiControlChanged?.(this.msi);
    if (msixDiffers && this.msix !== undefined) hooks.msixControlChanged?.(this.msix);
    if (oldPower !== newPower) hooks.powerStateChanged?.(oldPower, newPower);
    if (acted && this.#devctl !== undefined && (this.#devctl.act & express.initiateFlr) !== 0)
      hooks.functionLevelReset?.();
  }

  #differs(from: number, to: number): boolean {
    return this.#bytes.compare(this.#before, from, to, from, to) !== 0;
  }
}

function powerStateIn(bytes: Buffer, register: PlacedRegister | undefined): PowerState {
  if (register === undefined) return 'D0';
  return (readRegister(bytes, register.offset, 2) & powerControl.stateMask) === d3hot ? 'D3hot' : 'D0';
}
