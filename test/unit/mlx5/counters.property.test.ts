import fc from 'fast-check';
import { expect, it } from 'vitest';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import type { FakeDriver } from './driver.ts';
import { anyAction, Workload } from './workload.ts';

const fcs = 4;
const register = 16;

interface Count {
  packets: number;
  octets: number;
}

/** Frames by destination: unicast, multicast, broadcast. */
function count(frames: readonly Buffer[], extra = 0): Count[] {
  const casts: Count[] = [0, 0, 0].map(() => ({ packets: 0, octets: 0 }));
  for (const frame of frames) {
    const group = ((frame[0] ?? 0) & 1) === 1;
    const broadcast = frame.subarray(0, 6).every((byte) => byte === 0xff);
    const of = casts[broadcast ? 2 : group ? 1 : 0];
    if (of === undefined) continue;
    of.packets++;
    of.octets += frame.length + extra;
  }
  return casts;
}

function sum(casts: readonly Count[], name: keyof Count): number {
  return casts.reduce((total, of) => total + of[name], 0);
}

/** What the guest received, as it was on the wire: with the tag that was stripped. */
function onTheWire(driver: FakeDriver): Buffer[] {
  return driver.received.map(({ frame, cqe }) => {
    const stripped = ((cqe[prm.cqe.byte('l4_l3_hdr_type')] ?? 0) & 1) === 1;
    return stripped ? Buffer.concat([frame, Buffer.alloc(4)]) : frame;
  });
}

function ppcnt(driver: FakeDriver, group: number): Buffer {
  const input = Buffer.alloc(272);
  prm.ppcntReg.set(input, 'local_port', 1, register);
  prm.ppcntReg.set(input, 'grp', group, register);
  return driver.register(0x5008, input, 1).subarray(register + prm.ppcntReg.byte('counter_set'));
}

it('counts what a guest and its network can count themselves, in every register that tells', () => {
  let delivered = 0;
  let starved = 0;
  fc.assert(
    fc.property(fc.array(anyAction, { minLength: 10, maxLength: 40, size: 'max' }), (actions) => {
      const workload = new Workload();
      // At least one queue runs out of buffers.
      workload.run([{ do: 'burst', count: 80 }, ...actions]);
      workload.settle();
      const { driver, injected, sent, lost, linkDowns, port } = workload;
      expect(port.kept).toEqual([]);
      const received = onTheWire(driver);
      delivered += received.length;
      const { vport, qCounter } = driver.stats();
      const traffic = (name: keyof typeof prm.queryVportCounterOut.fields): Count => {
        const at = prm.queryVportCounterOut.byte(name);
        return {
          packets: prm.trafficCounter.get64(vport, 'packets', at),
          octets: prm.trafficCounter.get64(vport, 'octets', at),
        };
      };
      const casts = ['unicast', 'multicast', 'broadcast'] as const;
      expect(casts.map((of) => traffic(`received_eth_${of}`))).toEqual(count(received));
      expect(casts.map((of) => traffic(`transmitted_eth_${of}`))).toEqual(count(sent));
      // The port has the FCS, and sees what the vport's filters drop.
      const rx = count(injected, fcs);
      const tx = count(sent, fcs);
      const ieee = ppcnt(driver, 0);
      const eth = prm.eth8023CntrsGrpDataLayout;
      expect(eth.get64(ieee, 'a_frames_transmitted_ok_high')).toBe(sum(tx, 'packets'));
      expect(eth.get64(ieee, 'a_octets_transmitted_ok_high')).toBe(sum(tx, 'octets'));
      expect(eth.get64(ieee, 'a_octets_received_ok_high')).toBe(sum(rx, 'octets'));
      expect(eth.get64(ieee, 'a_multicast_frames_xmitted_ok_high')).toBe(tx[1]?.packets);
      expect(eth.get64(ieee, 'a_broadcast_frames_received_ok_high')).toBe(rx[2]?.packets);
      const mib = ppcnt(driver, 1);
      const rfc = prm.eth2863CntrsGrpDataLayout;
      expect(rfc.get64(mib, 'if_in_octets_high')).toBe(sum(rx, 'octets'));
      expect(rfc.get64(mib, 'if_in_ucast_pkts_high')).toBe(rx[0]?.packets);
      expect(rfc.get64(mib, 'if_out_multicast_pkts_high')).toBe(tx[1]?.packets);
      expect(rfc.get64(mib, 'if_out_discards_high')).toBe(lost);
      const rmon = ppcnt(driver, 2);
      const rfc2819 = prm.eth2819CntrsGrpDataLayout;
      expect(rfc2819.get64(rmon, 'ether_stats_pkts_high')).toBe(injected.length);
      const short = injected.filter((frame) => frame.length + fcs <= 127).length;
      const measured =
        rfc2819.get64(rmon, 'ether_stats_pkts64octets_high') +
        rfc2819.get64(rmon, 'ether_stats_pkts65to127octets_high');
      expect(measured).toBe(short);
      expect(prm.physLayerCntrs.get(ppcnt(driver, 0x12), 'link_down_events')).toBe(linkDowns);
      // Every frame is somewhere: with the guest, filtered, too long, discarded or without a buffer.
      const { events } = workload.device.core.counters;
      const gone = events.rxFiltered + events.rxTooLong + events.rxDiscards + events.rxOutOfBuffer;
      expect(received.length + gone).toBe(injected.length);
      expect(eth.get64(ieee, 'a_frame_too_long_errors_high')).toBe(events.rxTooLong);
      expect(events.rxTooLong).toBe(workload.tooLong);
      expect(prm.queryQCounterOut.get(qCounter, 'out_of_buffer')).toBe(events.rxOutOfBuffer);
      starved += events.rxOutOfBuffer;
    }),
    { numRuns: 20 },
  );
  expect(delivered).toBeGreaterThan(100);
  expect(starved).toBeGreaterThan(0);
});
