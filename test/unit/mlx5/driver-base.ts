import type { Mlx5Device } from '../../../device-models/mlx5/device.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { commandEntry, opcode } from '../../../device-models/mlx5/prm/index.ts';
import type { FakeHost } from './fake-host.ts';

export const pageBytes = 4096;
export const commandQueue = 0x10000;
const slotBytes = 64;

/** A command that the device answered with a status other than OK. */
export class CommandFailed extends Error {
  readonly status: number;
  readonly syndrome: number;

  constructor(name: string, status: number, syndrome: number) {
    super(`${name}: status 0x${status.toString(16)} syndrome 0x${syndrome.toString(16)}`);
    this.status = status;
    this.syndrome = syndrome;
  }
}

export interface Received {
  readonly frame: Buffer;
  readonly cqe: Buffer;
  readonly channel: number;
}

export interface SendOptions {
  readonly l3?: boolean;
  readonly l4?: boolean;
  readonly mss?: number;
  /** Bytes of the frame that go inline; LSO: the headers. */
  readonly inline?: number;
  readonly vlan?: { readonly type: 0x8000 | 0x8001; readonly tci: number };
  /** Lengths of the data segments; the rest is one more. */
  readonly pieces?: readonly number[];
  readonly lkey?: number;
  readonly signalled?: boolean;
}

export interface Cq {
  readonly cqn: number;
  readonly ring: number;
  readonly logSize: number;
  readonly dbr: number;
  ci: number;
}

export interface Sq {
  readonly sqn: number;
  readonly ring: number;
  readonly logSize: number;
  readonly dbr: number;
  readonly cq: Cq;
  pc: number;
  cc: number;
}

export interface Rq {
  readonly rqn: number;
  readonly ring: number;
  readonly dbr: number;
  readonly cq: Cq;
  readonly logStride: number;
  readonly fragment: number;
  readonly buffers: number;
  pi: number;
}

export interface Channel {
  readonly index: number;
  readonly ico: Sq;
  readonly tx: Sq;
  readonly rx: Rq;
  readonly cqs: readonly Cq[];
}

export interface Eq {
  readonly eqn: number;
  readonly ring: number;
  readonly logSize: number;
  readonly vector: number;
  ci: number;
}

export const logSqSize = 7;
export const logRqSize = 6;
export const logCqSize = 8;

/** Registers, guest memory and the command interface, as a driver uses them. */
export abstract class DriverBase {
  readonly host: FakeHost;
  readonly device: Mlx5Device;
  readonly log: string[] = [];
  readonly received: Received[] = [];
  readonly completions: Buffer[] = [];
  readonly events: { type: number; subType: number; data: Buffer }[] = [];
  channels: Channel[] = [];
  mac = Buffer.alloc(6);
  eventMode = false;
  /** Interrupts are served at once when true; else by `poll`. */
  uar = 0;
  pd = 0;
  mkey = 0;
  lkey = 0;
  td = 0;
  tises: number[] = [];
  dropCq = 0;
  dropRq = 0;
  rqt = 0;
  /** RQTs of one RQ each, a TIR each before the first. */
  directRqts: number[] = [];
  tirs: number[] = [];
  readonly tables: Record<string, number> = {};
  readonly groups: Record<string, number[]> = {};
  qCounter = 0;
  commandSlot = 0;
  eqs: { cmd?: Eq; async?: Eq; pages?: Eq; comp: Eq[] } = { comp: [] };
  #next = 0x100000;
  #free: number[] = [];

  constructor(host: FakeHost, device: Mlx5Device) {
    this.host = host;
    this.device = device;
  }

  get memory(): Buffer {
    return this.host.dma.bytes;
  }

