/**
 * The interrupts of one function: from a model's `trigger` and `setIntx` to a client's eventfds.
 *
 * A descriptor at a vector means "deliver": QEMU's client removes it from vectors that are masked when
 * MSI-X is switched on, and some clients never touch configuration space at all. Beside that, masks that a
 * client does write here are honoured: function mask, MSI mask bits, MSI-X vector control.
 */

import type { Interrupts } from '../device/model.ts';
import type { PciDescription } from '../device/pci-description.ts';
import type { IrqInfo, IrqSet } from '../transport/served-device.ts';
import { pciIrq } from '../vfio-user/constants.ts';
import { NoSuchVector } from './errors.ts';
import { checkInterruptState, type InterruptState } from './interrupt-state.ts';
import { IntxLine } from './intx-line.ts';
import { checkIrqSet, describeIrqs, irqInfoOf } from './irq-requests.ts';
import { type DescriptorPort, MessageVectors } from './message-vectors.ts';
import type { MsiView, MsixView } from './message-views.ts';
import { type BarWindow, checkWindow, MsixTable } from './msix-table.ts';

/** What the controller asks of configuration space; `ConfigSpace` is one. */
export interface InterruptConfig {
  readonly intxDisabled: boolean;
  readonly msi: MsiView | undefined;
  readonly msix: MsixView | undefined;
  setInterruptStatus(on: boolean): void;
  setMsiPending(bits: number): void;
}

export interface InterruptPorts extends DescriptorPort {
  /**
   * Calls `signaled` each time the eventfd was signaled, having drained it. Left out: a client cannot
   * unmask INTx by eventfd (it has SET_IRQS for that).
   */
  watch?(fd: number, signaled: () => void): { close(): void };
}

export class InterruptController implements Interrupts {
  /** Parts of BARs that belong to MSI-X: the table and the pending bits. */
  readonly windows: readonly BarWindow[];
  /** The table that clients may write; undefined without MSI-X. */
  readonly msixTable: MsixTable | undefined;

  readonly #config: InterruptConfig;
  readonly #ports: InterruptPorts;
  readonly #infos: readonly IrqInfo[];
  readonly #hasPin: boolean;
  readonly #intx: IntxLine;
  readonly #msi: MessageVectors;
  readonly #msix: MessageVectors;
  readonly #err: MessageVectors;
  readonly #req: MessageVectors;
  #unmask: { fd: number; watch: { close(): void } } | undefined;
  #held = false;

  constructor(description: PciDescription, config: InterruptConfig, ports: InterruptPorts) {
    const { msi, msix } = description.capabilities ?? {};
    this.#config = config;
    this.#ports = ports;
    this.#hasPin = description.interruptPin !== undefined;
    this.#infos = describeIrqs([this.#hasPin ? 1 : 0, msi?.vectors ?? 0, msix?.vectors ?? 0, 1, 1]);
    this.#intx = new IntxLine(ports, () => !this.#held && this.mode === 'intx');
    this.#msi = new MessageVectors(
      msi?.vectors ?? 0,
      ports,
      (vector) => this.#held || (config.msi?.masks(vector) ?? false),
      () => this.#showMsiPending(),
    );
    this.#msix = new MessageVectors(msix?.vectors ?? 0, ports, (vector) => this.#msixBlocked(vector));
    this.#err = new MessageVectors(1, ports, () => false);
    this.#req = new MessageVectors(1, ports, () => false);
    this.msixTable = msix === undefined ? undefined : new MsixTable(msix.vectors, () => this.#msix.flush());
    this.windows = this.#makeWindows(description);
  }

