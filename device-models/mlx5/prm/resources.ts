import { ifc } from './layout.ts';

/**
 * Allocations without a context of their own: UAR, PD, transport domain, mkey, counters.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const allocUarOut = ifc('alloc_uar_out', 0x80, {
  uar: [0x48, 24],
});

export const deallocUarIn = ifc('dealloc_uar_in', 0x80, {
  uar: [0x48, 24],
});

export const allocPdOut = ifc('alloc_pd_out', 0x80, {
  pd: [0x48, 24],
});

export const deallocPdIn = ifc('dealloc_pd_in', 0x80, {
  pd: [0x48, 24],
});

export const allocTransportDomainOut = ifc('alloc_transport_domain_out', 0x80, {
  transport_domain: [0x48, 24],
});

export const deallocTransportDomainIn = ifc('dealloc_transport_domain_in', 0x80, {
  transport_domain: [0x48, 24],
});

export const createMkeyIn = ifc('create_mkey_in', 0x880, {
  pg_access: [0x60, 1],
  mkey_umem_valid: [0x61, 1],
  memory_key_mkey_entry: [0x80, 512],
  translations_octword_actual_size: [0x300, 32],
});

export const createMkeyOut = ifc('create_mkey_out', 0x80, {
  mkey_index: [0x48, 24],
});

export const destroyMkeyIn = ifc('destroy_mkey_in', 0x80, {
  mkey_index: [0x48, 24],
});

export const queryMkeyIn = ifc('query_mkey_in', 0x80, {
  mkey_index: [0x48, 24],
  pg_access: [0x60, 1],
});

export const queryMkeyOut = ifc('query_mkey_out', 0x980, {
  memory_key_mkey_entry: [0x80, 512],
  bsf0_klm0_pas_mtt0_1: [0x880, 128],
  bsf1_klm1_pas_mtt2_3: [0x900, 128],
});

export const mkc = ifc('mkc', 0x200, {
  free: [0x1, 1],
  access_mode_4_2: [0x3, 3],
  umr_en: [0x10, 1],
  lw: [0x14, 1],
  lr: [0x15, 1],
  access_mode_1_0: [0x16, 2],
  qpn: [0x20, 24],
  mkey_7_0: [0x38, 8],
  length64: [0x60, 1],
  bsf_en: [0x61, 1],
  pd: [0x68, 24],
  start_addr: [0x80, 64],
  len: [0xc0, 64],
  translations_octword_size: [0x1a0, 32],
});

export const allocQCounterOut = ifc('alloc_q_counter_out', 0x80, {
  counter_set_id: [0x58, 8],
});

export const deallocQCounterIn = ifc('dealloc_q_counter_in', 0x80, {
  counter_set_id: [0x58, 8],
});

export const queryQCounterIn = ifc('query_q_counter_in', 0x100, {
  clear: [0xc0, 1],
  counter_set_id: [0xf8, 8],
});

export const queryQCounterOut = ifc('query_q_counter_out', 0x800, {
  out_of_buffer: [0x180, 32],
  resp_local_length_error: [0x3c0, 32],
  resp_local_protection: [0x440, 32],
  req_local_length_error: [0x3e0, 32],
  req_local_protection: [0x460, 32],
  cq_overflow: [0x5c0, 32],
  resp_cqe_error: [0x480, 32],
  req_cqe_error: [0x4a0, 32],
  resp_cqe_flush_error: [0x5e0, 32],
  req_cqe_flush_error: [0x600, 32],
});
