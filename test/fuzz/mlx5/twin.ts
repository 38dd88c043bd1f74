import { pack, unpack } from 'msgpackr';
import type { Mlx5Core } from '../../../device-models/mlx5/core.ts';
import { Mlx5Device } from '../../../device-models/mlx5/index.ts';
import { byId } from '../../../device-models/mlx5/migration/canonical.ts';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import { objectCodecs } from '../../../device-models/mlx5/migration/objects.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import type { PreCopySession, StateRecord } from '../../../src/device/index.ts';
import { FakeDriver } from '../../unit/mlx5/driver.ts';
import { commandQueue } from '../../unit/mlx5/driver-base.ts';
import { FakeHost, FakeMemory, FakePort } from '../../unit/mlx5/fake-host.ts';
import { testMac } from '../../unit/mlx5/setup.ts';
import type { Draft } from './drafts.ts';

export const memoryBytes = 2 * 1024 * 1024;
const vectors = 3;
const slotBytes = 64;
/** Slots of the command queue that are used. */
export const slots = 4;
/** Mailboxes of each slot: as many blocks for input as for output. */
const mailboxes = { at: 0x11000, blocks: 20, bytes: 1024 } as const;

/** Something that happens to a device, the same to both. */
export type Step =
  | { readonly do: 'command'; readonly draft: Draft; readonly slot: number }
  | { readonly do: 'write'; readonly offset: number; readonly bytes: Buffer }
  | { readonly do: 'memory'; readonly at: number; readonly bytes: Buffer }
  | { readonly do: 'frame'; readonly frame: Buffer }
  | { readonly do: 'time'; readonly ns: number }
  | { readonly do: 'link'; readonly up: boolean }
  | { readonly do: 'busMaster'; readonly on: boolean }
  | { readonly do: 'failSend' }
  | { readonly do: 'reset' }
  | { readonly do: 'probe' };

function travel(record: StateRecord): StateRecord {
  return unpack(pack(record)) as StateRecord;
}

function asText(records: Iterable<StateRecord>): string {
  return JSON.stringify([...records].map(travel), (_name, value) =>
    value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value,
  );
}

/** Brings the objects of every table in the order of their ids: nothing a guest can see depends on which was made first. */
function sortTables(core: Mlx5Core): void {
  for (const codec of objectCodecs) {
    const table = codec.table(core);
    const { next } = table;
    const objects = byId(table);
    table.clear();
    for (const object of objects) table.add(object);
    table.next = next;
  }
}

/** Has every table begin anew with its ids soon. */
export function nearlyLastIds(core: Mlx5Core): void {
  for (const codec of objectCodecs) {
    const table = codec.table(core);
    let last = table.first;
    while (table.isId(last + 1)) last++;
    table.next = last - 1;
  }
}

/** A guest's memory, and the device that it has. */
export class Twin {
  readonly memory = new FakeMemory(memoryBytes);
  host: FakeHost;
  port: FakePort;
  device: Mlx5Device;
  /** Vectors that have fired, frames that have left. */
  readonly fired: number[] = [];
  readonly sent: string[] = [];
  #session: PreCopySession | undefined;
  #records: StateRecord[] = [];

  constructor() {
    [this.host, this.port, this.device] = this.#make();
  }

