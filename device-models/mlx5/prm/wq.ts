import { ifc } from './layout.ts';

/**
 * Work queues: the WQ context shared by send and receive queues, and their own contexts and commands.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const wq = ifc('wq', 0x600, {
  wq_type: [0x0, 4],
  wq_signature: [0x4, 1],
  end_padding_mode: [0x5, 2],
  page_offset: [0x2b, 5],
  pd: [0x48, 24],
  uar_page: [0x68, 24],
  dbr_addr: [0x80, 64],
  hw_counter: [0xc0, 32],
  sw_counter: [0xe0, 32],
  log_wq_stride: [0x10c, 4],
  log_wq_pg_sz: [0x113, 5],
  log_wq_sz: [0x11b, 5],
  dbr_umem_valid: [0x120, 1],
  wq_umem_valid: [0x121, 1],
  two_byte_shift_en: [0x138, 1],
  shampo_enable: [0x1e0, 1],
  pas: [0x600, 0],
});

export const sqc = ifc('sqc', 0x780, {
  rlky: [0x0, 1],
  cd_master: [0x1, 1],
  fre: [0x2, 1],
  flush_in_error_en: [0x3, 1],
  allow_multi_pkt_send_wqe: [0x4, 1],
  min_wqe_inline_mode: [0x5, 3],
  state: [0x8, 4],
  reg_umr: [0xc, 1],
  allow_swp: [0xd, 1],
  hairpin: [0xe, 1],
  ts_format: [0x1a, 2],
  user_index: [0x28, 24],
  cqn: [0x48, 24],
  ts_cqe_to_dest_cqn: [0xc8, 24],
  packet_pacing_rate_limit_index: [0xf0, 16],
  tis_lst_sz: [0x100, 16],
  qos_queue_group_id: [0x110, 16],
  tis_num_0: [0x168, 24],
  wq: [0x180, 1536],
});

export const createSqIn = ifc('create_sq_in', 0x880, {
  ctx: [0x100, 1920],
});

export const createSqOut = ifc('create_sq_out', 0x80, {
  sqn: [0x48, 24],
});

export const modifySqIn = ifc('modify_sq_in', 0x880, {
  sq_state: [0x40, 4],
  sqn: [0x48, 24],
  modify_bitmask: [0x80, 64],
  ctx: [0x100, 1920],
});

export const destroySqIn = ifc('destroy_sq_in', 0x80, {
  sqn: [0x48, 24],
});

export const querySqIn = ifc('query_sq_in', 0x80, {
  sqn: [0x48, 24],
});

export const querySqOut = ifc('query_sq_out', 0x880, {
  sq_context: [0x100, 1920],
});

export const rqc = ifc('rqc', 0x780, {
  rlky: [0x0, 1],
  delay_drop_en: [0x1, 1],
  scatter_fcs: [0x2, 1],
  vsd: [0x3, 1],
  mem_rq_type: [0x4, 4],
  state: [0x8, 4],
  flush_in_error_en: [0xd, 1],
  hairpin: [0xe, 1],
  ts_format: [0x1a, 2],
  user_index: [0x28, 24],
  cqn: [0x48, 24],
  counter_set_id: [0x60, 8],
  rmpn: [0x88, 24],
  wq: [0x180, 1536],
});

export const createRqIn = ifc('create_rq_in', 0x880, {
  ctx: [0x100, 1920],
});

export const createRqOut = ifc('create_rq_out', 0x80, {
  rqn: [0x48, 24],
});

export const modifyRqIn = ifc('modify_rq_in', 0x880, {
  rq_state: [0x40, 4],
  rqn: [0x48, 24],
  modify_bitmask: [0x80, 64],
  ctx: [0x100, 1920],
});

export const destroyRqIn = ifc('destroy_rq_in', 0x80, {
  rqn: [0x48, 24],
});

export const queryRqIn = ifc('query_rq_in', 0x80, {
  rqn: [0x48, 24],
});

export const queryRqOut = ifc('query_rq_out', 0x880, {
  rq_context: [0x100, 1920],
});
