import { ifc } from './layout.ts';

/**
 * The virtual port: state, NIC context, counters.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const queryVportStateIn = ifc('query_vport_state_in', 0x80, {
  other_vport: [0x40, 1],
});

export const queryVportStateOut = ifc('query_vport_state_out', 0x80, {
  admin_state: [0x78, 4],
  state: [0x7c, 4],
});

export const modifyVportStateIn = ifc('modify_vport_state_in', 0x80, {
  opcode: [0x0, 16],
  op_mod: [0x30, 16],
  other_vport: [0x40, 1],
  vport_number: [0x50, 16],
  admin_state: [0x78, 4],
});

export const queryNicVportContextIn = ifc('query_nic_vport_context_in', 0x80, {
  other_vport: [0x40, 1],
  allowed_list_type: [0x65, 3],
});

export const queryNicVportContextOut = ifc('query_nic_vport_context_out', 0x880, {
  nic_vport_context: [0x80, 2048],
});

export const modifyNicVportContextIn = ifc('modify_nic_vport_context_in', 0x1000, {
  other_vport: [0x40, 1],
  field_select: [0x60, 32],
  nic_vport_context: [0x800, 2048],
});

export const modifyNicVportFieldSelect = ifc('modify_nic_vport_field_select', 0x20, {
  affiliation: [0x12, 1],
  disable_uc_local_lb: [0x14, 1],
  disable_mc_local_lb: [0x15, 1],
  node_guid: [0x16, 1],
  port_guid: [0x17, 1],
  min_inline: [0x18, 1],
  mtu: [0x19, 1],
  change_event: [0x1a, 1],
  promisc: [0x1b, 1],
  permanent_address: [0x1c, 1],
  addresses_list: [0x1d, 1],
  roce_en: [0x1e, 1],
});

export const nicVportContext = ifc('nic_vport_context', 0x800, {
  min_wqe_inline_mode: [0x5, 3],
  disable_mc_local_lb: [0x1d, 1],
  disable_uc_local_lb: [0x1e, 1],
  roce_en: [0x1f, 1],
  arm_change_event: [0x20, 1],
  event_on_mtu: [0x3b, 1],
  event_on_promisc_change: [0x3c, 1],
  event_on_vlan_change: [0x3d, 1],
  event_on_mc_address_change: [0x3e, 1],
  event_on_uc_address_change: [0x3f, 1],
  vhca_id_type: [0x40, 1],
  affiliation_criteria: [0x4c, 4],
  affiliated_vhca_id: [0x50, 16],
  mtu: [0x130, 16],
  system_image_guid: [0x140, 64],
  port_guid: [0x180, 64],
  node_guid: [0x1c0, 64],
  qkey_violation_counter: [0x340, 16],
  promisc_uc: [0x780, 1],
  promisc_mc: [0x781, 1],
  promisc_all: [0x782, 1],
  allowed_list_type: [0x785, 3],
  allowed_list_size: [0x794, 12],
  permanent_address: [0x7a0, 64],
  current_uc_mac_address: [0x800, 0],
});

export const macAddressLayout = ifc('mac_address_layout', 0x40, {
  mac_addr_47_32: [0x10, 16],
  mac_addr_31_0: [0x20, 32],
});

export const vlanLayout = ifc('vlan_layout', 0x40, {
  vlan: [0x14, 12],
});

export const queryVnicEnvIn = ifc('query_vnic_env_in', 0x80, {
  other_vport: [0x40, 1],
  vport_number: [0x50, 16],
});

export const queryVnicEnvOut = ifc('query_vnic_env_out', 0x1080, {
  vport_env: [0x80, 4096],
});

export const vnicDiagnosticStatistics = ifc('vnic_diagnostic_statistics', 0x1000, {
  nic_receive_steering_discard: [0x80, 64],
});

export const queryVportCounterIn = ifc('query_vport_counter_in', 0x100, {
  other_vport: [0x40, 1],
  port_num: [0x4c, 4],
  clear: [0xc0, 1],
});

export const queryVportCounterOut = ifc('query_vport_counter_out', 0x1080, {
  received_errors: [0x80, 128],
  transmit_errors: [0x100, 128],
  received_ib_unicast: [0x180, 128],
  transmitted_ib_unicast: [0x200, 128],
  received_ib_multicast: [0x280, 128],
  transmitted_ib_multicast: [0x300, 128],
  received_eth_broadcast: [0x380, 128],
  transmitted_eth_broadcast: [0x400, 128],
  received_eth_unicast: [0x480, 128],
  transmitted_eth_unicast: [0x500, 128],
  received_eth_multicast: [0x580, 128],
  transmitted_eth_multicast: [0x600, 128],
});

export const trafficCounter = ifc('traffic_counter', 0x80, {
  packets: [0x0, 64],
  octets: [0x40, 64],
});