  /** Which kind the guest has enabled, or a client has connected. */
  get mode(): 'none' | 'intx' | 'msi' | 'msix' {
    if (this.#config.msix?.enabled || this.#msix.connected > 0) return 'msix';
    if (this.#config.msi?.enabled || this.#msi.connected > 0) return 'msi';
    return this.#hasPin && !this.#config.intxDisabled ? 'intx' : 'none';
  }

  /**
   * Sends message `vector`. With MSI and fewer messages granted than asked for, vectors wrap around. With
   * neither enabled the message is remembered. Throws `NoSuchVector`.
   */
  trigger(vector: number): void {
    const vectors = Math.max(this.#msix.count, this.#msi.count);
    if (!Number.isInteger(vector) || vector < 0 || vector >= vectors) throw new NoSuchVector(vector, vectors);
    const mode = this.mode;
    if (mode === 'msi') this.#msi.trigger(vector % this.#msiGranted);
    else if (vector < this.#msix.count) this.#msix.trigger(vector);
    else if (mode === 'msix') throw new NoSuchVector(vector, this.#msix.count);
    else this.#msi.setPending(vector % this.#msi.count);
  }

  /** Sets the level of INTx, which the status register always shows. */
  setIntx(asserted: boolean): void {
    this.#config.setInterruptStatus(asserted);
    this.#intx.setLevel(asserted);
  }

  /** Number and kind of the interrupts of `index`. Throws EINVAL for no index of PCI. */
  irqInfo(index: number): IrqInfo {
    return irqInfoOf(this.#infos, index);
  }

  /** DEVICE_SET_IRQS. The request's descriptors stay the caller's if it is refused (EINVAL). */
  setIrqs(request: IrqSet): void {
    checkIrqSet(request, this.#infos, this.#ports.watch !== undefined);
    if (request.action !== 'trigger') this.#maskIntx(request);
    else if (request.count === 0) this.#disable(request.index);
    else if (request.data.type === 'eventfd') this.#connect(request.index, request.start, request);
    else this.#loopback(request);
    if (request.index === pciIrq.msi) this.#claimForMsi();
    // Connecting messages switches INTx off, and disconnecting them on again.
    this.#intx.evaluate();
  }

  /** To be called after the guest changed the command register or an MSI or MSI-X capability. */
  configChanged(): void {
    this.#msix.flush();
    this.#claimForMsi();
    // Before MSI was enabled nobody knew how many messages there would be.
    this.#msi.fold(this.#msiGranted);
    this.#msi.flush();
    this.#intx.evaluate();
  }

  /** What was remembered when nobody knew which of the two the guest would choose waits at MSI-X. */
  #claimForMsi(): void {
    if (this.mode !== 'msi') return;
    const waiting = this.#msix.pending;
    if (waiting.length === 0) return;
    this.#msix.clearPending();
    for (const vector of waiting) this.#msi.setPending(vector % this.#msiGranted);
    this.#msi.flush();
  }

  /** From now on nothing is sent; all of it is remembered. */
  hold(): void {
    this.#held = true;
  }

  /** Sends what has gathered, and all later ones at once again. */
  release(): void {
    this.#held = false;
    this.configChanged();
  }

  /**
   * Every vector once, and INTx if its level is asserted: a migration cannot see what the source's client
   * kept pending. Vectors that cannot be sent become pending. Returns how many were sent.
   */
  fireAll(): number {
    const mode = this.mode;
    let sent = 0;
    if (mode === 'msix') {
      for (let v = 0; v < this.#msix.count; v++) if (this.#msix.trigger(v)) sent++;
    } else if (mode === 'msi') {
      for (let v = 0; v < this.#msiGranted; v++) if (this.#msi.trigger(v)) sent++;
    } else if (mode === 'intx' && this.#intx.asserted) {
      this.#intx.unmask();
      if (this.#intx.masked) sent++;
    }
    return sent;
  }

  /** Vectors of the function's messages (MSI-X, else MSI) that wait, in order. */
  get pendingVectors(): number[] {
    const fromMsi = this.mode === 'msi' || this.#msix.count === 0;
    return fromMsi ? this.#msi.pending : this.#msix.pending;
  }

  /** Tells the client of an unrecoverable error (index ERR); false when it does not listen. */
  signalError(): boolean {
    return this.#err.connected > 0 && this.#err.trigger(0);
  }

  /** Reads the MSI-X pending bit array. Throws EINVAL beyond it. */
  readPba(offset: number, count: number, target: Buffer, at: number): void {
    const bits = this.#msix.pendingBytes;
    checkWindow('MSI-X pending bit array', bits.length, offset, count);
    bits.copy(target, at, offset, offset + count);
  }

  /** Function reset: pending messages, level and shadow table go, the client's descriptors stay. */
  reset(): void {
    this.#msi.clearPending();
    this.#msix.clearPending();
    this.#intx.reset();
    this.#config.setInterruptStatus(false);
    this.msixTable?.reset();
  }

  /** The client is gone: its descriptors are closed, what waits is kept. */
  detach(): void {
    for (let index = 0; index < this.#infos.length; index++) this.#disable(index);
  }

  /** What has to travel; plain data, no descriptors. */
  save(): InterruptState {
    const table = this.msixTable?.save();
    return {
      intxAsserted: this.#intx.asserted,
      msiPending: this.#msi.pending,
      msixPending: this.#msix.pending,
      ...(table === undefined ? {} : { msixTable: table }),
    };
  }

  /**
   * Takes over what `save()` gave; throws `PciStateError`, unchanged, for anything else. Comes after
   * configuration space is loaded, which clears the bits that follow from interrupts. Sends nothing:
   * `release()`, a descriptor that arrives or a changed mask does.
   */
  load(saved: unknown): void {
    const state = checkInterruptState(saved, this.#msi.count, this.#msix.count);
    this.reset();
    this.msixTable?.load(state.msixTable);
    for (const vector of state.msixPending) this.#msix.setPending(vector);
    for (const vector of state.msiPending) this.#msi.setPending(vector);
    this.#config.setInterruptStatus(state.intxAsserted);
    this.#intx.restoreLevel(state.intxAsserted);
  }

  get #msiGranted(): number {
    const { msi } = this.#config;
    return msi?.enabled ? msi.granted : this.#msi.count;
  }

  #msixBlocked(vector: number): boolean {
    if (this.#held) return true;
    const { msix } = this.#config;
    if (msix?.enabled && msix.functionMask) return true;
    return this.msixTable?.masks(vector) ?? false;
  }

  #showMsiPending(): void {
    this.#config.setMsiPending(
      this.#msi.pendingBytes.length === 0 ? 0 : this.#msi.pendingBytes.readUInt32LE(0),
    );
  }

  #vectorsOf(index: number): MessageVectors {
    if (index === pciIrq.msi) return this.#msi;
    if (index === pciIrq.msix) return this.#msix;
    return index === pciIrq.err ? this.#err : this.#req;
  }

  #disable(index: number): void {
    if (index !== pciIrq.intx) {
      this.#vectorsOf(index).disconnect();
      return;
    }
    this.#intx.connect(undefined);
    this.#setUnmaskFd(undefined);
  }

  #connect(index: number, start: number, request: IrqSet): void {
    const fds = request.data.type === 'eventfd' ? request.data.fds : [];
    for (let i = 0; i < request.count; i++) {
      const fd = fds[i];
      const usable = fd !== undefined && fd >= 0 ? fd : undefined;
      if (index === pciIrq.intx) this.#intx.connect(usable);
      else this.#vectorsOf(index).connect(start + i, usable);
    }
  }

  /** A client's test: its own descriptors are signaled as if the device had triggered. */
  #loopback(request: IrqSet): void {
    for (let i = 0; i < request.count; i++) {
      if (request.data.type === 'bool' && request.data.values[i] !== true) continue;
      if (request.index === pciIrq.intx) {
        if (!this.#config.intxDisabled) this.#intx.loopback();
        continue;
      }
      const vectors = this.#vectorsOf(request.index);
      if (vectors.isConnected(request.start + i)) vectors.trigger(request.start + i);
    }
  }

  #maskIntx(request: IrqSet): void {
    const { data, action } = request;
    if (data.type === 'eventfd') {
      const fd = data.fds[0];
      this.#setUnmaskFd(fd !== undefined && fd >= 0 ? fd : undefined);
    } else if (data.type === 'none' || data.values[0] === true) {
      if (action === 'mask') this.#intx.mask();
      else this.#intx.unmask();
    }
  }

  #setUnmaskFd(fd: number | undefined): void {
    if (this.#unmask !== undefined) {
      this.#unmask.watch.close();
      this.#ports.close(this.#unmask.fd);
      this.#unmask = undefined;
    }
    const watch = fd === undefined ? undefined : this.#ports.watch?.(fd, () => this.#intx.unmask());
    if (fd !== undefined && watch !== undefined) this.#unmask = { fd, watch };
  }

  #makeWindows(description: PciDescription): BarWindow[] {
    const msix = description.capabilities?.msix;
    const table = this.msixTable;
    if (msix === undefined || table === undefined) return [];
    return [
      {
        ...msix.table,
        size: table.size,
        read: (offset, count, target, at) => table.read(offset, count, target, at),
        write: (offset, count, source, at) => table.write(offset, count, source, at),
      },
      {
        ...msix.pba,
        size: this.#msix.pendingBytes.length,
        read: (offset, count, target, at) => this.readPba(offset, count, target, at),
        // Pending bits are read-only for software.
        write: (offset, count) =>
          checkWindow('MSI-X pending bit array', this.#msix.pendingBytes.length, offset, count),
      },
    ];
  }
}
