import type { BarHandler } from '../../src/device/index.ts';
import type { CommandInterface } from './command-interface.ts';
import type { Mlx5Core } from './core.ts';
import { adapterPageBytes } from './memory.ts';
import { healthBuffer, initSegment } from './prm/index.ts';
import { firstUar, writeUar } from './uar.ts';

/** Firmware version that the device claims: 16.35.1012. */
export const firmware = { major: 16, minor: 35, subminor: 1012 } as const;
/** The one command interface revision that drivers know (`CMD_IF_REV`). */
const commandInterfaceRevision = 5;

const at = {
  firmwareRevision: initSegment.byte('fw_rev'),
  interfaceRevision: initSegment.byte('cmdif_rev_fw_sub'),
  queueHigh: initSegment.byte('cmdq_addr_h'),
  queueLow: initSegment.byte('cmdq_addr_l_sz'),
  doorbell: initSegment.byte('cmd_dbell'),
  healthVersion: initSegment.byte('health') + healthBuffer.byte('fw_ver'),
  timerHigh: initSegment.byte('internal_timer_h'),
  timerLow: initSegment.byte('internal_timer_l'),
  healthCounter: initSegment.byte('health_counter'),
} as const;

/**
 * BAR 0. Every read is answered from plain state: it may come while the device waits for DMA by message. Words are
 * big-endian; accesses of any width and position are composed of them.
 */
export class Bar0 implements BarHandler {
  readonly #core: Mlx5Core;
  readonly #commands: CommandInterface;
  readonly #word = Buffer.alloc(4);

  constructor(core: Mlx5Core, commands: CommandInterface) {
    this.#core = core;
    this.#commands = commands;
  }

  /** Value of the aligned word at `offset` of the initialization segment. UAR pages and all else read as 0. */
  #read(offset: number): number {
    switch (offset) {
      case at.firmwareRevision:
        return ((firmware.minor << 16) | firmware.major) >>> 0;
      case at.interfaceRevision:
        return ((commandInterfaceRevision << 16) | firmware.subminor) >>> 0;
      case at.queueHigh:
        return this.#commands.addressHigh;
      case at.queueLow:
        return this.#commands.addressLowAndSize;
      case at.healthVersion:
        return ((firmware.major << 24) | (firmware.minor << 16) | firmware.subminor) >>> 0;
      case at.timerHigh:
        return this.#core.clock.high();
      case at.timerLow:
        return this.#core.clock.low();
      case at.healthCounter:
        return this.#core.clock.healthCounter();
      default:
        return 0;
    }
  }

  read(offset: number, count: number, target: Buffer, position: number): void {
    let word = Number.NaN;
    for (let index = 0; index < count; index++) {
      const address = offset + index;
      const aligned = address & ~3;
      if (aligned !== word) {
        word = aligned;
        this.#word.writeUInt32BE(this.#read(aligned), 0);
      }
      target[position + index] = this.#word[address & 3] ?? 0;
    }
  }

  write(offset: number, count: number, source: Buffer, position: number): void {
    if (offset >= firstUar * adapterPageBytes) {
      const page = Math.floor(offset / adapterPageBytes);
      writeUar(this.#core, page, offset % adapterPageBytes, count, source, position);
      return;
    }
    // Registers are words; a 64-bit write is two of them.
    for (let index = 0; index + 4 <= count; index += 4) {
      this.#writeWord(offset + index, source.readUInt32BE(position + index));
    }
  }

  #writeWord(offset: number, value: number): void {
    if (offset === at.queueHigh) this.#commands.setAddressHigh(value);
    else if (offset === at.queueLow) this.#commands.setAddressLow(value);
    else if (offset === at.doorbell) this.#commands.doorbell(value);
  }
}
