import { ifc } from './layout.ts';

/**
 * Where packets are sent from and received to: TIS, TIR and the RQ table between TIR and RQ.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const tisc = ifc('tisc', 0x500, {
  strict_lag_tx_port_affinity: [0x0, 1],
  tls_en: [0x1, 1],
  lag_tx_port_affinity: [0x4, 4],
  prio: [0xc, 4],
  transport_domain: [0x128, 24],
  underlay_qpn: [0x148, 24],
  pd: [0x168, 24],
});

export const createTisIn = ifc('create_tis_in', 0x600, {
  ctx: [0x100, 1280],
});

export const createTisOut = ifc('create_tis_out', 0x80, {
  tisn: [0x48, 24],
});

export const modifyTisIn = ifc('modify_tis_in', 0x600, {
  tisn: [0x48, 24],
  bitmask: [0x80, 64],
  ctx: [0x100, 1280],
});

export const destroyTisIn = ifc('destroy_tis_in', 0x80, {
  tisn: [0x48, 24],
});

export const queryTisIn = ifc('query_tis_in', 0x80, {
  tisn: [0x48, 24],
});

export const queryTisOut = ifc('query_tis_out', 0x580, {
  tis_context: [0x80, 1280],
});

export const tirc = ifc('tirc', 0x780, {
  disp_type: [0x20, 4],
  tls_en: [0x24, 1],
  packet_merge_mask: [0x94, 4],
  inline_rqn: [0xe8, 24],
  rx_hash_symmetric: [0x100, 1],
  tunneled_offload_en: [0x102, 1],
  indirect_table: [0x108, 24],
  rx_hash_fn: [0x120, 4],
  self_lb_block: [0x126, 2],
  transport_domain: [0x128, 24],
  rx_hash_toeplitz_key: [0x140, 320],
  rx_hash_field_selector_outer: [0x280, 32],
  rx_hash_field_selector_inner: [0x2a0, 32],
});

export const rxHashFieldSelect = ifc('rx_hash_field_select', 0x20, {
  l3_prot_type: [0x0, 1],
  l4_prot_type: [0x1, 1],
  selected_fields: [0x2, 30],
});

export const modifyTirBitmask = ifc('modify_tir_bitmask', 0x40, {
  self_lb_en: [0x3b, 1],
  hash: [0x3d, 1],
  packet_merge: [0x3f, 1],
});

export const createTirIn = ifc('create_tir_in', 0x880, {
  ctx: [0x100, 1920],
});

export const createTirOut = ifc('create_tir_out', 0x80, {
  icm_address_63_40: [0x8, 24],
  icm_address_39_32: [0x40, 8],
  tirn: [0x48, 24],
  icm_address_31_0: [0x60, 32],
});

export const modifyTirIn = ifc('modify_tir_in', 0x880, {
  tirn: [0x48, 24],
  bitmask: [0x80, 64],
  ctx: [0x100, 1920],
});

export const destroyTirIn = ifc('destroy_tir_in', 0x80, {
  tirn: [0x48, 24],
});

export const queryTirIn = ifc('query_tir_in', 0x80, {
  tirn: [0x48, 24],
});

export const queryTirOut = ifc('query_tir_out', 0x880, {
  tir_context: [0x100, 1920],
});

export const rqtc = ifc('rqtc', 0x780, {
  list_q_type: [0xa5, 3],
  rqt_max_size: [0xb0, 16],
  rq_vhca_id_format: [0xc0, 1],
  rqt_actual_size: [0xd0, 16],
  rq_num: [0x780, 0],
});

export const createRqtIn = ifc('create_rqt_in', 0x880, {
  rqt_context: [0x100, 1920],
});

export const createRqtOut = ifc('create_rqt_out', 0x80, {
  rqtn: [0x48, 24],
});

export const modifyRqtIn = ifc('modify_rqt_in', 0x880, {
  rqtn: [0x48, 24],
  bitmask: [0x80, 64],
  ctx: [0x100, 1920],
});

export const destroyRqtIn = ifc('destroy_rqt_in', 0x80, {
  rqtn: [0x48, 24],
});

export const queryRqtIn = ifc('query_rqt_in', 0x80, {
  rqtn: [0x48, 24],
});

export const queryRqtOut = ifc('query_rqt_out', 0x880, {
  rqt_context: [0x100, 1920],
});
