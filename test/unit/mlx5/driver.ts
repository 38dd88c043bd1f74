import type { Mlx5Device } from '../../../device-models/mlx5/device.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { commandEntry, opcode } from '../../../device-models/mlx5/prm/index.ts';
import type { FakeHost } from './fake-host.ts';

const pageBytes = 4096;
const commandQueue = 0x10000;
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

interface Cq {
  readonly cqn: number;
  readonly ring: number;
  readonly logSize: number;
  readonly dbr: number;
  ci: number;
}

interface Sq {
  readonly sqn: number;
  readonly ring: number;
  readonly dbr: number;
  readonly cq: Cq;
  pc: number;
  cc: number;
}

interface Rq {
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

interface Eq {
  readonly eqn: number;
  readonly ring: number;
  readonly logSize: number;
  readonly vector: number;
  ci: number;
}

const logSqSize = 7;
const logRqSize = 6;
const logCqSize = 8;

/**
 * A driver for tests that speaks to the model as mlx5_core does: the same commands in the same order, rings in guest
 * memory, doorbells, NAPI. Only as much of a network stack as it takes to send and to receive frames.
 */
export class FakeDriver {
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
  lkey = 0;
  td = 0;
  tis = 0;
  dropRq = 0;
  rqt = 0;
  tirs: number[] = [];
  readonly tables: Record<string, number> = {};
  readonly groups: Record<string, number[]> = {};
  qCounter = 0;
  commandSlot = 0;
  eqs: { cmd?: Eq; async?: Eq; pages?: Eq; comp: Eq[] } = { comp: [] };
  #next = 0x100000;
  #free: number[] = [];
  #polling = false;

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

  // --- probe -------------------------------------------------------------------------------------------------

