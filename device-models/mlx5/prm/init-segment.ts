import { plain } from './layout.ts';

/** Initialization segment: the first page(s) of BAR 0 (`struct mlx5_init_seg`). */
export const initSegment = plain('device.h', 'mlx5_init_seg', 0x10080, {
  fw_rev: [0x0, 32],
  cmdif_rev_fw_sub: [0x20, 32],
  cmdq_addr_h: [0x80, 32],
  cmdq_addr_l_sz: [0xa0, 32],
  cmd_dbell: [0xc0, 32],
  initializing: [0xfe0, 32],
  health: [0x1000, 512],
  cmd_exec_to: [0x7fc0, 32],
  cmd_q_init_to: [0x7fe0, 32],
  internal_timer_h: [0x8000, 32],
  internal_timer_l: [0x8020, 32],
  health_counter: [0x8080, 32],
});

/** Health buffer inside the initialization segment (`struct health_buffer`). */
export const healthBuffer = plain('device.h', 'health_buffer', 0x200, {
  fw_ver: [0x180, 32],
  hw_id: [0x1a0, 32],
  rfr_severity: [0x1c0, 8],
  synd: [0x1e8, 8],
});