  alloc(bytes: number, align = pageBytes): number {
    this.#next = Math.ceil(this.#next / align) * align;
    const at = this.#next;
    this.#next += bytes;
    if (this.#next > this.memory.length) throw new Error('fake driver is out of memory');
    return at;
  }

  read32(offset: number): number {
    const buffer = Buffer.alloc(4);
    this.device.bars[0].read(offset, 4, buffer, 0);
    return buffer.readUInt32BE(0);
  }

  write32(offset: number, value: number): void {
    const buffer = Buffer.alloc(4);
    buffer.writeUInt32BE(value >>> 0, 0);
    this.device.bars[0].write(offset, 4, buffer, 0);
  }

  write64(offset: number, high: number, low: number): void {
    const buffer = Buffer.alloc(8);
    buffer.writeUInt32BE(high >>> 0, 0);
    buffer.writeUInt32BE(low >>> 0, 4);
    this.device.bars[0].write(offset, 8, buffer, 0);
  }

  /** The TIS of the driver's only traffic class. */
  get tis(): number {
    return this.tises[0] ?? 0;
  }

  get uarBase(): number {
    return this.uar * pageBytes;
  }

  /** Writes a command into `slot` and rings; does not look at the answer. */
  post(
    name: keyof typeof opcode,
    input: Buffer,
    outLength: number,
    opMod = 0,
    slot = 0,
  ): { outputs: number[] } {
    const entry = commandQueue + slot * slotBytes;
    const at = this.memory.subarray(entry, entry + slotBytes);
    at.fill(0);
    input.writeUInt16BE(opcode[name], 0);
    input.writeUInt16BE(opMod, 6);
    at[commandEntry.byte('type')] = 7;
    commandEntry.set(at, 'inlen', input.length);
    commandEntry.set(at, 'outlen', outLength);
    input.copy(at, commandEntry.byte('in'), 0, 16);
    const inputs = this.#chain(input.length);
    inputs.forEach((block, index) => {
      input.copy(this.memory, block, 16 + 512 * index, Math.min(input.length, 16 + 512 * (index + 1)));
    });
    const outputs = this.#chain(outLength);
    commandEntry.set64(at, 'in_ptr', inputs[0] ?? 0);
    commandEntry.set64(at, 'out_ptr', outputs[0] ?? 0);
    at[commandEntry.byte('status_own')] = 1;
    this.write32(0x18, (1 << slot) >>> 0);
    return { outputs };
  }

  #chain(length: number): number[] {
    const count = Math.max(0, Math.ceil((length - 16) / 512));
    const blocks: number[] = [];
    for (let index = 0; index < count; index++) blocks.push(this.#free.pop() ?? this.alloc(1024, 1024));
    blocks.forEach((block, index) => {
      this.memory.fill(0, block, block + 576);
      const view = this.memory.subarray(block, block + 576);
      prm.mailboxBlock.set64(view, 'next', blocks[index + 1] ?? 0);
      prm.mailboxBlock.set(view, 'block_num', index);
    });
    return blocks;
  }

  /** Executes a command and returns its output; throws `CommandFailed`. */
  command(name: keyof typeof opcode, input = Buffer.alloc(16), outLength = 16, opMod = 0): Buffer {
    this.log.push(name);
    const slot = this.commandSlot;
    const seen = this.events.length;
    const expectEvent = this.eventMode;
    const { outputs } = this.post(name, input, outLength, opMod, slot);
    return this.finish(name, slot, outLength, outputs, expectEvent, seen);
  }

  finish(
    name: string,
    slot: number,
    outLength: number,
    outputs: number[],
    expectEvent: boolean,
    seen: number,
  ): Buffer {
    const entry = commandQueue + slot * slotBytes;
    const statusOwn = this.memory[entry + commandEntry.byte('status_own')] ?? 0xff;
    if (statusOwn !== 0) throw new CommandFailed(`${name} (delivery)`, statusOwn, 0);
    if (expectEvent) {
      this.poll();
      const event = this.events.slice(seen).find((e) => e.type === prm.eventType.CMD);
      if (event?.data.readUInt32BE(0) !== 1 << slot) throw new Error(`${name}: no completion event`);
    } else if (this.events.slice(seen).some((e) => e.type === prm.eventType.CMD)) {
      throw new Error(`${name}: event for a polled command`);
    }
    const output = Buffer.alloc(outLength);
    this.memory.copy(output, 0, entry + commandEntry.byte('out'), entry + commandEntry.byte('out') + 16);
    outputs.forEach((block, index) => {
      this.memory.copy(output, 16 + 512 * index, block, block + 512);
      this.#free.push(block);
    });
    if (output[0] !== 0) throw new CommandFailed(name, output[0] ?? 0, output.readUInt32BE(4));
    return output;
  }

  /** Interrupt handlers: what a command's completion event waits for. */
  abstract poll(): void;
}