  probe(vectors: number): void {
    this.write32(0x10, 0);
    this.write32(0x14, commandQueue);
    this.command('ENABLE_HCA', Buffer.alloc(16), 12);
    this.command('QUERY_ISSI', Buffer.alloc(16), 112);
    const issi = Buffer.alloc(16);
    prm.setIssiIn.set(issi, 'current_issi', 1);
    this.command('SET_ISSI', issi);
    this.command('QUERY_PAGES', Buffer.alloc(16), 16, 1);
    this.command('MANAGE_PAGES', Buffer.alloc(16), 16, 1);
    const current = this.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, 1);
    this.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, 0);
    const setCap = Buffer.alloc(4112);
    current.copy(setCap, 16, 16);
    this.command('SET_HCA_CAP', setCap, 16, 0);
    this.command('QUERY_PAGES', Buffer.alloc(16), 16, 2);
    this.command('INIT_HCA', Buffer.alloc(32));
    for (const type of [0, 1, 7]) {
      this.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, (type << 1) | 1);
      this.command('QUERY_HCA_CAP', Buffer.alloc(16), 4112, type << 1);
    }
    this.command('QUERY_ADAPTER', Buffer.alloc(16), 272);
    this.uar = prm.allocUarOut.get(this.command('ALLOC_UAR'), 'uar');
    this.eqs.cmd = this.createEq(8, 0x400, vectors - 1);
    this.eventMode = true;
    this.eqs.async = this.createEq(9, 0x1f02be & ~0x400, vectors - 1);
    this.eqs.pages = this.createEq(8, 0x800, vectors - 1);
    this.eqs.comp = Array.from({ length: Math.max(1, vectors - 1) }, (_, index) =>
      this.createEq(8, 0, index),
    );
    this.tables.anchor = this.createTable(10, 0);
    this.setRoot('anchor');
    const context = this.command('QUERY_NIC_VPORT_CONTEXT', Buffer.alloc(16), 272);
    this.mac = Buffer.from(context.subarray(0x106, 0x10c));
    this.command('ALLOC_PD');
    const td = this.command('ALLOC_TRANSPORT_DOMAIN');
    this.td = prm.allocTransportDomainOut.get(td, 'transport_domain');
    const mkey = Buffer.alloc(272);
    prm.mkc.set(mkey, 'length64', 1, 16);
    prm.mkc.set(mkey, 'lr', 1, 16);
    prm.mkc.set(mkey, 'lw', 1, 16);
    prm.mkc.set(mkey, 'qpn', 0xffffff, 16);
    this.lkey = (prm.createMkeyOut.get(this.command('CREATE_MKEY', mkey), 'mkey_index') << 8) >>> 0;
    for (let prio = 0; prio < 8; prio++) {
      const tis = Buffer.alloc(192);
      prm.tisc.set(tis, 'transport_domain', this.td, 0x20);
      const created = prm.createTisOut.get(this.command('CREATE_TIS', tis), 'tisn');
      if (prio === 0) this.tis = created;
    }
    this.qCounter = prm.allocQCounterOut.get(this.command('ALLOC_Q_COUNTER'), 'counter_set_id');
    const dropCq = this.createCq(0, 0);
    this.dropRq = this.createRq(dropCq, 0, 2048, 0).rqn;
    this.rqt = this.createRqt([this.dropRq], 256);
    this.tirs = [];
    for (const [v6, udp, fields] of tirKinds) this.tirs.push(this.createTir(this.rqt, v6, udp, fields));
    for (const _eq of this.eqs.comp) {
      this.tirs.push(this.createTir(this.createRqt([this.dropRq], 1), false, false, 0));
    }
    this.#steering();
    const pmtu = Buffer.alloc(32);
    this.register(0x5003, pmtu, 1);
    this.setMtu(1522);
    this.stats();
  }

  register(id: number, request: Buffer, opMod: 0 | 1): Buffer {
    const input = Buffer.from(request);
    input.writeUInt16BE(id, 10);
    return this.command('ACCESS_REG', input, request.length, opMod);
  }

  setMtu(hardMtu: number): void {
    const pmtu = Buffer.alloc(32);
    pmtu.writeUInt16BE(hardMtu, 0x10 + 8);
    this.register(0x5003, pmtu, 0);
    const vport = Buffer.alloc(512);
    prm.modifyNicVportFieldSelect.set(vport, 'mtu', 1, prm.modifyNicVportContextIn.byte('field_select'));
    prm.nicVportContext.set(vport, 'mtu', hardMtu, prm.modifyNicVportContextIn.byte('nic_vport_context'));
    this.command('MODIFY_NIC_VPORT_CONTEXT', vport);
  }

  stats(): { vport: Buffer; ieee: Buffer; qCounter: Buffer } {
    const ppcnt = Buffer.alloc(272);
    prm.ppcntReg.set(ppcnt, 'local_port', 1, 16);
    const ieee = this.register(0x5008, ppcnt, 1);
    const vport = this.command('QUERY_VPORT_COUNTER', Buffer.alloc(32), 528);
    const q = Buffer.alloc(32);
    prm.queryQCounterIn.set(q, 'counter_set_id', this.qCounter);
    return { vport, ieee, qCounter: this.command('QUERY_Q_COUNTER', q, 256) };
  }

  createEq(logSize: number, mask: number, vector: number): Eq {
    const bytes = 64 << logSize;
    const ring = this.alloc(bytes);
    for (let at = 0; at < bytes; at += 64) this.memory[ring + at + 0x3f] = 1;
    const input = Buffer.alloc(272 + 8 * (bytes / pageBytes));
    prm.eqc.set(input, 'log_eq_size', logSize, 16);
    prm.eqc.set(input, 'uar_page', this.uar, 16);
    prm.eqc.set(input, 'intr', vector, 16);
    input.writeUInt32BE(mask >>> 0, 0x58 + 4);
    this.pages(input, 0x110, ring, bytes);
    const eqn = prm.createEqOut.get(this.command('CREATE_EQ', input), 'eq_number');
    const eq = { eqn, ring, logSize, vector, ci: 0 };
    this.write32(this.uarBase + 0x40, (eqn << 24) >>> 0);
    return eq;
  }

  pages(input: Buffer, at: number, ring: number, bytes: number): void {
    for (let index = 0; index * pageBytes < bytes; index++) {
      input.writeUInt32BE(0, at + 8 * index);
      input.writeUInt32BE(ring + index * pageBytes, at + 8 * index + 4);
    }
  }

  createCq(channel: number, logSize: number): Cq {
    const bytes = 64 << logSize;
    const ring = this.alloc(bytes);
    for (let at = 0; at < bytes; at += 64) this.memory[ring + at + 0x3f] = 0xf1;
    const dbr = this.alloc(8, 64);
    const input = Buffer.alloc(272 + 8 * Math.ceil(bytes / pageBytes));
    prm.cqc.set(input, 'log_cq_size', logSize, 16);
    prm.cqc.set(input, 'uar_page', this.uar, 16);
    prm.cqc.set(input, 'c_eqn_or_apu_element', this.eqs.comp[channel]?.eqn ?? 0, 16);
    prm.cqc.set64(input, 'dbr_addr', dbr, 16);
    this.pages(input, 0x110, ring, bytes);
    const cqn = prm.createCqOut.get(this.command('CREATE_CQ', input), 'cqn');
    const cq = { cqn, ring, logSize, dbr, ci: 0 };
    this.arm(cq);
    return cq;
  }

  arm(cq: Cq): void {
    this.memory.writeUInt32BE(cq.ci & 0xffffff, cq.dbr);
    this.write64(this.uarBase + 0x20, cq.ci & 0xffffff, cq.cqn);
  }

  #wq(
    input: Buffer,
    at: number,
    ring: number,
    bytes: number,
    dbr: number,
    logStride: number,
    logSize: number,
  ): void {
    prm.wq.set(input, 'wq_type', 1, at);
    prm.wq.set64(input, 'dbr_addr', dbr, at);
    prm.wq.set(input, 'log_wq_stride', logStride, at);
    prm.wq.set(input, 'log_wq_sz', logSize, at);
    this.pages(input, at + prm.wq.byte('pas'), ring, bytes);
  }

  createSq(cq: Cq, tisn: number): Sq {
    const bytes = 64 << logSqSize;
    const ring = this.alloc(bytes);
    const dbr = this.alloc(8, 64);
    const input = Buffer.alloc(272 + 8 * Math.ceil(bytes / pageBytes));
    prm.sqc.set(input, 'cqn', cq.cqn, 0x20);
    prm.sqc.set(input, 'flush_in_error_en', 1, 0x20);
    prm.sqc.set(input, 'tis_lst_sz', tisn === 0 ? 0 : 1, 0x20);
    prm.sqc.set(input, 'tis_num_0', tisn, 0x20);
    this.#wq(input, 0x50, ring, bytes, dbr, 6, logSqSize);
    const sqn = prm.createSqOut.get(this.command('CREATE_SQ', input), 'sqn');
    const sq = { sqn, ring, dbr, cq, pc: 0, cc: 0 };
    this.modifySq(sq, 0, 1);
    return sq;
  }

  modifySq(sq: Sq, from: number, to: number): void {
    const input = Buffer.alloc(272);
    prm.modifySqIn.set(input, 'sqn', sq.sqn);
    prm.modifySqIn.set(input, 'sq_state', from);
    prm.sqc.set(input, 'state', to, 0x20);
    this.command('MODIFY_SQ', input);
  }

  querySqState(sq: Sq): number {
    const input = Buffer.alloc(16);
    prm.querySqIn.set(input, 'sqn', sq.sqn);
    return prm.sqc.get(this.command('QUERY_SQ', input, 272), 'state', 0x20);
  }

  createRq(cq: Cq, logSize: number, fragment: number, logStrideExtra: number): Rq {
    const logStride = 4 + logStrideExtra;
    const bytes = Math.max(pageBytes, 2 ** (logSize + logStride));
    const ring = this.alloc(bytes);
    const dbr = this.alloc(8, 64);
    const input = Buffer.alloc(272 + 8 * Math.ceil(bytes / pageBytes));
    prm.rqc.set(input, 'cqn', cq.cqn, 0x20);
    prm.rqc.set(input, 'counter_set_id', this.qCounter, 0x20);
    this.#wq(input, 0x50, ring, bytes, dbr, logStride, logSize);
    const rqn = prm.createRqOut.get(this.command('CREATE_RQ', input), 'rqn');
    this.modifyRq(rqn, 0, 1);
    const count = 2 ** logSize;
    const buffers = logSize === 0 ? 0 : this.alloc(count * fragment * 2 ** logStrideExtra);
    return { rqn, ring, dbr, cq, logStride, fragment, buffers, pi: 0 };
  }

  modifyRq(rqn: number, from: number, to: number, vsd?: boolean): void {
    const input = Buffer.alloc(272);
    prm.modifyRqIn.set(input, 'rqn', rqn);
    prm.modifyRqIn.set(input, 'rq_state', from);
    prm.rqc.set(input, 'state', to, 0x20);
    if (vsd !== undefined) {
      prm.modifyRqIn.set64(input, 'modify_bitmask', 2);
      prm.rqc.set(input, 'vsd', vsd ? 1 : 0, 0x20);
    }
    this.command('MODIFY_RQ', input);
  }

  createRqt(rqns: readonly number[], max: number): number {
    const input = Buffer.alloc(272 + 4 * rqns.length);
    prm.rqtc.set(input, 'rqt_max_size', max, 0x20);
    prm.rqtc.set(input, 'rqt_actual_size', rqns.length, 0x20);
    for (const [index, rqn] of rqns.entries()) input.writeUInt32BE(rqn, 0x110 + 4 * index);
    return prm.createRqtOut.get(this.command('CREATE_RQT', input), 'rqtn');
  }

  modifyRqt(rqtn: number, rqns: readonly number[]): void {
    const input = Buffer.alloc(272 + 4 * rqns.length);
    prm.modifyRqtIn.set(input, 'rqtn', rqtn);
    prm.modifyRqtIn.set64(input, 'bitmask', 1);
    prm.rqtc.set(input, 'rqt_actual_size', rqns.length, 0x20);
    for (const [index, rqn] of rqns.entries()) input.writeUInt32BE(rqn, 0x110 + 4 * index);
    this.command('MODIFY_RQT', input);
  }

  createTir(rqtn: number, ipv6: boolean, udp: boolean, fields: number): number {
    const input = Buffer.alloc(272);
    prm.tirc.set(input, 'disp_type', 1, 0x20);
    prm.tirc.set(input, 'indirect_table', rqtn, 0x20);
    prm.tirc.set(input, 'rx_hash_fn', fields === 0 ? 1 : 2, 0x20);
    prm.tirc.set(input, 'transport_domain', this.td, 0x20);
    rssKey.copy(input, 0x20 + prm.tirc.byte('rx_hash_toeplitz_key'));
    const selector = 0x20 + prm.tirc.byte('rx_hash_field_selector_outer');
    prm.rxHashFieldSelect.set(input, 'l3_prot_type', ipv6 ? 1 : 0, selector);
    prm.rxHashFieldSelect.set(input, 'l4_prot_type', udp ? 1 : 0, selector);
    prm.rxHashFieldSelect.set(input, 'selected_fields', fields, selector);
    return prm.createTirOut.get(this.command('CREATE_TIR', input), 'tirn');
  }

  // --- steering ----------------------------------------------------------------------------------------------

  createTable(level: number, logSize: number, miss = 0): number {
    const input = Buffer.alloc(64);
    const at = prm.createFlowTableIn.byte('flow_table_context');
    prm.flowTableContext.set(input, 'level', level, at);
    prm.flowTableContext.set(input, 'log_size', logSize, at);
    if (miss !== 0) {
      prm.flowTableContext.set(input, 'table_miss_action', 1, at);
      prm.flowTableContext.set(input, 'table_miss_id', miss, at);
    }
    return prm.createFlowTableOut.get(this.command('CREATE_FLOW_TABLE', input), 'table_id');
  }

  setRoot(name: string): void {
    const input = Buffer.alloc(64);
    prm.setFlowTableRootIn.set(input, 'table_id', this.tables[name] ?? 0);
    this.command('SET_FLOW_TABLE_ROOT', input);
  }

  createGroup(table: string, start: number, end: number, fill: (match: Buffer) => void): void {
    const input = Buffer.alloc(1024);
    prm.createFlowGroupIn.set(input, 'table_id', this.tables[table] ?? 0);
    prm.createFlowGroupIn.set(input, 'start_flow_index', start);
    prm.createFlowGroupIn.set(input, 'end_flow_index', end);
    const match = input.subarray(prm.createFlowGroupIn.byte('match_criteria'));
    fill(match);
    if (match.some((byte) => byte !== 0)) prm.createFlowGroupIn.set(input, 'match_criteria_enable', 1);
    const id = prm.createFlowGroupOut.get(this.command('CREATE_FLOW_GROUP', input), 'group_id');
    this.groups[table] = [...(this.groups[table] ?? []), id];
  }

  setEntry(
    table: string,
    group: number,
    index: number,
    to: { table?: string; tir?: number },
    fill: (match: Buffer) => void = () => {},
  ): void {
    const input = Buffer.alloc(840);
    const at = prm.setFteIn.byte('flow_context');
    prm.setFteIn.set(input, 'table_id', this.tables[table] ?? 0);
    prm.setFteIn.set(input, 'flow_index', index);
    prm.flowContext.set(input, 'group_id', this.groups[table]?.[group] ?? 0xffff, at);
    prm.flowContext.set(input, 'action', 4, at);
    prm.flowContext.set(input, 'destination_list_size', 1, at);
    fill(input.subarray(at + prm.flowContext.byte('match_value')));
    const destination = at + prm.flowContext.byte('destination');
    prm.destFormatStruct.set(input, 'destination_type', to.table === undefined ? 2 : 1, destination);
    const id = to.table === undefined ? (to.tir ?? 0) : (this.tables[to.table] ?? 0);
    prm.destFormatStruct.set(input, 'destination_id', id, destination);
    this.command('SET_FLOW_TABLE_ENTRY', input);
  }

  deleteEntry(table: string, index: number): void {
    const input = Buffer.alloc(64);
    prm.deleteFteIn.set(input, 'table_id', this.tables[table] ?? 0);
    prm.deleteFteIn.set(input, 'flow_index', index);
    this.command('DELETE_FLOW_TABLE_ENTRY', input);
  }

  #steering(): void {
    const set = prm.fteMatchSetLyr24;
    this.tables.ttc = this.createTable(6, 4, this.tables.anchor);
    this.setRoot('ttc');
    this.createGroup('ttc', 0, 7, (match) => {
      set.set(match, 'ip_version', 0xf);
      set.set(match, 'ip_protocol', 0xff);
    });
    this.createGroup('ttc', 8, 9, (match) => set.set(match, 'ip_version', 0xf));
    this.createGroup('ttc', 10, 10, () => {});
    ttcRules.forEach(([version, protocol], index) => {
      this.setEntry('ttc', protocol === 0 ? 1 : 0, index, { tir: this.tirs[index] ?? 0 }, (match) => {
        set.set(match, 'ip_version', version);
        set.set(match, 'ip_protocol', protocol);
      });
    });
    this.setEntry('ttc', 2, 10, { tir: this.tirs[10] ?? 0 });
    this.tables.l2 = this.createTable(5, 8);
    this.setRoot('l2');
    this.createGroup('l2', 0, 127, (match) => fillDmac(match, Buffer.alloc(6, 0xff)));
    this.createGroup('l2', 128, 128, (match) => fillDmac(match, Buffer.from([1, 0, 0, 0, 0, 0])));
    this.createGroup('l2', 129, 129, () => {});
    this.tables.vlan = this.createTable(4, 12);
    this.setRoot('vlan');
    this.createGroup('vlan', 0, 2047, (match) => {
      set.set(match, 'cvlan_tag', 1);
      set.set(match, 'first_vid', 0xfff);
    });
    this.createGroup('vlan', 2048, 2048, (match) => set.set(match, 'cvlan_tag', 1));
    this.setEntry('vlan', 1, 2048, { table: 'l2' });
    this.tables.tc = this.createTable(2, 0, this.tables.vlan);
    this.setRoot('tc');
  }

  addMac(index: number, mac: Buffer): void {
    this.setEntry('l2', 0, index, { table: 'ttc' }, (match) => fillDmac(match, mac));
  }

  allMulti(on: boolean): void {
    const group = Buffer.from([1, 0, 0, 0, 0, 0]);
    if (on) this.setEntry('l2', 1, 128, { table: 'ttc' }, (match) => fillDmac(match, group));
    else this.deleteEntry('l2', 128);
  }

  addVlan(vid: number): void {
    this.setEntry('vlan', 0, vid, { table: 'l2' }, (match) => {
      prm.fteMatchSetLyr24.set(match, 'cvlan_tag', 1);
      prm.fteMatchSetLyr24.set(match, 'first_vid', vid);
    });
  }

  promisc(on: boolean): void {
    const input = Buffer.alloc(64);
    const at = prm.modifyFlowTableIn.byte('flow_table_context');
    if (on) {
      this.tables.promisc = this.createTable(3, 0);
      this.createGroup('promisc', 0, 0, () => {});
      this.setEntry('promisc', 0, 0, { table: 'ttc' });
    }
    prm.modifyFlowTableIn.set(input, 'modify_field_select', 1);
    prm.modifyFlowTableIn.set(input, 'table_id', this.tables.tc ?? 0);
    prm.flowTableContext.set(input, 'table_miss_action', 1, at);
    prm.flowTableContext.set(input, 'table_miss_id', this.tables[on ? 'promisc' : 'vlan'] ?? 0, at);
    this.command('MODIFY_FLOW_TABLE', input);
  }

  // --- interface up and down ---------------------------------------------------------------------------------

  up(count = 1, rx: { fragment: number; logFragments: number } = { fragment: 2048, logFragments: 0 }): void {
    this.channels = [];
    for (let index = 0; index < count; index++) {
      const icoCq = this.createCq(index, 6);
      const txCq = this.createCq(index, logCqSize);
      const rxCq = this.createCq(index, logCqSize);
      const ico = this.createSq(icoCq, 0);
      const tx = this.createSq(txCq, this.tis);
      const queue = this.createRq(rxCq, logRqSize, rx.fragment, rx.logFragments);
      this.channels.push({ index, ico, tx, rx: queue, cqs: [icoCq, txCq, rxCq] });
    }
    for (const channel of this.channels) {
      // The driver fills its receive queue in the poll that this NOP's completion brings about.
      this.postNop(channel.ico);
      this.poll();
      if (channel.rx.pi === 0) throw new Error('the NOP brought no poll: receive queue not filled');
    }
    const rqns = this.channels.map((channel) => channel.rx.rqn);
    this.modifyRqt(
      this.rqt,
      Array.from({ length: 128 }, (_, index) => rqns[index % rqns.length] ?? 0),
    );
    rqns.forEach((rqn, index) => {
      this.modifyRqt(this.rqt + 1 + index, [rqn]);
    });
    const state = this.command('QUERY_VPORT_STATE');
    if ((state[0xf] ?? 0) !== 0x11) throw new Error(`no carrier: ${state[0xf]}`);
    this.paos(1);
    this.addMac(0, this.mac);
    this.addMac(1, Buffer.alloc(6, 0xff));
  }

  paos(admin: number): void {
    const paos = Buffer.alloc(32);
    paos[0x10 + 2] = admin;
    this.register(0x5006, paos, 0);
  }

  down(): void {
    this.deleteEntry('l2', 0);
    this.deleteEntry('l2', 1);
    this.paos(2);
    this.modifyRqt(this.rqt, [this.dropRq]);
    this.channels.forEach((_, index) => {
      this.modifyRqt(this.rqt + 1 + index, [this.dropRq]);
    });
    for (const channel of this.channels) {
      this.postNop(channel.tx);
      for (const sq of [channel.ico, channel.tx]) this.#destroy('DESTROY_SQ', 'sqn', sq.sqn);
      this.#destroy('DESTROY_RQ', 'rqn', channel.rx.rqn);
      for (const cq of channel.cqs) this.#destroy('DESTROY_CQ', 'cqn', cq.cqn);
    }
    this.channels = [];
  }

  #destroy(name: keyof typeof opcode, _field: string, id: number): void {
    const input = Buffer.alloc(16);
    input.writeUInt32BE(id, 8);
    this.command(name, input);
  }

  remove(): void {
    const table = (name: string) => {
      const input = Buffer.alloc(64);
      prm.destroyFlowTableIn.set(input, 'table_id', this.tables[name] ?? 0);
      this.command('DESTROY_FLOW_TABLE', input);
    };
    const group = (name: string) => {
      for (const id of this.groups[name] ?? []) {
        const input = Buffer.alloc(64);
        prm.destroyFlowGroupIn.set(input, 'table_id', this.tables[name] ?? 0);
        prm.destroyFlowGroupIn.set(input, 'group_id', id);
        this.command('DESTROY_FLOW_GROUP', input);
      }
      this.groups[name] = [];
    };
    this.setRoot('vlan');
    table('tc');
    this.setRoot('l2');
    this.deleteEntry('vlan', 2048);
    group('vlan');
    table('vlan');
    this.setRoot('ttc');
    group('l2');
    table('l2');
    this.setRoot('anchor');
    for (let index = 0; index <= 10; index++) this.deleteEntry('ttc', index);
    group('ttc');
    table('ttc');
    for (const tirn of this.tirs) this.#destroy('DESTROY_TIR', 'tirn', tirn);
    this.#destroy('DESTROY_RQ', 'rqn', this.dropRq);
    table('anchor');
    this.#destroy('DESTROY_EQ', 'eq_number', this.eqs.pages?.eqn ?? 0);
    this.#destroy('DESTROY_EQ', 'eq_number', this.eqs.async?.eqn ?? 0);
    this.eventMode = false;
    this.#destroy('DESTROY_EQ', 'eq_number', this.eqs.cmd?.eqn ?? 0);
    this.#destroy('DEALLOC_UAR', 'uar', this.uar);
    this.command('TEARDOWN_HCA');
    this.command('DISABLE_HCA', Buffer.alloc(16), 12);
    this.eqs = { comp: [] };
  }

  // --- data path ---------------------------------------------------------------------------------------------

  #slot(sq: Sq): number {
    return sq.ring + (sq.pc % 2 ** logSqSize) * 64;
  }

  ring(sq: Sq): void {
    this.memory.writeUInt32BE(sq.pc & 0xffff, sq.dbr + 4);
    const last = sq.ring + ((sq.pc - 1) % 2 ** logSqSize) * 64;
    this.write64(this.uarBase + 0x800, this.memory.readUInt32BE(last), (sq.sqn << 8) | 1);
  }

  postNop(sq: Sq, ringIt = true): void {
    const at = this.#slot(sq);
    this.memory.fill(0, at, at + 64);
    this.memory.writeUInt32BE((sq.pc & 0xffff) << 8, at);
    this.memory.writeUInt32BE(((sq.sqn << 8) | 1) >>> 0, at + 4);
    this.memory[at + 11] = 8;
    sq.pc++;
    if (ringIt) this.ring(sq);
  }

  /** Writes a WQE for `frame` without ringing. */
  build(sq: Sq, frame: Buffer, options: SendOptions = {}): void {
    const inline = options.inline ?? 0;
    const wqe = Buffer.alloc(1024);
    let at = 32;
    if (options.vlan !== undefined) {
      wqe.writeUInt16BE(options.vlan.type, 28);
      wqe.writeUInt16BE(options.vlan.tci, 30);
    } else if (inline > 0) {
      wqe.writeUInt16BE(inline, 28);
      frame.copy(wqe, 30, 0, inline);
      at += Math.ceil(Math.max(0, inline - 2) / 16) * 16;
    }
    let from = inline;
    const lengths = [...(options.pieces ?? [])];
    while (from < frame.length) {
      const length = Math.min(lengths.shift() ?? frame.length, frame.length - from);
      const address = this.alloc(length, 1);
      frame.copy(this.memory, address, from, from + length);
      wqe.writeUInt32BE(length, at);
      wqe.writeUInt32BE(options.lkey ?? this.lkey, at + 4);
      wqe.writeUInt32BE(address, at + 12);
      at += 16;
      from += length;
    }
    wqe.writeUInt32BE(((sq.pc & 0xffff) << 8) | (options.mss === undefined ? 0x0a : 0x0e), 0);
    wqe.writeUInt32BE(((sq.sqn << 8) | (at / 16)) >>> 0, 4);
    wqe[11] = options.signalled === false ? 0 : 8;
    wqe[20] = (options.l3 ? 0x40 : 0) | (options.l4 ? 0x80 : 0);
    wqe.writeUInt16BE(options.mss ?? 0, 22);
    const blocks = Math.ceil(at / 64);
    while ((sq.pc % 2 ** logSqSize) + blocks > 2 ** logSqSize) {
      this.postNop(sq, false);
      // The WQE's index has moved.
      wqe.writeUInt32BE(((sq.pc & 0xffff) << 8) | (options.mss === undefined ? 0x0a : 0x0e), 0);
    }
    wqe.copy(this.memory, this.#slot(sq), 0, blocks * 64);
    sq.pc += blocks;
  }

  send(frame: Buffer, options: SendOptions = {}, channel = 0): void {
    const sq = this.channels[channel]?.tx;
    if (sq === undefined) throw new Error(`no channel ${channel}`);
    this.build(sq, frame, options);
    this.ring(sq);
  }

  /** Interrupt handlers and NAPI: drains EQs, then CQs, refills, re-arms. */
  poll(): void {
    if (this.#polling) return;
    this.#polling = true;
    try {
      for (const eq of [this.eqs.cmd, this.eqs.async, this.eqs.pages, ...this.eqs.comp]) {
        if (eq !== undefined) this.#pollEq(eq);
      }
    } finally {
      this.#polling = false;
    }
  }

  #pollEq(eq: Eq): void {
    const size = 2 ** eq.logSize;
    const done: number[] = [];
    for (;;) {
      const at = eq.ring + (eq.ci % size) * 64;
      const entry = this.memory.subarray(at, at + 64);
      if (((entry[0x3f] ?? 0) & 1) !== (Math.floor(eq.ci / size) & 1)) break;
      eq.ci++;
      const type = entry[1] ?? 0;
      if (type === prm.eventType.COMP) done.push(entry.readUInt32BE(0x38));
      else {
        this.events.push({ type, subType: entry[3] ?? 0, data: Buffer.from(entry.subarray(0x20, 0x3c)) });
      }
    }
    this.write32(this.uarBase + 0x40, ((eq.eqn << 24) | (eq.ci & 0xffffff)) >>> 0);
    for (const channel of this.channels) {
      if (channel.cqs.some((cq) => done.includes(cq.cqn))) this.napi(channel);
    }
    if (done.length > 0 && this.channels.length === 0) this.refillAll();
  }

  /** Channels under construction are filled by the NOP's poll. */
  refillAll(): void {
    for (const channel of this.channels) this.refill(channel.rx);
  }

  napi(channel: Channel): void {
    for (const cq of channel.cqs) this.#pollCq(channel, cq);
    this.refill(channel.rx);
    for (const cq of channel.cqs) this.arm(cq);
  }

  #pollCq(channel: Channel, cq: Cq): void {
    const size = 2 ** cq.logSize;
    for (;;) {
      const at = cq.ring + (cq.ci % size) * 64;
      const cqe = this.memory.subarray(at, at + 64);
      const opOwn = cqe[0x3f] ?? 0;
      if (opOwn >>> 4 === 0xf || (opOwn & 1) !== (Math.floor(cq.ci / size) & 1)) break;
      cq.ci++;
      this.#completed(channel, Buffer.from(cqe));
    }
    this.memory.writeUInt32BE(cq.ci & 0xffffff, cq.dbr);
  }

  #completed(channel: Channel, cqe: Buffer): void {
    const code = (cqe[0x3f] ?? 0) >>> 4;
    if (code !== prm.cqeOpcode.RESP_SEND) {
      this.completions.push(cqe);
      return;
    }
    const { rx } = channel;
    const length = cqe.readUInt32BE(0x2c);
    const index = cqe.readUInt16BE(0x3c) % 2 ** logRqSize;
    const perWqe = 2 ** (rx.logStride - 4) * rx.fragment;
    const at = rx.buffers + index * perWqe;
    this.received.push({
      frame: Buffer.from(this.memory.subarray(at, at + length)),
      cqe,
      channel: channel.index,
    });
  }

  refill(rx: Rq): void {
    const size = 2 ** logRqSize;
    const consumed = rx.cq.ci;
    const fragments = 2 ** (rx.logStride - 4);
    while (rx.pi - consumed < size) {
      const at = rx.ring + ((rx.pi % size) << rx.logStride);
      for (let index = 0; index < fragments; index++) {
        const buffer = rx.buffers + (rx.pi % size) * fragments * rx.fragment + index * rx.fragment;
        this.memory.writeUInt32BE((rx.fragment | 0x80000000) >>> 0, at + 16 * index);
        this.memory.writeUInt32BE(this.lkey, at + 16 * index + 4);
        this.memory.writeUInt32BE(0, at + 16 * index + 8);
        this.memory.writeUInt32BE(buffer, at + 16 * index + 12);
      }
      rx.pi++;
    }
    this.memory.writeUInt32BE(rx.pi & 0xffff, rx.dbr);
  }
}

/** Source IP, destination IP; with ports. */
const ipOnly = 3;
const ipAndPorts = 15;
/** IPv6?, UDP?, fields: in the order in which the driver makes its indirect TIRs. */
const tirKinds: readonly (readonly [boolean, boolean, number])[] = [
  [false, false, ipAndPorts],
  [true, false, ipAndPorts],
  [false, true, ipAndPorts],
  [true, true, ipAndPorts],
  [false, false, 19],
  [true, false, 19],
  [false, false, 19],
  [true, false, 19],
  [false, false, ipOnly],
  [true, false, ipOnly],
];
const ttcRules: readonly (readonly [number, number])[] = [
  [4, 6],
  [6, 6],
  [4, 17],
  [6, 17],
  [4, 51],
  [6, 51],
  [4, 50],
  [6, 50],
  [4, 0],
  [6, 0],
];

/** The key of the published RSS test vectors. */
export const rssKey = Buffer.from(
  '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa',
  'hex',
);

export function fillDmac(match: Buffer, mac: Buffer): void {
  prm.fteMatchSetLyr24.set(match, 'dmac_47_16', mac.readUInt32BE(0));
  prm.fteMatchSetLyr24.set(match, 'dmac_15_0', mac.readUInt16BE(4));
}