  #make(): [FakeHost, FakePort, Mlx5Device] {
    const host = new FakeHost(this.memory);
    host.holdsDeferred = true;
    host.onInterrupt = (vector) => void this.fired.push(vector);
    const port = new FakePort();
    return [host, port, new Mlx5Device(host, { vectors, mac: testMac }, port)];
  }

  /** A driver finds the device and brings its interface up. */
  #probe(): void {
    this.device.reset('flr');
    this.port.setLink(true);
    this.host.pci.busMaster = true;
    this.device.commandChanged();
    this.host.runDeferred();
    const driver = new FakeDriver(this.host, this.device);
    driver.probe(vectors);
    driver.up(2);
  }

  play(step: Step): void {
    switch (step.do) {
      case 'command':
        this.#command(step.draft, step.slot);
        break;
      case 'write':
        this.device.bars[0].write(step.offset, step.bytes.length, step.bytes, 0);
        break;
      case 'memory':
        step.bytes.copy(this.memory.bytes, step.at);
        break;
      case 'frame':
        this.port.inject(step.frame);
        break;
      case 'time':
        this.host.advance(step.ns);
        break;
      case 'link':
        this.port.setLink(step.up);
        break;
      case 'busMaster':
        this.host.pci.busMaster = step.on;
        this.device.commandChanged();
        break;
      case 'failSend':
        this.device.injectSendError();
        break;
      case 'probe':
        this.#probe();
        break;
      default:
        this.device.reset('flr');
    }
    this.host.runDeferred();
    this.#checkAndCollect();
  }

  #checkAndCollect(): void {
    for (const frame of this.port.sent.splice(0)) this.sent.push(frame.toString('hex'));
    const error = this.host.errors[0];
    if (error !== undefined) throw new Error('the device logged an error of its own', { cause: error });
  }

  #command({ name, input, outLength, opMod }: Draft, slot: number): void {
    const { bytes } = this.memory;
    const entry = bytes.subarray(commandQueue + slot * slotBytes, commandQueue + (slot + 1) * slotBytes);
    entry.fill(0);
    input.writeUInt16BE(prm.opcode[name], 0);
    input.writeUInt16BE(opMod, 6);
    const { commandEntry } = prm;
    entry[commandEntry.byte('type')] = prm.pciCommandTransport;
    commandEntry.set(entry, 'inlen', input.length);
    commandEntry.set(entry, 'outlen', outLength);
    input.copy(entry, commandEntry.byte('in'), 0, prm.inlineBytes);
    commandEntry.set64(entry, 'in_ptr', this.#chain(2 * slot, input.subarray(prm.inlineBytes)));
    commandEntry.set64(entry, 'out_ptr', this.#chain(2 * slot + 1, Buffer.alloc(outLength)));
    entry[commandEntry.byte('status_own')] = 1;
    const doorbell = Buffer.alloc(4);
    doorbell.writeUInt32BE(1 << slot);
    this.device.bars[0].write(0x18, 4, doorbell, 0);
  }

  /** Puts `content` in a chain of mailboxes and gives its address. */
  #chain(which: number, content: Buffer): number {
    const { bytes } = this.memory;
    const start = mailboxes.at + which * mailboxes.blocks * mailboxes.bytes;
    const blocks = Math.ceil(content.length / prm.mailboxDataBytes);
    if (blocks > mailboxes.blocks) throw new Error(`${content.length} bytes are too many for a command`);
    for (let block = 0; block < blocks; block++) {
      const at = start + block * mailboxes.bytes;
      bytes.fill(0, at, at + mailboxes.bytes);
      content.copy(bytes, at, block * prm.mailboxDataBytes, (block + 1) * prm.mailboxDataBytes);
      const next = block + 1 < blocks ? at + mailboxes.bytes : 0;
      prm.mailboxBlock.set64(bytes, 'next', next, at);
    }
    return start;
  }

  /** Status of the command in `slot`. */
  status(slot: number): number {
    return this.memory.bytes[commandQueue + slot * slotBytes + prm.commandEntry.byte('out')] ?? 0;
  }

  pause(): void {
    this.host.mayInitiate = false;
    this.device.quiesce();
  }

  /** Goes on where it is, without what a migration is allowed to lose: how long moderation has waited. */
  goOn(): void {
    for (const cq of this.device.core.cqs.table.values()) {
      cq.timer?.close();
      cq.timer = undefined;
      cq.lastEvent = Number.NEGATIVE_INFINITY;
      cq.urgent = false;
    }
    sortTables(this.device.core);
    this.#resume();
  }

  #resume(): void {
    this.host.mayInitiate = true;
    this.device.resume();
    this.host.runDeferred();
    this.#checkAndCollect();
  }

  saved(): string {
    return asText(this.device.migration.save());
  }

  beginPreCopy(): void {
    this.#session?.end();
    this.#session = this.device.migration.preCopy();
    this.#records = [];
  }

  preCopy(records: number): void {
    for (let left = records; left > 0; left--) {
      const record = this.#session?.next();
      if (record === undefined) return;
      this.#records.push(travel(record));
    }
  }

  /**
   * Goes on in another device.
   * @param onTheWay what happens to the records of the state
   * @returns the state as it was saved
   */
  migrate(onTheWay: (record: StateRecord) => StateRecord): string {
    const state = this.saved();
    const last = this.#session?.final() ?? this.device.migration.save();
    const records = [...this.#records, ...[...last].map(travel)].map(onTheWay);
    this.#session?.end();
    this.#session = undefined;
    this.#records = [];
    const { host, port } = this;
    this.device.close();
    if (host.timers.size > 0) throw new Error('a device that is closed has left timers');
    [this.host, this.port, this.device] = this.#make();
    Object.assign(this.host.pci, host.pci);
    Object.assign(this.host, { time: host.time, mayInitiate: false });
    this.port.setLink(port.linkUp);
    this.port.kept.push(...port.kept);
    const { migration } = this.device;
    this.device.reset('client');
    migration.beginLoad(stateVersions.current);
    for (const record of records) migration.load(record);
    migration.endLoad();
    const arrived = this.saved();
    if (arrived !== state) throw new Error(`the state that arrived is another: ${differing(state, arrived)}`);
    sortTables(this.device.core);
    return state;
  }

  arrive(): void {
    this.#resume();
  }
}

/** Where two texts begin to differ. */
export function differing(one: string, other: string): string {
  let at = 0;
  while (at < one.length && one[at] === other[at]) at++;
  const from = Math.max(0, at - 200);
  return `…${one.slice(from, at + 60)} — …${other.slice(from, at + 60)}`;
}
