import { ifc } from './layout.ts';

/**
 * Flow tables, groups and entries, and what they match.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const flowTableContext = ifc('flow_table_context', 0x140, {
  reformat_en: [0x0, 1],
  decap_en: [0x1, 1],
  sw_owner: [0x2, 1],
  termination_table: [0x3, 1],
  table_miss_action: [0x4, 4],
  level: [0x8, 8],
  log_size: [0x18, 8],
  table_miss_id: [0x28, 24],
});

export const createFlowTableIn = ifc('create_flow_table_in', 0x200, {
  other_vport: [0x40, 1],
  vport_number: [0x50, 16],
  table_type: [0x80, 8],
  flow_table_context: [0xc0, 320],
});

export const createFlowTableOut = ifc('create_flow_table_out', 0x80, {
  table_id: [0x48, 24],
});

export const destroyFlowTableIn = ifc('destroy_flow_table_in', 0x200, {
  other_vport: [0x40, 1],
  table_type: [0x80, 8],
  table_id: [0xa8, 24],
});

export const modifyFlowTableIn = ifc('modify_flow_table_in', 0x200, {
  other_vport: [0x40, 1],
  modify_field_select: [0x70, 16],
  table_type: [0x80, 8],
  table_id: [0xa8, 24],
  flow_table_context: [0xc0, 320],
});

export const queryFlowTableIn = ifc('query_flow_table_in', 0x200, {
  table_type: [0x80, 8],
  table_id: [0xa8, 24],
});

export const queryFlowTableOut = ifc('query_flow_table_out', 0x200, {
  flow_table_context: [0xc0, 320],
});

export const setFlowTableRootIn = ifc('set_flow_table_root_in', 0x200, {
  op_mod: [0x30, 16],
  other_vport: [0x40, 1],
  table_type: [0x80, 8],
  table_id: [0xa8, 24],
  underlay_qpn: [0xc8, 24],
});

export const createFlowGroupIn = ifc('create_flow_group_in', 0x2000, {
  other_vport: [0x40, 1],
  table_type: [0x80, 8],
  group_type: [0x8c, 4],
  table_id: [0xa8, 24],
  source_eswitch_owner_vhca_id_valid: [0xc0, 1],
  start_flow_index: [0xe0, 32],
  end_flow_index: [0x120, 32],
  match_definer_id: [0x150, 16],
  match_criteria_enable: [0x1f8, 8],
  match_criteria: [0x200, 4096],
});

export const createFlowGroupOut = ifc('create_flow_group_out', 0x80, {
  group_id: [0x48, 24],
});

export const destroyFlowGroupIn = ifc('destroy_flow_group_in', 0x200, {
  other_vport: [0x40, 1],
  table_type: [0x80, 8],
  table_id: [0xa8, 24],
  group_id: [0xc0, 32],
});

export const setFteIn = ifc('set_fte_in', 0x1a00, {
  op_mod: [0x30, 16],
  other_vport: [0x40, 1],
  table_type: [0x80, 8],
  table_id: [0xa8, 24],
  ignore_flow_level: [0xc0, 1],
  modify_enable_mask: [0xd8, 8],
  flow_index: [0x100, 32],
  flow_context: [0x200, 6144],
});

export const queryFteIn = ifc('query_fte_in', 0x200, {
  table_type: [0x80, 8],
  table_id: [0xa8, 24],
  flow_index: [0x100, 32],
});

export const queryFteOut = ifc('query_fte_out', 0x1a00, {
  flow_context: [0x200, 6144],
});

export const deleteFteIn = ifc('delete_fte_in', 0x200, {
  other_vport: [0x40, 1],
  table_type: [0x80, 8],
  table_id: [0xa8, 24],
  flow_index: [0x100, 32],
});

export const flowContext = ifc('flow_context', 0x1800, {
  group_id: [0x20, 32],
  flow_tag: [0x48, 24],
  action: [0x70, 16],
  extended_destination: [0x80, 1],
  destination_list_size: [0x88, 24],
  flow_counter_list_size: [0xa8, 24],
  match_value: [0x200, 4096],
  destination: [0x1800, 0],
});

export const destFormatStruct = ifc('dest_format_struct', 0x40, {
  destination_type: [0x0, 8],
  destination_id: [0x8, 24],
  destination_eswitch_owner_vhca_id_valid: [0x20, 1],
  packet_reformat: [0x21, 1],
  destination_eswitch_owner_vhca_id: [0x30, 16],
});

export const fteMatchSetLyr24 = ifc('fte_match_set_lyr_2_4', 0x200, {
  smac_47_16: [0x0, 32],
  smac_15_0: [0x20, 16],
  ethertype: [0x30, 16],
  dmac_47_16: [0x40, 32],
  dmac_15_0: [0x60, 16],
  first_prio: [0x70, 3],
  first_cfi: [0x73, 1],
  first_vid: [0x74, 12],
  ip_protocol: [0x80, 8],
  ip_dscp: [0x88, 6],
  ip_ecn: [0x8e, 2],
  cvlan_tag: [0x90, 1],
  svlan_tag: [0x91, 1],
  frag: [0x92, 1],
  ip_version: [0x93, 4],
  tcp_flags: [0x97, 9],
  tcp_sport: [0xa0, 16],
  tcp_dport: [0xb0, 16],
  ipv4_ihl: [0xd0, 4],
  ttl_hoplimit: [0xd8, 8],
  udp_sport: [0xe0, 16],
  udp_dport: [0xf0, 16],
  src_ipv4_src_ipv6: [0x100, 128],
  dst_ipv4_dst_ipv6: [0x180, 128],
});
