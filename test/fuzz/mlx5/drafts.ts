import { commands } from '../../../device-models/mlx5/commands/index.ts';
import type { Mlx5Core } from '../../../device-models/mlx5/core.ts';
import { functionPhase } from '../../../device-models/mlx5/function-state.ts';
import { anyQueue } from '../../../device-models/mlx5/mkeys.ts';
import type { DeviceObject, ObjectTable } from '../../../device-models/mlx5/objects.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import type { Layout } from '../../../device-models/mlx5/prm/layout.ts';
import { queueState } from '../../../device-models/mlx5/work-queue.ts';
import { buildFrame } from '../../unit/mlx5/frames.ts';
import type { Random } from './mutate.ts';

/** A command that a driver could give: mostly right, for objects that mostly exist. */
export interface Draft {
  readonly name: CommandName;
  readonly input: Buffer;
  readonly outLength: number;
  readonly opMod: number;
}

export type CommandName = keyof typeof prm.opcode;

const pageBytes = 4096;
/** Where rings and doorbell records of drafted queues are. */
const arena = { pages: 0x40000, count: 160, records: 0xf0000 } as const;
/** Addresses that are none or nearly: what a command takes of them has to travel. */
const borders = [
  0,
  4096,
  2 ** 32,
  2 ** 52,
  2 ** 53 - 2 ** 17,
  2 ** 53 - 4096,
  2 ** 53 - 64,
  2 ** 60,
] as const;

/** What ends all or much of what a guest has. */
const rare: readonly CommandName[] = [
  'TEARDOWN_HCA',
  'DISABLE_HCA',
  'ENABLE_HCA',
  'DESTROY_EQ',
  'DEALLOC_UAR',
];

function weight(name: CommandName): number {
  if (name === 'MODIFY_SQ' || name === 'MODIFY_RQ') return 6;
  return name.startsWith('CREATE') || name.startsWith('ALLOC') || name === 'SET_FLOW_TABLE_ENTRY' ? 3 : 1;
}

interface Made {
  /** Bytes behind the least that the command takes: lists. */
  readonly input: Buffer;
  readonly opMod?: number;
  /** Structures of the input, by the byte where they begin: some draft gets a field of its own there. */
  readonly parts?: readonly (readonly [Layout, number])[];
}

/** What drafts are made with. */
export class Drafts {
  readonly #random: Random;
  readonly #core: Mlx5Core;
  readonly #makers: Readonly<Record<CommandName, () => Made>>;
  readonly #often: readonly CommandName[];

