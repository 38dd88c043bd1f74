import { ifc } from './layout.ts';

/**
 * Event queues.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const eqc = ifc('eqc', 0x200, {
  status: [0x0, 4],
  ec: [0xd, 1],
  oi: [0xe, 1],
  st: [0x14, 4],
  page_offset: [0x54, 6],
  log_eq_size: [0x63, 5],
  uar_page: [0x68, 24],
  intr: [0xb4, 12],
  log_page_size: [0xc3, 5],
  consumer_counter: [0x148, 24],
  producer_counter: [0x168, 24],
});

export const createEqIn = ifc('create_eq_in', 0x880, {
  eq_context_entry: [0x80, 512],
  event_bitmask: [0x2c0, 256],
  pas: [0x880, 0],
});

export const createEqOut = ifc('create_eq_out', 0x80, {
  eq_number: [0x58, 8],
});

export const destroyEqIn = ifc('destroy_eq_in', 0x80, {
  eq_number: [0x58, 8],
});

export const queryEqIn = ifc('query_eq_in', 0x80, {
  eq_number: [0x58, 8],
});

export const queryEqOut = ifc('query_eq_out', 0x880, {
  eq_context_entry: [0x80, 512],
  event_bitmask: [0x2c0, 64],
  pas: [0x880, 0],
});
