/**
 * What one guest may hold and ask for. Everything that a guest makes the device remember or repeat is bounded by
 * a line of this table, so that memory and time per guest are known.
 */
export const limits = {
  /** Longest command input and output in bytes, without the mailbox blocks' own overhead: the largest CQ's page list fits. */
  commandBytes: 20 * 1024,
  /** 64-byte entries: `log_max_eq_sz`, `log_max_cq_sz`. */
  logEqSize: 16,
  logCqSize: 17,
  /** Strides of a work queue, and bytes of a stride. */
  logWqSize: 15,
  logReceiveStride: { min: 4, max: 10 },
  /** Largest send WQE in bytes: 16 basic blocks. */
  sendWqeBytes: 1024,
  eqs: 32,
  cqs: 512,
  sqs: 256,
  rqs: 128,
  uars: 32,
  pds: 256,
  transportDomains: 256,
  mkeys: 1024,
  tiss: 256,
  tirs: 512,
  rqts: 256,
  rqtEntries: 1024,
  qCounters: 64,
  flowTables: 256,
  logFlowTableSize: 24,
  flowGroups: 1024,
  flowEntries: 8192,
  /** Few, so that a table with all entries there may be is a record that can be saved; Linux uses one. */
  flowDestinations: 8,
  /** Tables that one frame may pass through. */
  steeringHops: 64,
  /** Receive queues that one frame may be copied to. */
  steeringCopies: 32,
  grantedPages: 4096,
  unicastList: 128,
  macList: 256,
  vlanList: 256,
  /** Payload of one LSO WQE (`GSO_MAX_SIZE`) and the segments that it may become. */
  lsoPayloadBytes: 512 * 1024,
  lsoSegments: 16 * 1024,
  /** Bytes of every frame that are copied out of guest memory for parsing and rewriting, and those of one whose headers are longer. */
  headerBytes: 256,
  longHeaderBytes: 1024,
  /** Bytes, and frames (LSO: segments), that a send queue may send in one go before the device loop serves others. */
  sendBurstBytes: 1024 * 1024,
  sendBurstFrames: 1024,
} as const;

/** Largest frame on the wire with FCS: what PMTU reports as `max_mtu`. Leaves the guest an MTU of 9978. */
export const maxHardMtu = 10_000;
/** Hard MTU of an interface with MTU 1500 (Ethernet header 14, VLAN tag 4, FCS 4). */
export const defaultHardMtu = 1522;
