import type { DeviceHost, RegisterBlock } from '../../src/device/index.ts';
import type { BoardMemory } from './memory.ts';
import { command, type registers, status } from './registers.ts';

/** What is left of a transfer; plain data, because a transfer migrates in the middle. */
export interface Transfer {
  direction: number;
  guestAddress: number;
  deviceAddress: number;
  left: number;
}

/** Bytes moved at a stretch; between stretches the device answers others. */
const stretch = 1 << 20;

/** Moves bytes between guest memory and on-board memory, one transfer at a time. */
export class DmaEngine {
  transfer: Transfer | undefined;
  readonly #host: DeviceHost;
  readonly #bank: RegisterBlock<typeof registers>;
  readonly #memory: BoardMemory;
  readonly #completed: () => void;
  #queued = false;

  constructor(
    host: DeviceHost,
    bank: RegisterBlock<typeof registers>,
    memory: BoardMemory,
    completed: () => void,
  ) {
    this.#host = host;
    this.#bank = bank;
    this.#memory = memory;
    this.#completed = completed;
  }

  /** The guest wrote COMMAND. A command while one is running is refused without harm to it. */
  start(direction: number): void {
    if (this.transfer) return;
    if (direction !== command.fromGuest && direction !== command.toGuest) {
      this.#finish(status.badCommand);
      return;
    }
    const transfer: Transfer = {
      direction,
      guestAddress: this.#bank.get('GUEST_ADDRESS'),
      deviceAddress: this.#bank.get('DEVICE_ADDRESS'),
      left: this.#bank.get('LENGTH'),
    };
    if (!this.validTransfer(transfer)) {
      this.#finish(status.badRange);
      return;
    }
    this.transfer = transfer;
    this.#bank.set('STATUS', status.busy);
    this.advance();
  }

  /** Whether a transfer lies within on-board memory; asked of what guests and state streams say. */
  validTransfer({ direction, guestAddress, deviceAddress, left }: Transfer): boolean {
    const { length } = this.#memory.bytes;
    return (
      (direction === command.fromGuest || direction === command.toGuest) &&
      Number.isSafeInteger(guestAddress + left) &&
      Number.isSafeInteger(deviceAddress) &&
      guestAddress >= 0 &&
      deviceAddress >= 0 &&
      left > 0 &&
      left <= length &&
      deviceAddress <= length - left
    );
  }

  /** Goes on with the transfer, if there is one and the device may. */
  advance(): void {
    if (this.#queued || !this.transfer) return;
    this.#queued = true;
    this.#host.defer(() => {
      this.#queued = false;
      this.#step();
    });
  }

  #step(): void {
    const { transfer } = this;
    if (!transfer || !this.#host.mayInitiate) return;
    const length = Math.min(stretch, transfer.left);
    const part = this.#memory.bytes.subarray(transfer.deviceAddress, transfer.deviceAddress + length);
    try {
      if (!this.#host.pci.busMaster) throw new Error('bus master is off');
      if (transfer.direction === command.fromGuest) {
        this.#memory.touch(transfer.deviceAddress, length);
        this.#host.dma.read(transfer.guestAddress, part);
      } else this.#host.dma.write(transfer.guestAddress, part);
    } catch (error) {
      this.#host.log.warn({ err: error }, `ram: DMA at 0x${transfer.guestAddress.toString(16)} failed`);
      if (this.transfer !== transfer) return; // reset while the client was answering
      this.transfer = undefined;
      this.#finish(status.dmaFault);
      return;
    }
    if (this.transfer !== transfer) return;
    transfer.guestAddress += length;
    transfer.deviceAddress += length;
    transfer.left -= length;
    if (transfer.left > 0) {
      this.advance();
      return;
    }
    this.transfer = undefined;
    this.#finish(status.done);
  }

  #finish(result: number): void {
    this.#bank.set('STATUS', result);
    if (result === status.done) this.#bank.set('COMPLETED', this.#bank.get('COMPLETED') + 1);
    this.#completed();
  }
}
