import { ifc } from './layout.ts';

/**
 * Counter groups of the PPCNT register (`counter_set`). 64-bit counters are declared by their high word.
 * Names and offsets as in `mlx5_ifc.h`.
 */

export const eth8023CntrsGrpDataLayout = ifc('eth_802_3_cntrs_grp_data_layout', 0x7c0, {
  a_frames_transmitted_ok_high: [0x0, 32],
  a_frames_received_ok_high: [0x40, 32],
  a_frame_check_sequence_errors_high: [0x80, 32],
  a_octets_transmitted_ok_high: [0x100, 32],
  a_octets_received_ok_high: [0x140, 32],
  a_multicast_frames_xmitted_ok_high: [0x180, 32],
  a_broadcast_frames_xmitted_ok_high: [0x1c0, 32],
  a_multicast_frames_received_ok_high: [0x200, 32],
  a_broadcast_frames_received_ok_high: [0x240, 32],
  a_in_range_length_errors_high: [0x280, 32],
  a_frame_too_long_errors_high: [0x300, 32],
});

export const eth2863CntrsGrpDataLayout = ifc('eth_2863_cntrs_grp_data_layout', 0x7c0, {
  if_in_octets_high: [0x0, 32],
  if_in_ucast_pkts_high: [0x40, 32],
  if_in_discards_high: [0x80, 32],
  if_in_errors_high: [0xc0, 32],
  if_out_octets_high: [0x140, 32],
  if_out_ucast_pkts_high: [0x180, 32],
  if_out_discards_high: [0x1c0, 32],
  if_out_errors_high: [0x200, 32],
  if_in_multicast_pkts_high: [0x240, 32],
  if_in_broadcast_pkts_high: [0x280, 32],
  if_out_multicast_pkts_high: [0x2c0, 32],
  if_out_broadcast_pkts_high: [0x300, 32],
});

export const eth2819CntrsGrpDataLayout = ifc('eth_2819_cntrs_grp_data_layout', 0x7c0, {
  ether_stats_drop_events_high: [0x0, 32],
  ether_stats_octets_high: [0x40, 32],
  ether_stats_pkts_high: [0x80, 32],
  ether_stats_broadcast_pkts_high: [0xc0, 32],
  ether_stats_multicast_pkts_high: [0x100, 32],
  ether_stats_undersize_pkts_high: [0x180, 32],
  ether_stats_oversize_pkts_high: [0x1c0, 32],
  ether_stats_pkts64octets_high: [0x2c0, 32],
  ether_stats_pkts65to127octets_high: [0x300, 32],
  ether_stats_pkts128to255octets_high: [0x340, 32],
  ether_stats_pkts256to511octets_high: [0x380, 32],
  ether_stats_pkts512to1023octets_high: [0x3c0, 32],
  ether_stats_pkts1024to1518octets_high: [0x400, 32],
  ether_stats_pkts1519to2047octets_high: [0x440, 32],
  ether_stats_pkts2048to4095octets_high: [0x480, 32],
  ether_stats_pkts4096to8191octets_high: [0x4c0, 32],
  ether_stats_pkts8192to10239octets_high: [0x500, 32],
});

export const physLayerCntrs = ifc('phys_layer_cntrs', 0x7c0, {
  time_since_last_clear_high: [0x0, 32],
  link_down_events: [0x600, 32],
});

export const ethPerPrioGrpDataLayout = ifc('eth_per_prio_grp_data_layout', 0x7c0, {
  rx_octets_high: [0x0, 32],
  rx_frames_high: [0x100, 32],
  tx_octets_high: [0x140, 32],
  tx_frames_high: [0x240, 32],
  rx_discards_high: [0x3c0, 32],
});
