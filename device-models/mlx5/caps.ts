import { deviceFrequencyKhz } from './clock.ts';
import { limits } from './limits.ts';
import {
  cmdHcaCap,
  flowTableNicCap,
  flowTablePropLayout,
  type Layout,
  perProtocolNetworkingOffloadCaps,
} from './prm/index.ts';

/** Bytes of one capability in QUERY_HCA_CAP, whatever its type. */
export const capabilityBytes = 4096;

/** Capability types (`enum mlx5_cap_type`) that have something to say; all others below `types` are all zero. */
export const capabilityType = { GENERAL: 0, ETHERNET_OFFLOADS: 1, FLOW_TABLE: 7 } as const;
/** Types that a driver may ask for. */
export const capabilityTypes = 0x80;

/** `log_bf_reg_size`: a doorbell register of two buffers of 256 bytes. */
export const logBfRegSize = 9;

const portTypeEthernet = 1;
const noInlineHeaders = 2;

/**
 * `cmd_hca_cap`. What is not listed is 0: no RDMA, no e-switch, no striding RQ, no compression, no kTLS/IPsec, no
 * page requests beyond none, doorbells of 4 KiB UAR pages.
 */
const general: Partial<Record<keyof typeof cmdHcaCap.fields, number>> = {
  port_type: portTypeEthernet,
  num_ports: 1,
  nic_flow_table: 1,
  eth_net_offloads: 1,
  vport_counters: 1,
  // Linux asks MCAM before it asks for the version of the firmware (`devlink dev info`).
  mcam_reg: 1,
  nic_receive_steering_discard: 1,
  modify_rq_counter_set_id: 1,
  max_qp_cnt: limits.qCounters,
  log_max_qp_sz: limits.logWqSize,
  log_max_qp: 10,
  log_max_cq_sz: limits.logCqSize,
  log_max_cq: Math.log2(limits.cqs),
  log_max_eq_sz: limits.logEqSize,
  log_max_eq: Math.log2(limits.eqs),
  log_max_mkey: Math.log2(limits.mkeys),
  log_max_transport_domain: Math.log2(limits.transportDomains),
  log_max_pd: Math.log2(limits.pds),
  log_max_rq: Math.log2(limits.rqs),
  log_max_sq: Math.log2(limits.sqs),
  log_max_tir: Math.log2(limits.tirs),
  log_max_tis: Math.log2(limits.tiss),
  log_max_rqt: Math.log2(limits.rqts),
  log_max_rqt_size: Math.log2(limits.rqtEntries),
  log_max_tis_per_sq: 0,
  basic_cyclic_rcv_wqe: 1,
  log_max_stride_sz_rq: limits.logReceiveStride.max,
  log_min_stride_sz_rq: limits.logReceiveStride.min,
  log_max_stride_sz_sq: 6,
  log_min_stride_sz_sq: 6,
  log_max_wq_sz: limits.logWqSize,
  log_max_msg: 30,
  max_tc: 8,
  cqe_version: 0,
  cq_oi: 1,
  cq_moderation: 1,
  // Linux since 6.10 moderates nothing without it.
  cq_period_mode_modify: 1,
  cq_period_start_from_cqe: 1,
  bf: 1,
  log_bf_reg_size: logBfRegSize,
  max_wqe_sz_sq: limits.sendWqeBytes,
  max_wqe_sz_rq: 2 ** limits.logReceiveStride.max,
  log_max_vlan_list: Math.log2(limits.vlanList),
  log_max_current_mc_list: Math.log2(limits.macList),
  log_max_current_uc_list: Math.log2(limits.unicastList),
  log_max_l2_table: 0,
  device_frequency_khz: deviceFrequencyKhz,
};

/** `per_protocol_networking_offload_caps`. */
const ethernetOffloads: Partial<Record<keyof typeof perProtocolNetworkingOffloadCaps.fields, number>> = {
  csum_cap: 1,
  vlan_cap: 1,
  wqe_vlan_insert: 1,
  self_lb_en_modifiable: 1,
  max_lso_cap: 16,
  wqe_inline_mode: noInlineHeaders,
  rss_ind_tbl_cap: 8,
  cqe_checksum_full: 1,
};

/** `flow_table_prop_layout` for NIC receive. */
const nicReceive: Partial<Record<keyof typeof flowTablePropLayout.fields, number>> = {
  ft_support: 1,
  // All four together, for which Linux has tables of rules and of single flows (`ethtool -N`, aRFS) before the others.
  flow_modify_en: 1,
  modify_root: 1,
  identified_miss_table_mode: 1,
  flow_table_modify: 1,
  log_max_ft_size: limits.logFlowTableSize,
  // Which of its tables Linux makes follows from it. Of those, newer kernels put some at higher levels all the same.
  max_ft_level: 64,
  log_max_ft_num: Math.log2(limits.flowTables),
  log_max_destination: Math.log2(limits.flowDestinations),
  log_max_flow: Math.log2(limits.flowEntries),
};

function fill<T extends string>(
  layout: Layout<Readonly<Record<T, readonly [number, number]>>>,
  values: Partial<Record<T, number>>,
  target: Buffer,
  base: number,
): void {
  for (const [name, value] of Object.entries(values)) layout.set(target, name as T, value as number, base);
}

/** Chosen by the driver freely: the page size of its system. */
const chosen: readonly string[] = ['log_uar_page_sz'];

/** The first field of the `cmd_hca_cap` at byte `at` that is more than this device has. */
export function beyondGeneral(wanted: Buffer, at: number): string | undefined {
  const most = capability(capabilityType.GENERAL);
  const names = Object.keys(cmdHcaCap.fields) as (keyof typeof cmdHcaCap.fields)[];
  return names.find(
    (name) => !chosen.includes(name) && cmdHcaCap.get(wanted, name, at) > cmdHcaCap.get(most, name),
  );
}

/** The capability of a type, as this device has it at power-on; 4096 bytes. */
export function capability(type: number): Buffer {
  const buffer = Buffer.alloc(capabilityBytes);
  if (type === capabilityType.GENERAL) fill(cmdHcaCap, general, buffer, 0);
  if (type === capabilityType.ETHERNET_OFFLOADS) {
    fill(perProtocolNetworkingOffloadCaps, ethernetOffloads, buffer, 0);
  }
  if (type === capabilityType.FLOW_TABLE) {
    fill(flowTablePropLayout, nicReceive, buffer, flowTableNicCap.byte('flow_table_properties_nic_receive'));
  }
  return buffer;
}
