import { plain } from './layout.ts';

/** Bytes of input and of output that travel in a command entry itself. */
export const inlineBytes = 16;

/** Bytes of data in one mailbox block (`MLX5_CMD_DATA_BLOCK_SIZE`). */
export const mailboxDataBytes = 512;

/** Entry type of every command (`MLX5_PCI_CMD_XPORT`). */
export const pciCommandTransport = 7;

/** One slot of the command queue (`struct mlx5_cmd_layout`). */
export const commandEntry = plain('device.h', 'mlx5_cmd_layout', 0x200, {
  type: [0x0, 8],
  inlen: [0x20, 32],
  in_ptr: [0x40, 64],
  in: [0x80, 128],
  out: [0x100, 128],
  out_ptr: [0x180, 64],
  outlen: [0x1c0, 32],
  token: [0x1e0, 8],
  sig: [0x1e8, 8],
  status_own: [0x1f8, 8],
});

/** One mailbox block (`struct mlx5_cmd_prot_block`). */
export const mailboxBlock = plain('device.h', 'mlx5_cmd_prot_block', 0x1200, {
  data: [0x0, 4096],
  next: [0x1180, 64],
  block_num: [0x11c0, 32],
  token: [0x11e8, 8],
  ctrl_sig: [0x11f0, 8],
  sig: [0x11f8, 8],
});

/** Delivery status of an entry, in bits 7:1 of `status_own` (`MLX5_CMD_DELIVERY_STAT_*`). */
export const deliveryStatus = {
  OK: 0x0,
  SIGNAT_ERR: 0x1,
  TOK_ERR: 0x2,
  BAD_BLK_NUM_ERR: 0x3,
  OUT_PTR_ALIGN_ERR: 0x4,
  IN_PTR_ALIGN_ERR: 0x5,
  FW_ERR: 0x6,
  IN_LENGTH_ERR: 0x7,
  OUT_LENGTH_ERR: 0x8,
  RES_FLD_NOT_CLR_ERR: 0x9,
  CMD_DESCR_ERR: 0x10,
} as const;

/** First byte of every command's output (`MLX5_CMD_STAT_*`). */
export const commandStatus = {
  OK: 0x0,
  INT_ERR: 0x1,
  BAD_OP_ERR: 0x2,
  BAD_PARAM_ERR: 0x3,
  BAD_SYS_STATE_ERR: 0x4,
  BAD_RES_ERR: 0x5,
  RES_BUSY: 0x6,
  LIM_ERR: 0x8,
  BAD_RES_STATE_ERR: 0x9,
  IX_ERR: 0xa,
  NO_RES_ERR: 0xf,
  BAD_INP_LEN_ERR: 0x50,
  BAD_OUTP_LEN_ERR: 0x51,
} as const;

export type CommandStatus = (typeof commandStatus)[keyof typeof commandStatus];

/** Opcodes that this device knows (`MLX5_CMD_OP_*`). */
export const opcode = {
  QUERY_HCA_CAP: 0x100,
  QUERY_ADAPTER: 0x101,
  INIT_HCA: 0x102,
  TEARDOWN_HCA: 0x103,
  ENABLE_HCA: 0x104,
  DISABLE_HCA: 0x105,
  QUERY_PAGES: 0x107,
  MANAGE_PAGES: 0x108,
  SET_HCA_CAP: 0x109,
  QUERY_ISSI: 0x10a,
  SET_ISSI: 0x10b,
  CREATE_MKEY: 0x200,
  QUERY_MKEY: 0x201,
  DESTROY_MKEY: 0x202,
  QUERY_SPECIAL_CONTEXTS: 0x203,
  CREATE_EQ: 0x301,
  DESTROY_EQ: 0x302,
  QUERY_EQ: 0x303,
  CREATE_CQ: 0x400,
  DESTROY_CQ: 0x401,
  QUERY_CQ: 0x402,
  MODIFY_CQ: 0x403,
  QUERY_VPORT_STATE: 0x750,
  MODIFY_VPORT_STATE: 0x751,
  QUERY_NIC_VPORT_CONTEXT: 0x754,
  MODIFY_NIC_VPORT_CONTEXT: 0x755,
  QUERY_VNIC_ENV: 0x76f,
  QUERY_VPORT_COUNTER: 0x770,
  ALLOC_Q_COUNTER: 0x771,
  DEALLOC_Q_COUNTER: 0x772,
  QUERY_Q_COUNTER: 0x773,
  ALLOC_PD: 0x800,
  DEALLOC_PD: 0x801,
  ALLOC_UAR: 0x802,
  DEALLOC_UAR: 0x803,
  ACCESS_REG: 0x805,
  NOP: 0x80d,
  ALLOC_TRANSPORT_DOMAIN: 0x816,
  DEALLOC_TRANSPORT_DOMAIN: 0x817,
  CREATE_TIR: 0x900,
  MODIFY_TIR: 0x901,
  DESTROY_TIR: 0x902,
  QUERY_TIR: 0x903,
  CREATE_SQ: 0x904,
  MODIFY_SQ: 0x905,
  DESTROY_SQ: 0x906,
  QUERY_SQ: 0x907,
  CREATE_RQ: 0x908,
  MODIFY_RQ: 0x909,
  DESTROY_RQ: 0x90a,
  QUERY_RQ: 0x90b,
  CREATE_TIS: 0x912,
  MODIFY_TIS: 0x913,
  DESTROY_TIS: 0x914,
  QUERY_TIS: 0x915,
  CREATE_RQT: 0x916,
  MODIFY_RQT: 0x917,
  DESTROY_RQT: 0x918,
  QUERY_RQT: 0x919,
  SET_FLOW_TABLE_ROOT: 0x92f,
  CREATE_FLOW_TABLE: 0x930,
  DESTROY_FLOW_TABLE: 0x931,
  QUERY_FLOW_TABLE: 0x932,
  CREATE_FLOW_GROUP: 0x933,
  DESTROY_FLOW_GROUP: 0x934,
  SET_FLOW_TABLE_ENTRY: 0x936,
  QUERY_FLOW_TABLE_ENTRY: 0x937,
  DELETE_FLOW_TABLE_ENTRY: 0x938,
  MODIFY_FLOW_TABLE: 0x93c,
} as const;
