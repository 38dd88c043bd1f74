import { ifc } from './layout.ts';

/**
 * Commands that bring the function up and down, and its pages.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const queryIssiOut = ifc('query_issi_out', 0x380, {
  current_issi: [0x50, 16],
  supported_issi_dw0: [0x360, 32],
});

export const setIssiIn = ifc('set_issi_in', 0x80, {
  current_issi: [0x50, 16],
});

export const queryPagesOut = ifc('query_pages_out', 0x80, {
  embedded_cpu_function: [0x40, 1],
  function_id: [0x50, 16],
  num_pages: [0x60, 32],
});

export const managePagesIn = ifc('manage_pages_in', 0x80, {
  embedded_cpu_function: [0x40, 1],
  function_id: [0x50, 16],
  input_num_entries: [0x60, 32],
  pas: [0x80, 0],
});

export const managePagesOut = ifc('manage_pages_out', 0x80, {
  output_num_entries: [0x40, 32],
  pas: [0x80, 0],
});

export const queryHcaCapOut = ifc('query_hca_cap_out', 0x8080, {
  capability: [0x80, 32768],
});

export const setHcaCapIn = ifc('set_hca_cap_in', 0x8080, {
  other_function: [0x40, 1],
  function_id: [0x50, 16],
  capability: [0x80, 32768],
});

export const queryAdapterOut = ifc('query_adapter_out', 0x880, {
  query_adapter_struct: [0x80, 2048],
});

export const queryAdapterParamBlock = ifc('query_adapter_param_block', 0x800, {
  ieee_vendor_id: [0xc8, 24],
  vsd_vendor_id: [0xf0, 16],
  vsd: [0x100, 1664],
  vsd_contd_psid: [0x780, 128],
});

export const enableHcaIn = ifc('enable_hca_in', 0x80, {
  function_id: [0x50, 16],
});

export const initHcaIn = ifc('init_hca_in', 0x100, {
  sw_vhca_id: [0x62, 14],
  sw_owner_id: [0x80, 128],
});

export const querySpecialContextsOut = ifc('query_special_contexts_out', 0x100, {
  dump_fill_mkey: [0x40, 32],
  resd_lkey: [0x60, 32],
  null_mkey: [0x80, 32],
});
