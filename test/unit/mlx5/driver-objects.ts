import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { type Cq, DriverBase, type Eq, logSqSize, pageBytes, type Rq, type Sq } from './driver-base.ts';

/** Makes and changes the objects that mlx5_core uses: queues, TIRs, flow tables. */
export abstract class DriverObjects extends DriverBase {
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

  /** Interrupt moderation of every channel's CQs for frames, in microseconds. */
  moderate(period: number): void {
    for (const { cqn } of this.channels.flatMap(({ rx, tx }) => [rx.cq, tx.cq])) {
      const input = Buffer.alloc(272);
      const at = prm.modifyCqIn.byte('cq_context');
      prm.modifyCqIn.set(input, 'cqn', cqn);
      prm.modifyCqIn.set(input, 'modify_field_select_resize_field_select', 3);
      prm.cqc.set(input, 'cq_period', period, at);
      prm.cqc.set(input, 'cq_max_count', 32, at);
      this.command('MODIFY_CQ', input);
    }
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
    prm.wq.set(input, 'pd', this.pd, at);
    prm.wq.set64(input, 'dbr_addr', dbr, at);
    prm.wq.set(input, 'log_wq_stride', logStride, at);
    prm.wq.set(input, 'log_wq_sz', logSize, at);
    this.pages(input, at + prm.wq.byte('pas'), ring, bytes);
  }

  createSq(cq: Cq, tisn: number, logSize = logSqSize, flush = true): Sq {
    const bytes = 64 << logSize;
    const ring = this.alloc(bytes);
    const dbr = this.alloc(8, 64);
    const input = Buffer.alloc(272 + 8 * Math.ceil(bytes / pageBytes));
    prm.sqc.set(input, 'cqn', cq.cqn, 0x20);
    prm.sqc.set(input, 'flush_in_error_en', flush ? 1 : 0, 0x20);
    prm.sqc.set(input, 'tis_lst_sz', tisn === 0 ? 0 : 1, 0x20);
    prm.sqc.set(input, 'tis_num_0', tisn, 0x20);
    this.#wq(input, 0x50, ring, bytes, dbr, 6, logSize);
    prm.wq.set(input, 'uar_page', this.uar, 0x50);
    const sqn = prm.createSqOut.get(this.command('CREATE_SQ', input), 'sqn');
    const sq = { sqn, ring, logSize, dbr, cq, pc: 0, cc: 0 };
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

  createRq(cq: Cq, logSize: number, fragment: number, logStrideExtra: number, flush = false): Rq {
    const logStride = 4 + logStrideExtra;
    const bytes = Math.max(pageBytes, 2 ** (logSize + logStride));
    const ring = this.alloc(bytes);
    const dbr = this.alloc(8, 64);
    const input = Buffer.alloc(272 + 8 * Math.ceil(bytes / pageBytes));
    prm.rqc.set(input, 'cqn', cq.cqn, 0x20);
    prm.rqc.set(input, 'counter_set_id', this.qCounter, 0x20);
    prm.rqc.set(input, 'flush_in_error_en', flush ? 1 : 0, 0x20);
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

  /** The driver's receive tables, from the last to the first. */
  buildSteering(): void {
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
    if (on) {
      this.tables.promisc = this.createTable(3, 0);
      this.createGroup('promisc', 0, 0, () => {});
      this.setEntry('promisc', 0, 0, { table: 'ttc' });
    }
    this.setMiss('tc', on ? 'promisc' : 'vlan');
    if (!on) {
      this.deleteEntry('promisc', 0);
      this.destroyTable('promisc');
    }
  }

  /** With its groups, which must have no entries left. */
  destroyTable(name: string): void {
    for (const id of this.groups[name] ?? []) {
      const group = Buffer.alloc(64);
      prm.destroyFlowGroupIn.set(group, 'table_id', this.tables[name] ?? 0);
      prm.destroyFlowGroupIn.set(group, 'group_id', id);
      this.command('DESTROY_FLOW_GROUP', group);
    }
    this.groups[name] = [];
    const input = Buffer.alloc(64);
    prm.destroyFlowTableIn.set(input, 'table_id', this.tables[name] ?? 0);
    this.command('DESTROY_FLOW_TABLE', input);
  }

  /** Where frames go that match nothing in `table`. */
  setMiss(table: string, to: string, forward = true): void {
    const input = Buffer.alloc(64);
    const at = prm.modifyFlowTableIn.byte('flow_table_context');
    prm.modifyFlowTableIn.set(input, 'modify_field_select', 1);
    prm.modifyFlowTableIn.set(input, 'table_id', this.tables[table] ?? 0);
    prm.flowTableContext.set(input, 'table_miss_action', forward ? 1 : 0, at);
    prm.flowTableContext.set(input, 'table_miss_id', this.tables[to] ?? 0, at);
    this.command('MODIFY_FLOW_TABLE', input);
  }
}
/** The key of the published RSS test vectors. */
export const rssKey = Buffer.from(
  '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa',
  'hex',
);

export function fillDmac(match: Buffer, mac: Buffer): void {
  prm.fteMatchSetLyr24.set(match, 'dmac_47_16', mac.readUInt32BE(0));
  prm.fteMatchSetLyr24.set(match, 'dmac_15_0', mac.readUInt16BE(4));
}

/** IP version and protocol of the TTC table's rules, in the order of the indirect TIRs; 0: any protocol. */
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
