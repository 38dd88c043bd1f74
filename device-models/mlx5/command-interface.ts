import type { DeviceHost } from '../../src/device/index.ts';
import type { EventQueues } from './eq.ts';
import { limits } from './limits.ts';
import { isDmaRefusal } from './memory.ts';
import {
  commandEntry,
  commandStatus,
  deliveryStatus,
  eqeCommand,
  eventType,
  inlineBytes,
  mailboxBlock,
  mailboxDataBytes,
  pciCommandTransport,
} from './prm/index.ts';
import { CommandRefused, syndrome } from './refusal.ts';
import { isAddress } from './work-queue.ts';

/** log2 of the number of slots and of their size in bytes, as `cmdq_addr_l_sz` shows them. */
const logSlots = 5;
const logStride = 6;
const slots = 2 ** logSlots;
const queueAlignment = 4096;
/** `nic_interface`, bits 10:8 of `cmdq_addr_l_sz`. */
const nicInterface = { shift: 8, mask: 7, FULL_DRIVER: 0, DISABLED: 1 } as const;
const mailboxAlignment = 1024;
const slotVector = eqeCommand.byte('vector');
/** Output that every command has: status and syndrome. */
const statusBytes = 8;

/** Executes one command: fills `output`, or throws `CommandRefused`. Bytes 0 to 7 of `output` are written here. */
export type CommandExecutor = (input: Buffer, output: Buffer) => void;

/** What of the command interface travels with a migration. */
export interface CommandInterfaceState {
  readonly addressHigh: number;
  /** With `nic_interface` in its place. */
  readonly addressLow: number;
  readonly highLatch: number;
  /** Slots rung and not executed. */
  readonly pending: number;
}

/**
 * The command queue: doorbell, slots, mailbox chains, completion by polling or event. A command that comes while the
 * device may not start anything waits for `wake()`.
 */
export class CommandInterface {
  readonly #host: DeviceHost;
  readonly #eqs: EventQueues;
  readonly #execute: CommandExecutor;
  readonly #disable: () => void;
  readonly #entry = Buffer.alloc(commandEntry.size);
  readonly #block = Buffer.alloc(mailboxBlock.size);
  #highLatch = 0;
  #addressHigh = 0;
  #addressLow = 0;
  /** Disabled from a reset on, until a driver says where its queue is: one that was reset away sees it and starts anew. */
  #nicInterface: number = nicInterface.DISABLED;
  #pending = 0;
  #busy = false;

  /** @param disable called when the driver disables the NIC interface: it takes its memory back without further commands */
  constructor(host: DeviceHost, eqs: EventQueues, execute: CommandExecutor, disable: () => void) {
    this.#host = host;
    this.#eqs = eqs;
    this.#execute = execute;
    this.#disable = disable;
  }

  reset(): void {
    this.#highLatch = 0;
    this.#addressHigh = 0;
    this.#addressLow = 0;
    this.#nicInterface = nicInterface.DISABLED;
    this.#pending = 0;
  }

  get state(): CommandInterfaceState {
    return {
      addressHigh: this.#addressHigh,
      addressLow: this.#addressLowAndInterface(),
      highLatch: this.#highLatch,
      pending: this.#pending,
    };
  }

  set state(state: CommandInterfaceState) {
    this.#addressHigh = state.addressHigh >>> 0;
    this.#setAddressLow(state.addressLow);
    this.#highLatch = state.highLatch >>> 0;
    this.#pending = state.pending >>> 0;
  }

  get addressHigh(): number {
    return this.#highLatch;
  }

