import { ifc } from './layout.ts';

/**
 * Registers that ACCESS_REG reads and writes.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const accessRegisterIn = ifc('access_register_in', 0x80, {
  op_mod: [0x30, 16],
  register_id: [0x50, 16],
  argument: [0x60, 32],
  register_data: [0x80, 0],
});

export const accessRegisterOut = ifc('access_register_out', 0x80, {
  register_data: [0x80, 0],
});

export const mciaReg = ifc('mcia_reg', 0x200, {
  module: [0x8, 8],
  status: [0x18, 8],
  i2c_device_address: [0x20, 8],
  page_number: [0x28, 8],
  device_address: [0x30, 16],
  size: [0x50, 16],
});

export const paosReg = ifc('paos_reg', 0x80, {
  swid: [0x0, 8],
  local_port: [0x8, 8],
  admin_status: [0x14, 4],
  oper_status: [0x1c, 4],
  ase: [0x20, 1],
  ee: [0x21, 1],
  e: [0x3e, 2],
});

export const pmtuReg = ifc('pmtu_reg', 0x80, {
  local_port: [0x8, 8],
  max_mtu: [0x20, 16],
  admin_mtu: [0x40, 16],
  oper_mtu: [0x60, 16],
});

export const ptysReg = ifc('ptys_reg', 0x200, {
  an_disable_admin: [0x1, 1],
  an_disable_cap: [0x2, 1],
  local_port: [0x8, 8],
  proto_mask: [0x1d, 3],
  an_status: [0x20, 4],
  data_rate_oper: [0x30, 16],
  ext_eth_proto_capability: [0x40, 32],
  eth_proto_capability: [0x60, 32],
  ib_link_width_capability: [0x80, 16],
  ib_proto_capability: [0x90, 16],
  ext_eth_proto_admin: [0xa0, 32],
  eth_proto_admin: [0xc0, 32],
  ib_link_width_admin: [0xe0, 16],
  ib_proto_admin: [0xf0, 16],
  ext_eth_proto_oper: [0x100, 32],
  eth_proto_oper: [0x120, 32],
  ib_link_width_oper: [0x140, 16],
  ib_proto_oper: [0x150, 16],
  connector_type: [0x17c, 4],
  eth_proto_lp_advertise: [0x180, 32],
});

export const pfccReg = ifc('pfcc_reg', 0x100, {
  local_port: [0x8, 8],
  ppan_mask_n: [0x1b, 1],
  minor_stall_mask: [0x1c, 1],
  critical_stall_mask: [0x1d, 1],
  ppan: [0x20, 4],
  prio_mask_tx: [0x28, 8],
  prio_mask_rx: [0x38, 8],
  pptx: [0x40, 1],
  aptx: [0x41, 1],
  pptx_mask_n: [0x42, 1],
  pfctx: [0x48, 8],
  pprx: [0x60, 1],
  aprx: [0x61, 1],
  pprx_mask_n: [0x62, 1],
  pfcrx: [0x68, 8],
  device_stall_minor_watermark: [0x80, 16],
  device_stall_critical_watermark: [0x90, 16],
});

export const ppcntReg = ifc('ppcnt_reg', 0x800, {
  swid: [0x0, 8],
  local_port: [0x8, 8],
  pnat: [0x10, 2],
  grp: [0x1a, 6],
  clr: [0x20, 1],
  prio_tc: [0x3d, 3],
  counter_set: [0x40, 1984],
});

export const mcamReg = ifc('mcam_reg', 0x240, {
  feature_group: [0x8, 8],
  access_reg_group: [0x18, 8],
  mng_access_reg_cap_mask: [0x40, 128],
  mng_feature_cap_mask: [0x140, 128],
});

export const mcamAccessReg = ifc('mcam_access_reg', 0x80, {
  mcda: [0x1c, 1],
  mcc: [0x1d, 1],
  mcqi: [0x1e, 1],
  mcqs: [0x1f, 1],
});

export const mcqsReg = ifc('mcqs_reg', 0x80, {
  last_index_flag: [0x0, 1],
  component_index: [0x10, 16],
  identifier: [0x30, 16],
  component_status: [0x57, 5],
  component_update_state: [0x5c, 4],
});

export const mcqiReg = ifc('mcqi_reg', 0xc0, {
  read_pending_component: [0x0, 1],
  component_index: [0x10, 16],
  info_type: [0x5b, 5],
  info_size: [0x60, 32],
  offset: [0x80, 32],
  data_size: [0xb0, 16],
});

export const mcqiCap = ifc('mcqi_cap', 0xa0, {
  supported_info_bitmask: [0x0, 32],
});

export const mcqiVersion = ifc('mcqi_version', 0x3e0, {
  version_string_length: [0x18, 8],
  version: [0x20, 32],
  version_string: [0x100, 736],
});
