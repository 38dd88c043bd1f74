import type { opcode } from '../../../device-models/mlx5/prm/index.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import {
  type Channel,
  type Cq,
  commandQueue,
  type Eq,
  logCqSize,
  logRqSize,
  type Rq,
  type SendOptions,
  type Sq,
} from './driver-base.ts';
import { DriverObjects } from './driver-objects.ts';

export { type Channel, CommandFailed, type Received, type SendOptions } from './driver-base.ts';
export { fillDmac, rssKey } from './driver-objects.ts';

/**
 * A driver for tests that speaks to the model as mlx5_core does: the same commands in the same order, rings in guest
 * memory, doorbells, NAPI. Only as much of a network stack as it takes to send and to receive frames.
 */
export class FakeDriver extends DriverObjects {
  #polling = false;

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
    this.pd = prm.allocPdOut.get(this.command('ALLOC_PD'), 'pd');
    const td = this.command('ALLOC_TRANSPORT_DOMAIN');
    this.td = prm.allocTransportDomainOut.get(td, 'transport_domain');
    const mkey = Buffer.alloc(272);
    prm.mkc.set(mkey, 'length64', 1, 16);
    prm.mkc.set(mkey, 'lr', 1, 16);
    prm.mkc.set(mkey, 'lw', 1, 16);
    prm.mkc.set(mkey, 'qpn', 0xffffff, 16);
    prm.mkc.set(mkey, 'pd', this.pd, 16);
    this.mkey = prm.createMkeyOut.get(this.command('CREATE_MKEY', mkey), 'mkey_index');
    this.lkey = (this.mkey << 8) >>> 0;
    this.tises = [];
    for (let prio = 0; prio < 8; prio++) {
      const tis = Buffer.alloc(192);
      prm.tisc.set(tis, 'transport_domain', this.td, 0x20);
      this.tises.push(prm.createTisOut.get(this.command('CREATE_TIS', tis), 'tisn'));
    }
    this.qCounter = prm.allocQCounterOut.get(this.command('ALLOC_Q_COUNTER'), 'counter_set_id');
    const dropCq = this.createCq(0, 0);
    this.dropCq = dropCq.cqn;
    this.dropRq = this.createRq(dropCq, 0, 2048, 0).rqn;
    this.rqt = this.createRqt([this.dropRq], 256);
    this.tirs = [];
    for (const [v6, udp, fields] of tirKinds) this.tirs.push(this.createTir(this.rqt, v6, udp, fields));
    this.directRqts = this.eqs.comp.map(() => this.createRqt([this.dropRq], 1));
    for (const rqtn of this.directRqts) this.tirs.push(this.createTir(rqtn, false, false, 0));
    this.buildSteering();
    const pmtu = Buffer.alloc(32);
    this.register(0x5003, pmtu, 1);
    this.setMtu(1522);
    this.stats();
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
      for (const sq of [channel.ico, channel.tx]) this.end('DESTROY_SQ', sq.sqn);
      this.end('DESTROY_RQ', channel.rx.rqn);
      for (const cq of channel.cqs) this.end('DESTROY_CQ', cq.cqn);
    }
    this.channels = [];
  }

  /** A DESTROY or DEALLOC that names an object in its third word. */
  end(name: keyof typeof opcode, id: number): void {
    const input = Buffer.alloc(16);
    input.writeUInt32BE(id, 8);
    this.command(name, input);
  }

  /** As mlx5_core does when it is unbound: nothing goes before all that refers to it. */
  remove(): void {
    this.setRoot('vlan');
    this.destroyTable('tc');
    this.setRoot('l2');
    this.deleteEntry('vlan', 2048);
    this.destroyTable('vlan');
    this.setRoot('ttc');
    this.destroyTable('l2');
    this.setRoot('anchor');
    for (let index = 0; index <= 10; index++) this.deleteEntry('ttc', index);
    this.destroyTable('ttc');
    for (const tirn of this.tirs) this.end('DESTROY_TIR', tirn);
    for (const rqtn of [...this.directRqts, this.rqt]) this.end('DESTROY_RQT', rqtn);
    this.end('DESTROY_RQ', this.dropRq);
    this.end('DESTROY_CQ', this.dropCq);
    this.end('DEALLOC_Q_COUNTER', this.qCounter);
    for (const tisn of this.tises) this.end('DESTROY_TIS', tisn);
    this.end('DESTROY_MKEY', this.mkey);
    this.end('DEALLOC_TRANSPORT_DOMAIN', this.td);
    this.end('DEALLOC_PD', this.pd);
    this.destroyTable('anchor');
    for (const { eqn } of this.eqs.comp) this.end('DESTROY_EQ', eqn);
    this.end('DESTROY_EQ', this.eqs.pages?.eqn ?? 0);
    this.end('DESTROY_EQ', this.eqs.async?.eqn ?? 0);
    this.eventMode = false;
    this.end('DESTROY_EQ', this.eqs.cmd?.eqn ?? 0);
    this.end('DEALLOC_UAR', this.uar);
    this.command('TEARDOWN_HCA');
    this.command('DISABLE_HCA', Buffer.alloc(16), 12);
    this.eqs = { comp: [] };
  }

  // --- data path ---------------------------------------------------------------------------------------------

  #slot(sq: Sq): number {
    return sq.ring + (sq.pc % 2 ** sq.logSize) * 64;
  }

  ring(sq: Sq): void {
    this.memory.writeUInt32BE(sq.pc & 0xffff, sq.dbr + 4);
    const last = sq.ring + ((sq.pc - 1) % 2 ** sq.logSize) * 64;
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
    while ((sq.pc % 2 ** sq.logSize) + blocks > 2 ** sq.logSize) {
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
