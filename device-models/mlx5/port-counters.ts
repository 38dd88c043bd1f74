import { type Counters, total } from './counters.ts';
import {
  eth2819CntrsGrpDataLayout,
  eth2863CntrsGrpDataLayout,
  eth8023CntrsGrpDataLayout,
  ethPerPrioGrpDataLayout,
  type Layout,
  physLayerCntrs,
} from './prm/index.ts';

/** `ppcnt_reg.grp` (`MLX5_*_COUNTERS_GROUP`). */
export const counterGroup = {
  IEEE_802_3: 0x0,
  RFC_2863: 0x1,
  RFC_2819: 0x2,
  RFC_3635: 0x3,
  ETHERNET_EXTENDED: 0x5,
  PER_PRIORITY: 0x10,
  PER_TRAFFIC_CLASS: 0x11,
  PHYSICAL_LAYER: 0x12,
  PHYSICAL_LAYER_STATISTICAL: 0x16,
} as const;

type Values<T extends Layout> = { -readonly [K in keyof T['fields']]?: number };

function write<T extends Layout>(layout: T, values: Values<T>, target: Buffer, at: number): void {
  // 64-bit counters are declared by their high word.
  for (const [name, value] of Object.entries(values)) layout.set64(target, name, Number(value), at);
}

const histogramNames = [
  'ether_stats_pkts64octets_high',
  'ether_stats_pkts65to127octets_high',
  'ether_stats_pkts128to255octets_high',
  'ether_stats_pkts256to511octets_high',
  'ether_stats_pkts512to1023octets_high',
  'ether_stats_pkts1024to1518octets_high',
  'ether_stats_pkts1519to2047octets_high',
  'ether_stats_pkts2048to4095octets_high',
  'ether_stats_pkts4096to8191octets_high',
  'ether_stats_pkts8192to10239octets_high',
] as const;

/**
 * Writes counter group `group` of PPCNT at byte `at`.
 * @param priority traffic class or priority of the groups that have one; all traffic is priority 0
 * @returns whether the group is known
 */
export function writeCounterGroup(
  counters: Counters,
  group: number,
  priority: number,
  target: Buffer,
  at: number,
): boolean {
  const { rx, tx } = counters.port;
  const { events } = counters;
  switch (group) {
    case counterGroup.IEEE_802_3:
      write(
        eth8023CntrsGrpDataLayout,
        {
          a_frames_transmitted_ok_high: total(tx.packets),
          a_frames_received_ok_high: total(rx.packets) - events.rxTooLong,
          a_octets_transmitted_ok_high: total(tx.octets),
          a_octets_received_ok_high: total(rx.octets),
          a_multicast_frames_xmitted_ok_high: tx.packets[1] ?? 0,
          a_broadcast_frames_xmitted_ok_high: tx.packets[2] ?? 0,
          a_multicast_frames_received_ok_high: rx.packets[1] ?? 0,
          a_broadcast_frames_received_ok_high: rx.packets[2] ?? 0,
          a_frame_too_long_errors_high: events.rxTooLong,
        },
        target,
        at,
      );
      return true;
    case counterGroup.RFC_2863:
      write(
        eth2863CntrsGrpDataLayout,
        {
          if_in_octets_high: total(rx.octets),
          if_in_ucast_pkts_high: rx.packets[0] ?? 0,
          if_in_multicast_pkts_high: rx.packets[1] ?? 0,
          if_in_broadcast_pkts_high: rx.packets[2] ?? 0,
          if_in_discards_high: events.rxDiscards + events.rxOutOfBuffer,
          if_in_errors_high: events.rxTooLong,
          if_out_octets_high: total(tx.octets),
          if_out_ucast_pkts_high: tx.packets[0] ?? 0,
          if_out_multicast_pkts_high: tx.packets[1] ?? 0,
          if_out_broadcast_pkts_high: tx.packets[2] ?? 0,
          if_out_discards_high: events.txDiscards,
          if_out_errors_high: events.txErrors,
        },
        target,
        at,
      );
      return true;
    case counterGroup.RFC_2819: {
      const values: Values<typeof eth2819CntrsGrpDataLayout> = {
        ether_stats_drop_events_high: events.rxDiscards,
        ether_stats_octets_high: total(rx.octets),
        ether_stats_pkts_high: total(rx.packets),
        ether_stats_multicast_pkts_high: rx.packets[1] ?? 0,
        ether_stats_broadcast_pkts_high: rx.packets[2] ?? 0,
        ether_stats_oversize_pkts_high: events.rxTooLong,
      };
      histogramNames.forEach((name, index) => {
        values[name] = counters.rxSizes[index] ?? 0;
      });
      write(eth2819CntrsGrpDataLayout, values, target, at);
      return true;
    }
    case counterGroup.PHYSICAL_LAYER:
      // The only 32-bit counter of the group.
      physLayerCntrs.set(target, 'link_down_events', events.linkDown, at);
      return true;
    case counterGroup.PER_PRIORITY:
      if (priority === 0) {
        write(
          ethPerPrioGrpDataLayout,
          {
            rx_octets_high: total(rx.octets),
            rx_frames_high: total(rx.packets),
            tx_octets_high: total(tx.octets),
            tx_frames_high: total(tx.packets),
            rx_discards_high: events.rxDiscards,
          },
          target,
          at,
        );
      }
      return true;
    case counterGroup.RFC_3635:
    case counterGroup.ETHERNET_EXTENDED:
    case counterGroup.PER_TRAFFIC_CLASS:
    case counterGroup.PHYSICAL_LAYER_STATISTICAL:
      // Nothing of these is ever counted here.
      return true;
    default:
      return false;
  }
}