  /** Address bits 31:12, nic_interface, log_cmdq_size, log_cmdq_stride. */
  get addressLowAndSize(): number {
    return (this.#addressLowAndInterface() | (logSlots << 4) | logStride) >>> 0;
  }

  #addressLowAndInterface(): number {
    return (this.#addressLow | (this.#nicInterface << nicInterface.shift)) >>> 0;
  }

  setAddressHigh(value: number): void {
    this.#highLatch = value >>> 0;
  }

  /** The low half completes the address. With another NIC interface than "full driver" the function is disabled. */
  setAddressLow(value: number): void {
    this.#addressHigh = this.#highLatch;
    this.#setAddressLow(value);
    if (this.#nicInterface === nicInterface.FULL_DRIVER) return;
    this.#pending = 0;
    this.#disable();
  }

  #setAddressLow(value: number): void {
    this.#addressLow = (value & ~(queueAlignment - 1)) >>> 0;
    const wanted = (value >>> nicInterface.shift) & nicInterface.mask;
    // A reset that is asked for (7) is over at once.
    this.#nicInterface =
      wanted === nicInterface.FULL_DRIVER ? nicInterface.FULL_DRIVER : nicInterface.DISABLED;
  }

  /** Bit i: slot i has a command. */
  doorbell(vector: number): void {
    if (this.#nicInterface !== nicInterface.FULL_DRIVER) return;
    this.#pending = (this.#pending | vector) >>> 0;
    this.wake();
  }

  /** Executes what waits. */
  wake(): void {
    if (this.#busy) return;
    this.#busy = true;
    try {
      while (this.#pending !== 0 && this.#host.mayInitiate && this.#host.pci.busMaster) {
        // The lowest slot first; another may be rung while a command waits for DMA by message.
        const slot = 31 - Math.clz32(this.#pending & -this.#pending);
        this.#pending = (this.#pending & ~(1 << slot)) >>> 0;
        this.#runSlot(slot);
      }
    } finally {
      this.#busy = false;
    }
  }

  #runSlot(slot: number): void {
    const address = this.#addressHigh * 2 ** 32 + this.#addressLow + slot * commandEntry.size;
    if (!isAddress(address, commandEntry.size, commandEntry.size)) return;
    // Whether a command is answered by an event is decided when it starts: the command that makes the command EQ,
    // and the one that destroys it, are polled.
    const eventBefore = this.#eqs.commandEq;
    try {
      this.#host.dma.read(address, this.#entry);
      if ((this.#entry.readUInt8(commandEntry.byte('status_own')) & 1) === 0) return;
      const delivery = this.#deliver();
      this.#host.dma.write(address + commandEntry.byte('out'), this.#outputInline());
      // Ownership goes back last.
      this.#host.dma.writeUint8(address + commandEntry.byte('status_own'), delivery << 1);
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      this.#host.log.warn({ slot, error }, 'command queue is not accessible');
      return;
    }
    const eq = this.#eqs.commandEq;
    if (eventBefore !== undefined && eq === eventBefore) {
      this.#eqs.post(eq, eventType.CMD, 0, slotVector, (1 << slot) >>> 0);
    }
  }

  #outputInline(): Buffer {
    const at = commandEntry.byte('out');
    return this.#entry.subarray(at, at + inlineBytes);
  }

  /** Mailboxes that are not accessible end a command; the slot itself is. */
  #deliver(): number {
    try {
      return this.#runEntry();
    } catch (error) {
      if (!isDmaRefusal(error)) throw error;
      return this.#undelivered(deliveryStatus.FW_ERR);
    }
  }

  /** Executes the command in `#entry` and leaves its output there and in its mailboxes; returns the delivery status. */
  #runEntry(): number {
    const entry = this.#entry;
    const inline = this.#outputInline();
    const inputLength = commandEntry.get(entry, 'inlen');
    const outputLength = commandEntry.get(entry, 'outlen');
    if (commandEntry.get(entry, 'type') !== pciCommandTransport)
      return this.#undelivered(deliveryStatus.CMD_DESCR_ERR);
    if (inputLength < statusBytes || inputLength > limits.commandBytes) {
      return this.#undelivered(deliveryStatus.IN_LENGTH_ERR);
    }
    if (outputLength < statusBytes || outputLength > limits.commandBytes) {
      return this.#undelivered(deliveryStatus.OUT_LENGTH_ERR);
    }
    const input = Buffer.alloc(Math.max(inputLength, inlineBytes));
    entry.copy(input, 0, commandEntry.byte('in'), commandEntry.byte('in') + inlineBytes);
    const inputFault = this.#readMailboxes(input, inputLength, commandEntry.get64(entry, 'in_ptr'));
    if (inputFault !== deliveryStatus.OK) return this.#undelivered(inputFault);
    const output = Buffer.alloc(Math.max(outputLength, inlineBytes));
    this.#call(input.subarray(0, Math.max(inputLength, inlineBytes)), output);
    inline.fill(0);
    output.copy(inline, 0, 0, Math.min(outputLength, inlineBytes));
    return this.#writeMailboxes(output, outputLength, commandEntry.get64(entry, 'out_ptr'));
  }

  #undelivered(delivery: number): number {
    this.#outputInline().fill(0);
    return delivery;
  }

  /** Runs the command; a refusal becomes status and syndrome, with nothing else in the output. */
  #call(input: Buffer, output: Buffer): void {
    try {
      this.#execute(input, output);
      output[0] = commandStatus.OK;
      output.writeUInt32BE(0, 4);
    } catch (error) {
      output.fill(0);
      if (error instanceof CommandRefused) {
        output[0] = error.status;
        output.writeUInt32BE(error.syndrome, 4);
        const opcode = input.readUInt16BE(0);
        this.#host.log.debug({ opcode, status: error.status, reason: error.message }, 'command refused');
      } else {
        // Our own mistake: the guest gets an internal error, the log the truth.
        this.#host.log.error({ error }, 'command failed');
        output[0] = commandStatus.INT_ERR;
        output.writeUInt32BE(syndrome.internal, 4);
      }
    }
  }

  #readMailboxes(input: Buffer, length: number, pointer: number): number {
    let next = pointer;
    for (let at = inlineBytes; at < length; at += mailboxDataBytes) {
      if (!isAddress(next, mailboxBlock.size, mailboxAlignment) || next === 0)
        return deliveryStatus.IN_PTR_ALIGN_ERR;
      this.#host.dma.read(next, this.#block);
      this.#block.copy(input, at, 0, Math.min(mailboxDataBytes, length - at));
      next = mailboxBlock.get64(this.#block, 'next');
    }
    return deliveryStatus.OK;
  }

  /** The chain is the driver's: only its data is written. */
  #writeMailboxes(output: Buffer, length: number, pointer: number): number {
    let next = pointer;
    for (let at = inlineBytes; at < length; at += mailboxDataBytes) {
      if (!isAddress(next, mailboxBlock.size, mailboxAlignment) || next === 0)
        return deliveryStatus.OUT_PTR_ALIGN_ERR;
      const count = Math.min(mailboxDataBytes, length - at);
      this.#host.dma.write(next, output.subarray(at, at + count));
      if (at + count < length) {
        this.#host.dma.read(next, this.#block);
        next = mailboxBlock.get64(this.#block, 'next');
      }
    }
    return deliveryStatus.OK;
  }
}

/** Slots of the command queue; for tests and for the validation of a loaded state. */
export const commandSlots = slots;
