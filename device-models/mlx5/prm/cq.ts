import { ifc } from './layout.ts';

/**
 * Completion queues.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const cqc = ifc('cqc', 0x200, {
  status: [0x0, 4],
  dbr_umem_valid: [0x6, 1],
  apu_cq: [0x7, 1],
  cqe_sz: [0x8, 3],
  cc: [0xb, 1],
  scqe_break_moderation_en: [0xd, 1],
  oi: [0xe, 1],
  cq_period_mode: [0xf, 2],
  cqe_comp_en: [0x11, 1],
  st: [0x14, 4],
  page_offset: [0x54, 6],
  log_cq_size: [0x63, 5],
  uar_page: [0x68, 24],
  cq_period: [0x84, 12],
  cq_max_count: [0x90, 16],
  c_eqn_or_apu_element: [0xa0, 32],
  log_page_size: [0xc3, 5],
  consumer_counter: [0x148, 24],
  producer_counter: [0x168, 24],
  dbr_addr: [0x1c0, 64],
});

export const createCqIn = ifc('create_cq_in', 0x880, {
  cq_context: [0x80, 512],
  cq_umem_valid: [0x2e0, 1],
  pas: [0x880, 0],
});

export const createCqOut = ifc('create_cq_out', 0x80, {
  cqn: [0x48, 24],
});

export const destroyCqIn = ifc('destroy_cq_in', 0x80, {
  cqn: [0x48, 24],
});

export const queryCqIn = ifc('query_cq_in', 0x80, {
  cqn: [0x48, 24],
});

export const queryCqOut = ifc('query_cq_out', 0x880, {
  cq_context: [0x80, 512],
  pas: [0x880, 0],
});

export const modifyCqIn = ifc('modify_cq_in', 0x880, {
  cqn: [0x48, 24],
  modify_field_select_resize_field_select: [0x60, 32],
  cq_context: [0x80, 512],
  cq_umem_valid: [0x2e0, 1],
  pas: [0x880, 0],
});
