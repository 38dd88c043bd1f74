import { describe, expect, it } from 'vitest';
import type { TcpReport, UdpReport } from '../../../qemu-scripts/flows.ts';
import { plainNet, vlanNet } from '../../../qemu-scripts/network.ts';
import { faultsOf, type TrafficReport } from '../../../qemu-scripts/traffic.ts';

const common = { gapMs: 1, done: true, error: '' };
const udp: UdpReport = { ...common, sent: 9, received: 9, missing: 0, hole: 0, reordered: 0, duplicates: 0 };
const stream = (own: string, other: string): TcpReport => ({
  ...common,
  sent: 9,
  received: 9,
  sentHash: own,
  receivedHash: other,
});
const whole: TrafficReport = {
  pings: { sent: 3, lost: 0, duplicates: 0 },
  udp: { guest: udp, peer: udp },
  tcp: { guest: stream('a', 'b'), peer: stream('b', 'a') },
};

describe('faults of traffic', () => {
  it('are none when all arrived as it was sent, with TCP and without', () => {
    expect(faultsOf(plainNet, whole)).toEqual([]);
    expect(faultsOf(plainNet, { pings: whole.pings, udp: whole.udp })).toEqual([]);
  });

  it.each<[string, Partial<TrafficReport>, RegExp]>([
    ['a lost ping', { pings: { sent: 3, lost: 1, duplicates: 0 } }, /pings: 1 of 3 lost/],
    ['a ping answered twice', { pings: { sent: 3, lost: 0, duplicates: 1 } }, /1 of 3 duplicates/],
    ['no ping at all', { pings: { sent: 0, lost: 0, duplicates: 0 } }, /no ping/],
    [
      'a missing datagram',
      { udp: { guest: { ...udp, missing: 2 }, peer: udp } },
      /UDP to the guest: 2 missing/,
    ],
    ['a late one', { udp: { guest: udp, peer: { ...udp, reordered: 1 } } }, /UDP to the peer: 1 reordered/],
    ['one that came twice', { udp: { guest: udp, peer: { ...udp, duplicates: 1 } } }, /1 duplicates/],
    ['silence', { udp: { guest: { ...udp, received: 0 }, peer: udp } }, /nothing arrived at the guest/],
    [
      'a changed stream',
      { tcp: { guest: stream('a', 'c'), peer: stream('b', 'a') } },
      /TCP to the guest: 9 bytes \(c\) of 9 sent \(b\)/,
    ],
    [
      'an unfinished stream',
      { tcp: { guest: stream('a', 'b'), peer: { ...stream('b', 'a'), received: 8 } } },
      /TCP to the peer: 8 bytes/,
    ],
  ])('are told: %s', (_name, change, message) => {
    const faults = faultsOf(vlanNet, { ...whole, ...change });
    expect(faults).toHaveLength(1);
    expect(faults[0]).toMatch(message);
    expect(faults[0]).toMatch(/^VLAN 5: /);
  });
});
