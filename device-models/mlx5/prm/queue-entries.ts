import { plain } from './layout.ts';

/** Bytes of an event queue entry, of a completion queue entry and of a send WQE basic block. */
export const eqeBytes = 64;
export const cqeBytes = 64;
export const wqebbBytes = 64;
/** Bytes of one unit of a WQE's `ds` count, and of one data segment. */
export const segmentBytes = 16;

export const eqe = plain('device.h', 'mlx5_eqe', 0x200, {
  type: [0x8, 8],
  sub_type: [0x18, 8],
  data: [0x100, 224],
  owner: [0x1f8, 8],
});

export const eqeComp = plain('device.h', 'mlx5_eqe_comp', 0xe0, { cqn: [0xc0, 32] });
export const eqeCommand = plain('device.h', 'mlx5_eqe_cmd', 0xe0, { vector: [0x0, 32] });
export const eqePortState = plain('device.h', 'mlx5_eqe_port_state', 0x48, { port: [0x40, 8] });
export const eqeCqError = plain('device.h', 'mlx5_eqe_cq_err', 0x60, {
  cqn: [0x0, 32],
  syndrome: [0x58, 8],
});

/** `MLX5_EVENT_TYPE_*`. */
export const eventType = {
  COMP: 0x0,
  CQ_ERROR: 0x4,
  WQ_CATAS_ERROR: 0x5,
  PORT_CHANGE: 0x9,
  CMD: 0xa,
  PAGE_REQUEST: 0xb,
} as const;

/** `MLX5_PORT_CHANGE_SUBTYPE_*`. */
export const portChange = { DOWN: 1, ACTIVE: 4 } as const;

/** Syndrome of a CQ_ERROR event (`MLX5_EVENT_SUBTYPE…`, PRM "CQ Error": 1 overrun, 2 access violation). */
export const cqErrorSyndrome = { OVERRUN: 1, ACCESS: 2 } as const;

export const cqe = plain('device.h', 'mlx5_cqe64', 0x200, {
  rss_hash_result: [0x60, 32],
  rss_hash_type: [0x80, 8],
  check_sum: [0xa0, 16],
  hds_ip_ext: [0xe0, 8],
  l4_l3_hdr_type: [0xe8, 8],
  vlan_info: [0xf0, 16],
  srqn: [0x100, 32],
  ft_metadata: [0x120, 32],
  byte_cnt: [0x160, 32],
  timestamp_h: [0x180, 32],
  timestamp_l: [0x1a0, 32],
  sop_drop_qpn: [0x1c0, 32],
  wqe_counter: [0x1e0, 16],
  op_own: [0x1f8, 8],
});

export const errorCqe = plain('device.h', 'mlx5_err_cqe', 0x200, {
  srqn: [0x100, 32],
  vendor_err_synd: [0x1b0, 8],
  syndrome: [0x1b8, 8],
  s_wqe_opcode_qpn: [0x1c0, 32],
  wqe_counter: [0x1e0, 16],
  op_own: [0x1f8, 8],
});

/** `MLX5_CQE_*`: opcode in the high nibble of `op_own`. */
export const cqeOpcode = { REQ: 0, RESP_SEND: 2, REQ_ERR: 13, RESP_ERR: 14, INVALID: 15 } as const;

/** `MLX5_CQE_SYNDROME_*`. */
export const cqeSyndrome = {
  LOCAL_LENGTH_ERR: 0x01,
  LOCAL_QP_OP_ERR: 0x02,
  LOCAL_PROT_ERR: 0x04,
  WR_FLUSH_ERR: 0x05,
} as const;

/** Bits of `hds_ip_ext` (`CQE_L2_OK`, `CQE_L3_OK`, `CQE_L4_OK`). */
export const cqeOk = { L2: 1, L3: 2, L4: 4 } as const;
/** `l4_l3_hdr_type`: bit 0 a VLAN tag was stripped, bits 3:2 `l3`, bits 6:4 `l4`. */
export const cqeHeaderType = {
  vlanStripped: 1,
  l3: { none: 0 << 2, ipv6: 1 << 2, ipv4: 2 << 2 },
  l4: { none: 0 << 4, tcpNoAck: 1 << 4, udp: 2 << 4, tcpAckNoData: 3 << 4, tcpAckAndData: 4 << 4 },
} as const;
/** `rss_hash_type`: bits 3:2 the IP version that was hashed, bits 7:6 the transport (`CQE_RSS_*`). */
export const cqeRss = {
  ip: { none: 0 << 2, ipv4: 1 << 2, ipv6: 2 << 2 },
  l4: { none: 0 << 6, tcp: 1 << 6, udp: 2 << 6, ipsec: 3 << 6 },
} as const;

export const wqeControl = plain('qp.h', 'mlx5_wqe_ctrl_seg', 0x80, {
  opmod_idx_opcode: [0x0, 32],
  qpn_ds: [0x20, 32],
  signature: [0x40, 8],
  fm_ce_se: [0x58, 8],
});

export const wqeEthernet = plain('qp.h', 'mlx5_wqe_eth_seg', 0x80, {
  cs_flags: [0x20, 8],
  mss: [0x30, 16],
  flow_table_metadata: [0x40, 32],
  'inline_hdr.sz': [0x60, 16],
  'inline_hdr.start': [0x70, 16],
  'insert.type': [0x60, 16],
  'insert.vlan_tci': [0x70, 16],
});

export const wqeData = plain('qp.h', 'mlx5_wqe_data_seg', 0x80, {
  byte_count: [0x0, 32],
  lkey: [0x20, 32],
  addr: [0x40, 64],
});

/** `MLX5_OPCODE_*`. */
export const wqeOpcode = { NOP: 0x00, SEND: 0x0a, LSO: 0x0e } as const;

/** Bits of the control segment. */
export const wqeControlBits = {
  dsMask: 0x3f,
  /** `fm_ce_se`: completion requested, without or with an event (`MLX5_WQE_CTRL_CQ_UPDATE`, `…_AND_EQE`), in the two `ce` bits. */
  ceMask: 0xc,
  cqUpdate: 0x8,
  cqUpdateAndEqe: 0xc,
} as const;

/** `cs_flags` (`MLX5_ETH_WQE_L3_CSUM` …). */
export const ethernetChecksum = { L3_INNER: 0x10, L4_INNER: 0x20, L3: 0x40, L4: 0x80 } as const;

/** `insert.type`: bit 15 says that a tag is to be inserted; bit 0 that it is an S-tag (`MLX5_ETH_WQE_SVLAN`). */
export const vlanInsert = { enable: 0x8000, svlan: 0x0001 } as const;

/** Bit 31 of a data segment's `byte_count`: inline data in a send WQE, start padding in a receive WQE. */
export const byteCountFlag = 0x80000000;
export const byteCountMask = 0x7fffffff;
/** `MLX5_INVALID_LKEY`: ends a receive WQE's list early. */
export const invalidLkey = 0x100;