  constructor(random: Random, core: Mlx5Core) {
    this.#random = random;
    this.#core = core;
    this.#makers = this.#all();
    this.#often = (Object.keys(prm.opcode) as CommandName[]).flatMap((name) => {
      if (rare.includes(name)) return [];
      return Array<CommandName>(weight(name)).fill(name);
    });
  }

  command(): Draft {
    const random = this.#random;
    const name = random.below(100) === 0 ? random.pick(rare) : random.pick(this.#often);
    return this.draft(this.#bringUp() ?? name);
  }

  /** A function that is down is brought up before anything else, mostly. */
  #bringUp(): CommandName | undefined {
    if (this.#random.below(8) === 0) return undefined;
    const { phase } = this.#core.function;
    if (phase === functionPhase.DISABLED) return 'ENABLE_HCA';
    if (phase === functionPhase.INITIALIZED) return undefined;
    return this.#random.below(3) === 0 ? 'SET_HCA_CAP' : 'INIT_HCA';
  }

  draft(name: CommandName): Draft {
    const random = this.#random;
    const { input, opMod = 0, parts = [] } = this.#makers[name]();
    const entry = commands.find((known) => known.name === name);
    if (parts.length > 0 && random.below(4) === 0) this.#spoil(input, ...random.pick(parts));
    const least = Math.max(16, entry?.output ?? 16);
    return { name, input, opMod, outLength: least + random.pick([0, 0, 64, 512]) };
  }

  /** One field of the structure at `base` gets any value that it can hold. */
  #spoil(input: Buffer, layout: Layout, base: number): void {
    const random = this.#random;
    const [name, [, width]] = random.pick(Object.entries(layout.fields));
    if (width === 64) layout.set64(input, name, random.pick(borders), base);
    else if (width > 0 && width <= 32) {
      const top = 2 ** width;
      layout.set(input, name, random.pick([1, 2, top - 1, random.below(top)]) % top, base);
    }
  }

  #id(table: ObjectTable<DeviceObject>): number {
    const random = this.#random;
    if (table.size === 0 || random.below(25) === 0) return table.first + random.below(50);
    return random.pick([...table.values()]).id;
  }

  #pages(input: Buffer, at: number, count: number): void {
    for (let index = 0; index < count; index++) {
      const page = arena.pages + this.#random.below(arena.count) * pageBytes;
      input.writeUInt32BE(page, at + 8 * index + 4);
    }
  }

  #record(): number {
    return arena.records + this.#random.below(512) * 64;
  }

  /** A command that only names one object. */
  #named(table: ObjectTable<DeviceObject>, bytes = 16): Made {
    const input = Buffer.alloc(bytes);
    input.writeUInt32BE(this.#id(table), 8);
    return { input };
  }

  #plain(bytes = 16, opMod = 0): Made {
    return { input: Buffer.alloc(bytes), opMod };
  }

  /** A WQ context. */
  #wq(input: Buffer, base: number, logStride: number): void {
    const random = this.#random;
    const { wq } = prm;
    wq.set(input, 'wq_type', 1, base);
    wq.set(input, 'pd', this.#id(this.#core.pds), base);
    wq.set64(input, 'dbr_addr', this.#record(), base);
    wq.set(input, 'log_wq_stride', logStride, base);
    wq.set(input, 'log_wq_sz', random.below(7), base);
    this.#pages(input, base + wq.byte('pas'), (input.length - base - wq.byte('pas')) / 8);
  }

  #queue(layout: Layout, base: number, bytes: number, logStride: number): Made {
    const input = Buffer.alloc(bytes + 8 * 4);
    const random = this.#random;
    layout.set(input, 'cqn', this.#id(this.#core.cqs.table), base);
    layout.set(input, 'flush_in_error_en', random.below(2), base);
    this.#wq(input, base + layout.byte('wq'), logStride);
    return {
      input,
      parts: [
        [layout, base],
        [prm.wq, base + layout.byte('wq')],
      ],
    };
  }

  #modifyQueue(
    layout: Layout,
    context: Layout,
    table: ObjectTable<DeviceObject & { readonly state: number }>,
    names: readonly [id: string, state: string],
  ): Made {
    const random = this.#random;
    const input = Buffer.alloc(layout.size);
    const { RST, RDY, ERR } = queueState;
    const idle = [...table.values()].filter((queue) => queue.state !== RDY);
    const id = idle.length > 0 && random.below(6) !== 0 ? random.pick(idle).id : this.#id(table);
    const base = layout.byte('ctx');
    const state = table.find(id)?.state ?? RST;
    layout.set(input, names[0], id);
    layout.set(input, names[1], state);
    const usual = state === ERR ? RST : RDY;
    context.set(input, 'state', random.pick([usual, usual, usual, usual, RST, RDY, ERR]), base);
    return {
      input,
      parts: [
        [context, base],
        [layout, 0],
      ],
    };
  }

  #tir(input: Buffer, base: number): void {
    const random = this.#random;
    const { tirc, rxHashFieldSelect } = prm;
    tirc.set(input, 'disp_type', random.below(2), base);
    tirc.set(input, 'inline_rqn', this.#id(this.#core.rqs.table), base);
    tirc.set(input, 'indirect_table', this.#id(this.#core.rqts), base);
    tirc.set(input, 'rx_hash_fn', random.below(3), base);
    tirc.set(input, 'self_lb_block', random.below(4), base);
    tirc.set(input, 'transport_domain', this.#id(this.#core.transportDomains), base);
    input.fill(random.word() & 0xff, base + tirc.byte('rx_hash_toeplitz_key'), base + 60);
    rxHashFieldSelect.set(
      input,
      'selected_fields',
      random.below(32),
      base + tirc.byte('rx_hash_field_selector_outer'),
    );
  }

  #rqns(input: Buffer, base: number, count: number): void {
    prm.rqtc.set(input, 'rqt_max_size', 8 * this.#random.below(3) + 8, base);
    prm.rqtc.set(input, 'rqt_actual_size', count, base);
    for (let index = 0; index < count; index++) {
      input.writeUInt32BE(this.#id(this.#core.rqs.table), base + prm.rqtc.byte('rq_num') + 4 * index);
    }
  }

  #flowTable(input: Buffer, base: number): void {
    const random = this.#random;
    const { flowTableContext } = prm;
    flowTableContext.set(input, 'level', random.below(64), base);
    flowTableContext.set(input, 'log_size', random.below(6), base);
    flowTableContext.set(input, 'table_miss_action', random.below(2), base);
    flowTableContext.set(input, 'table_miss_id', this.#id(this.#core.steering.tables), base);
  }

  /** What a group looks at, or an entry wants to see: of frames that come. */
  #match(input: Buffer, at: number, mask: boolean): void {
    const random = this.#random;
    const set = prm.fteMatchSetLyr24;
    const kind = random.below(3);
    if (kind === 1) set.set(input, 'ip_version', mask ? 15 : random.pick([4, 6]), at);
    if (kind === 2) set.set(input, 'dmac_47_16', mask ? 0xffffffff : 0xffffffff, at);
  }

  #group(): Made {
    const random = this.#random;
    const { createFlowGroupIn } = prm;
    const input = Buffer.alloc(createFlowGroupIn.size);
    const start = random.below(32);
    createFlowGroupIn.set(input, 'table_id', this.#id(this.#core.steering.tables));
    createFlowGroupIn.set(input, 'start_flow_index', start);
    createFlowGroupIn.set(input, 'end_flow_index', start + random.below(4));
    createFlowGroupIn.set(input, 'match_criteria_enable', random.below(2));
    this.#match(input, createFlowGroupIn.byte('match_criteria'), true);
    return { input, parts: [[createFlowGroupIn, 0]] };
  }

  #entry(): Made {
    const random = this.#random;
    const { setFteIn, flowContext, destFormatStruct } = prm;
    const count = random.below(4);
    const base = setFteIn.byte('flow_context');
    const list = base + flowContext.byte('destination');
    const input = Buffer.alloc(Math.max(setFteIn.size, list + count * destFormatStruct.size));
    const id = this.#id(this.#core.steering.tables);
    const table = this.#core.steering.tables.find(id);
    const groups = [...(table?.groups.values() ?? [])];
    const group = groups.length > 0 ? random.pick(groups) : undefined;
    const old = table?.entries[random.below(table.entries.length)];
    const modify = old !== undefined && random.below(3) === 0;
    setFteIn.set(input, 'table_id', id);
    const start = group?.start ?? 0;
    const fresh = start + random.below(Math.min(8, (group?.end ?? 0) - start + 1));
    setFteIn.set(input, 'flow_index', modify ? old.index : fresh);
    setFteIn.set(input, 'modify_enable_mask', modify ? random.below(16) : 0);
    flowContext.set(input, 'group_id', modify ? old.groupId : (group?.id ?? 0), base);
    flowContext.set(input, 'flow_tag', random.below(3), base);
    flowContext.set(input, 'action', count > 0 ? 4 : random.pick([1, 2]), base);
    flowContext.set(input, 'destination_list_size', count, base);
    this.#match(input, base + flowContext.byte('match_value'), false);
    for (let index = 0; index < count; index++) {
      const at = list + index * destFormatStruct.size;
      const toTable = random.below(3) === 0;
      destFormatStruct.set(input, 'destination_type', toTable ? 1 : 2, at);
      const to = toTable ? this.#core.steering.tables : this.#core.tirs;
      destFormatStruct.set(input, 'destination_id', this.#id(to), at);
    }
    return {
      input,
      opMod: modify ? 1 : 0,
      parts: [
        [setFteIn, 0],
        [flowContext, base],
      ],
    };
  }

  /** A command of 64 bytes that names a flow table, and one of its entries or groups. */
  #ofTable(layout: Layout, field?: 'flow_index' | 'group_id'): Made {
    const random = this.#random;
    const input = Buffer.alloc(layout.size);
    const id = this.#id(this.#core.steering.tables);
    const table = this.#core.steering.tables.find(id);
    layout.set(input, 'table_id', id);
    if (field === 'flow_index') {
      layout.set(input, field, table?.entries[random.below(table.entries.length)]?.index ?? 0);
    }
    const groups = [...(table?.groups.keys() ?? [])];
    if (field === 'group_id') layout.set(input, field, groups[random.below(groups.length)] ?? 0);
    return { input };
  }

  #createEq(): Made {
    const random = this.#random;
    const { createEqIn, eqc } = prm;
    const base = createEqIn.byte('eq_context_entry');
    const input = Buffer.alloc(createEqIn.size + 8 * 2);
    eqc.set(input, 'log_eq_size', 3 + random.below(5), base);
    eqc.set(input, 'uar_page', this.#id(this.#core.uars), base);
    eqc.set(input, 'intr', random.below(this.#core.vectors), base);
    input.writeUInt32BE(random.pick([0, 0, 0x400, 0x800, 0x1f02be]), createEqIn.byte('event_bitmask') + 4);
    this.#pages(input, createEqIn.byte('pas'), 2);
    return { input, parts: [[eqc, base]] };
  }

  #moderation(input: Buffer, base: number): void {
    const random = this.#random;
    prm.cqc.set(input, 'cq_period', random.pick([0, 0, 0, 8, 4095]), base);
    prm.cqc.set(input, 'cq_max_count', random.pick([0, 2, 0xffff]), base);
    prm.cqc.set(input, 'cq_period_mode', random.below(2), base);
  }

  #createCq(): Made {
    const random = this.#random;
    const { createCqIn, cqc } = prm;
    const base = createCqIn.byte('cq_context');
    const input = Buffer.alloc(createCqIn.size + 8 * 2);
    cqc.set(input, 'log_cq_size', 2 + random.below(6), base);
    cqc.set(input, 'uar_page', this.#id(this.#core.uars), base);
    cqc.set(input, 'c_eqn_or_apu_element', this.#id(this.#core.eqs.table), base);
    cqc.set(input, 'oi', random.below(8) === 0 ? 1 : 0, base);
    cqc.set64(input, 'dbr_addr', this.#record(), base);
    this.#moderation(input, base);
    this.#pages(input, createCqIn.byte('pas'), 2);
    return { input, parts: [[cqc, base]] };
  }

  #modifyCq(): Made {
    const { modifyCqIn, cqc } = prm;
    const base = modifyCqIn.byte('cq_context');
    const input = Buffer.alloc(modifyCqIn.size);
    modifyCqIn.set(input, 'cqn', this.#id(this.#core.cqs.table));
    modifyCqIn.set(input, 'modify_field_select_resize_field_select', this.#random.pick([1, 2, 3, 16, 19]));
    this.#moderation(input, base);
    return { input, parts: [[cqc, base]] };
  }

  #createMkey(): Made {
    const random = this.#random;
    const { createMkeyIn, mkc } = prm;
    const base = createMkeyIn.byte('memory_key_mkey_entry');
    const input = Buffer.alloc(createMkeyIn.size);
    mkc.set(input, 'lr', random.below(2), base);
    mkc.set(input, 'lw', random.below(2), base);
    mkc.set(input, 'qpn', random.below(8) === 0 ? this.#id(this.#core.sqs.table) : anyQueue, base);
    mkc.set(input, 'mkey_7_0', random.below(2), base);
    mkc.set(input, 'pd', this.#id(this.#core.pds), base);
    mkc.set(input, 'length64', random.below(2), base);
    mkc.set64(input, 'start_addr', random.pick([0, 0x100000, 0x200000]), base);
    mkc.set64(input, 'len', random.pick([0, 4096, 0x400000]), base);
    return { input, parts: [[mkc, base]] };
  }

  #vport(): Made {
    const random = this.#random;
    const { modifyNicVportContextIn, modifyNicVportFieldSelect, nicVportContext } = prm;
    const base = modifyNicVportContextIn.byte('nic_vport_context');
    const count = random.below(4);
    const input = Buffer.alloc(modifyNicVportContextIn.size + 8 * count);
    const select = modifyNicVportContextIn.byte('field_select');
    const field = random.pick(['mtu', 'promisc', 'permanent_address', 'addresses_list'] as const);
    modifyNicVportFieldSelect.set(input, field, 1, select);
    nicVportContext.set(input, 'mtu', random.pick([68, 1522, 10_000]), base);
    nicVportContext.set(input, 'promisc_all', random.below(2), base);
    nicVportContext.set(input, 'allowed_list_type', random.below(3), base);
    nicVportContext.set(input, 'allowed_list_size', count, base);
    const list = base + nicVportContext.byte('current_uc_mac_address');
    for (let index = 0; index < 8 * count; index++) input[list + index] = random.word();
    for (let index = 2; index < 8; index++) {
      input[base + nicVportContext.byte('permanent_address') + index] = random.word();
    }
    return {
      input,
      parts: [
        [nicVportContext, base],
        [modifyNicVportFieldSelect, select],
      ],
    };
  }

  #register(): Made {
    const random = this.#random;
    const { accessRegisterIn } = prm;
    const base = accessRegisterIn.byte('register_data');
    const input = Buffer.alloc(base + 0x100);
    const id = random.pick([0x5003, 0x5004, 0x5006, 0x5008, 0x9014, 0x5007, 0x9060, 0x9061, 0x907f]);
    accessRegisterIn.set(input, 'register_id', id);
    const write = (id === 0x5003 || id === 0x5006) && random.below(3) === 0;
    if (id === 0x5003) prm.pmtuReg.set(input, 'admin_mtu', random.pick([1522, 9022]), base);
    if (id === 0x5006) prm.paosReg.set(input, 'admin_status', random.pick([1, 1, 1, 2]), base);
    if (id === 0x9061) {
      prm.mcqiReg.set(input, 'info_type', random.below(3), base);
      prm.mcqiReg.set(input, 'offset', random.pick([0, 0, 4, 0xffffffff]), base);
      prm.mcqiReg.set(input, 'data_size', random.pick([0x80, 0x14, 0xffff]), base);
    }
    if (id === 0x5008) prm.ppcntReg.set(input, 'grp', random.pick([0, 1, 2, 3, 5, 16]), base);
    return { input, opMod: write ? 0 : 1 };
  }

  #managePages(): Made {
    const random = this.#random;
    const give = random.below(2) === 0;
    const count = random.below(20);
    const input = Buffer.alloc(16 + (give ? 8 * count : 0));
    prm.managePagesIn.set(input, 'input_num_entries', count);
    if (give) {
      for (let index = 0; index < count; index++) {
        input.writeUInt32BE(random.pick([0, 1, 0x1fffff]), 16 + 8 * index);
        input.writeUInt32BE(((random.word() >>> 12) << 12) >>> 0, 16 + 8 * index + 4);
      }
    }
    return { input, opMod: give ? 1 : random.pick([2, 2, 0]) };
  }

  #setCapability(): Made {
    const input = Buffer.alloc(prm.setHcaCapIn.size);
    this.#core.function.general.copy(input, prm.setHcaCapIn.byte('capability'));
    return { input, parts: [[prm.cmdHcaCap, prm.setHcaCapIn.byte('capability')]] };
  }

  #counter(): Made {
    const input = Buffer.alloc(prm.queryQCounterIn.size);
    prm.queryQCounterIn.set(input, 'counter_set_id', this.#id(this.#core.qCounters));
    prm.queryQCounterIn.set(input, 'clear', this.#random.below(2));
    return { input };
  }

  #form(layout: Layout, fields: Readonly<Record<string, number>>, parts?: Made['parts']): Made {
    const input = Buffer.alloc(layout.size);
    for (const [name, value] of Object.entries(fields)) {
      if (layout.fields[name]?.[1] === 64) layout.set64(input, name, value);
      else layout.set(input, name, value);
    }
    return { input, ...(parts !== undefined && { parts }) };
  }

  #all(): Readonly<Record<CommandName, () => Made>> {
    const random = this.#random;
    const core = this.#core;
    const { steering } = core;
    return {
      QUERY_HCA_CAP: () => this.#plain(16, (random.pick([0, 1, 7]) << 1) | random.below(2)),
      QUERY_ADAPTER: () => this.#plain(),
      INIT_HCA: () => this.#plain(32),
      TEARDOWN_HCA: () => this.#plain(),
      ENABLE_HCA: () => this.#plain(),
      DISABLE_HCA: () => this.#plain(),
      QUERY_PAGES: () => this.#plain(16, 1 + random.below(3)),
      MANAGE_PAGES: () => this.#managePages(),
      SET_HCA_CAP: () => this.#setCapability(),
      QUERY_ISSI: () => this.#plain(),
      SET_ISSI: () => this.#form(prm.setIssiIn, { current_issi: 1 }, [[prm.setIssiIn, 0]]),
      CREATE_MKEY: () => this.#createMkey(),
      QUERY_MKEY: () => this.#named(core.mkeys.table),
      DESTROY_MKEY: () => this.#named(core.mkeys.table),
      QUERY_SPECIAL_CONTEXTS: () => this.#plain(),
      CREATE_EQ: () => this.#createEq(),
      DESTROY_EQ: () => this.#named(core.eqs.table),
      QUERY_EQ: () => this.#named(core.eqs.table),
      CREATE_CQ: () => this.#createCq(),
      DESTROY_CQ: () => this.#named(core.cqs.table),
      QUERY_CQ: () => this.#named(core.cqs.table),
      MODIFY_CQ: () => this.#modifyCq(),
      QUERY_VPORT_STATE: () => this.#plain(),
      MODIFY_VPORT_STATE: () =>
        this.#form(prm.modifyVportStateIn, { admin_state: random.pick([1, 1, 2, 0]) }),
      QUERY_NIC_VPORT_CONTEXT: () =>
        this.#form(prm.queryNicVportContextIn, { allowed_list_type: random.below(3) }),
      MODIFY_NIC_VPORT_CONTEXT: () => this.#vport(),
      QUERY_VNIC_ENV: () => this.#form(prm.queryVnicEnvIn, { other_vport: random.below(6) === 0 ? 1 : 0 }),
      QUERY_VPORT_COUNTER: () =>
        this.#form(prm.queryVportCounterIn, { clear: random.below(6) === 0 ? 1 : 0 }),
      ALLOC_Q_COUNTER: () => this.#plain(),
      DEALLOC_Q_COUNTER: () => this.#named(core.qCounters),
      QUERY_Q_COUNTER: () => this.#counter(),
      ALLOC_PD: () => this.#plain(),
      DEALLOC_PD: () => this.#named(core.pds),
      ALLOC_UAR: () => this.#plain(),
      DEALLOC_UAR: () => this.#named(core.uars),
      ACCESS_REG: () => this.#register(),
      NOP: () => this.#plain(),
      ALLOC_TRANSPORT_DOMAIN: () => this.#plain(),
      DEALLOC_TRANSPORT_DOMAIN: () => this.#named(core.transportDomains),
      CREATE_TIR: () => {
        const made = this.#form(prm.createTirIn, {}, [[prm.tirc, prm.createTirIn.byte('ctx')]]);
        this.#tir(made.input, prm.createTirIn.byte('ctx'));
        return made;
      },
      MODIFY_TIR: () => {
        const base = prm.modifyTirIn.byte('ctx');
        const made = this.#form(prm.modifyTirIn, { tirn: this.#id(core.tirs) }, [[prm.tirc, base]]);
        this.#tir(made.input, base);
        made.input[prm.modifyTirIn.byte('bitmask') + 7] = random.pick([4, 0x10, 0x14, 1]);
        return made;
      },
      DESTROY_TIR: () => this.#named(core.tirs),
      QUERY_TIR: () => this.#named(core.tirs),
      CREATE_SQ: () => {
        const base = prm.createSqIn.byte('ctx');
        const made = this.#queue(prm.sqc, base, prm.createSqIn.size, 6);
        prm.sqc.set(made.input, 'tis_lst_sz', random.below(4) === 0 ? 0 : 1, base);
        prm.sqc.set(made.input, 'tis_num_0', this.#id(core.tiss), base);
        prm.wq.set(made.input, 'uar_page', this.#id(core.uars), base + prm.sqc.byte('wq'));
        return made;
      },
      MODIFY_SQ: () => this.#modifyQueue(prm.modifySqIn, prm.sqc, core.sqs.table, ['sqn', 'sq_state']),
      DESTROY_SQ: () => this.#named(core.sqs.table),
      QUERY_SQ: () => this.#named(core.sqs.table),
      CREATE_RQ: () => {
        const base = prm.createRqIn.byte('ctx');
        const made = this.#queue(prm.rqc, base, prm.createRqIn.size, 4 + random.below(3));
        prm.rqc.set(made.input, 'counter_set_id', this.#id(core.qCounters), base);
        prm.rqc.set(made.input, 'vsd', random.below(2), base);
        return made;
      },
      MODIFY_RQ: () => {
        const made = this.#modifyQueue(prm.modifyRqIn, prm.rqc, core.rqs.table, ['rqn', 'rq_state']);
        prm.modifyRqIn.set64(made.input, 'modify_bitmask', random.pick([0, 2, 8, 10]));
        return made;
      },
      DESTROY_RQ: () => this.#named(core.rqs.table),
      QUERY_RQ: () => this.#named(core.rqs.table),
      CREATE_TIS: () => {
        const base = prm.createTisIn.byte('ctx');
        const made = this.#form(prm.createTisIn, {}, [[prm.tisc, base]]);
        prm.tisc.set(made.input, 'transport_domain', this.#id(core.transportDomains), base);
        prm.tisc.set(made.input, 'prio', random.below(16), base);
        return made;
      },
      MODIFY_TIS: () => this.#form(prm.modifyTisIn, { tisn: this.#id(core.tiss), bitmask: random.below(3) }),
      DESTROY_TIS: () => this.#named(core.tiss),
      QUERY_TIS: () => this.#named(core.tiss),
      CREATE_RQT: () => {
        const count = 1 + random.below(8);
        const input = Buffer.alloc(prm.createRqtIn.size + 4 * count);
        const base = prm.createRqtIn.byte('rqt_context');
        this.#rqns(input, base, count);
        return { input, parts: [[prm.rqtc, base]] };
      },
      MODIFY_RQT: () => {
        const count = 1 + random.below(8);
        const input = Buffer.alloc(prm.modifyRqtIn.size + 4 * count);
        prm.modifyRqtIn.set(input, 'rqtn', this.#id(core.rqts));
        prm.modifyRqtIn.set64(input, 'bitmask', 1);
        this.#rqns(input, prm.modifyRqtIn.byte('ctx'), count);
        return { input };
      },
      DESTROY_RQT: () => this.#named(core.rqts),
      QUERY_RQT: () => this.#named(core.rqts),
      SET_FLOW_TABLE_ROOT: () => {
        const made = this.#ofTable(prm.setFlowTableRootIn);
        return { ...made, opMod: random.below(10) === 0 ? 1 : 0 };
      },
      CREATE_FLOW_TABLE: () => {
        const base = prm.createFlowTableIn.byte('flow_table_context');
        const made = this.#form(prm.createFlowTableIn, {}, [[prm.flowTableContext, base]]);
        this.#flowTable(made.input, base);
        return made;
      },
      DESTROY_FLOW_TABLE: () => this.#ofTable(prm.destroyFlowTableIn),
      QUERY_FLOW_TABLE: () => this.#ofTable(prm.queryFlowTableIn),
      CREATE_FLOW_GROUP: () => this.#group(),
      DESTROY_FLOW_GROUP: () => this.#ofTable(prm.destroyFlowGroupIn, 'group_id'),
      SET_FLOW_TABLE_ENTRY: () => this.#entry(),
      QUERY_FLOW_TABLE_ENTRY: () => this.#ofTable(prm.queryFteIn, 'flow_index'),
      DELETE_FLOW_TABLE_ENTRY: () => this.#ofTable(prm.deleteFteIn, 'flow_index'),
      MODIFY_FLOW_TABLE: () => {
        const base = prm.modifyFlowTableIn.byte('flow_table_context');
        const id = this.#id(steering.tables);
        const made = this.#form(prm.modifyFlowTableIn, { table_id: id, modify_field_select: 1 }, [
          [prm.flowTableContext, base],
        ]);
        this.#flowTable(made.input, base);
        return made;
      },
    };
  }

  /** All frames go to one queue that is ready, from the first table on. Ids are those that the device will give. */
  path(): readonly Draft[] {
    const random = this.#random;
    const { rqs, steering, tirs, transportDomains } = this.#core;
    const ready = [...rqs.table.values()].filter(({ state }) => state === queueState.RDY);
    const [domain] = transportDomains.values();
    if (ready.length === 0 || domain === undefined) return [];
    const draft = (name: CommandName, layout: Layout, fields: Readonly<Record<string, number>>): Draft => {
      const { input } = this.#form(layout, fields);
      return { name, input, outLength: 16, opMod: 0 };
    };
    const table_id = steering.tables.next;
    const tir = draft('CREATE_TIR', prm.createTirIn, {});
    prm.tirc.set(tir.input, 'inline_rqn', random.pick(ready).id, prm.createTirIn.byte('ctx'));
    prm.tirc.set(tir.input, 'transport_domain', domain.id, prm.createTirIn.byte('ctx'));
    const table = draft('CREATE_FLOW_TABLE', prm.createFlowTableIn, {});
    const group = draft('CREATE_FLOW_GROUP', prm.createFlowGroupIn, { table_id });
    const entry = draft('SET_FLOW_TABLE_ENTRY', prm.setFteIn, { table_id });
    const base = prm.setFteIn.byte('flow_context');
    const list = base + prm.flowContext.byte('destination');
    const input = Buffer.alloc(list + prm.destFormatStruct.size);
    entry.input.copy(input);
    prm.flowContext.set(input, 'action', 4, base);
    prm.flowContext.set(input, 'destination_list_size', 1, base);
    prm.destFormatStruct.set(input, 'destination_type', 2, list);
    prm.destFormatStruct.set(input, 'destination_id', tirs.next, list);
    const root = draft('SET_FLOW_TABLE_ROOT', prm.setFlowTableRootIn, { table_id });
    return [tir, table, group, { ...entry, input }, root];
  }

  /** A frame from the network. */
  frame(): Buffer {
    const random = this.#random;
    return buildFrame({
      dst: random.below(2) === 0 ? Buffer.alloc(6, 0xff) : Buffer.from(this.#core.vport.mac),
      ip: random.pick([4, 6]),
      protocol: random.pick(['tcp', 'udp']),
      sport: random.below(1000),
      payload: Buffer.alloc(random.pick([0, 10, 100, 1400])),
      ...(random.below(4) === 0 && { vlan: { type: 0x8100, tci: random.below(3) } }),
    });
  }
}
