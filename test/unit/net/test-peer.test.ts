import { describe, expect, test } from 'vitest';
import { etherType, parseMac } from '../../../src/net/ethernet.ts';
import { internetChecksum } from '../../../src/net/testing/packets.ts';
import { TestPeer } from '../../../src/net/testing/test-peer.ts';
import type { NetPort } from '../../../src/net/types.ts';

/** Two ends of a cable; `change` may spoil or tag what passes. */
function cable(change: (frame: Buffer) => Buffer = (frame) => frame): {
  ends: [NetPort, NetPort];
  log: Buffer[];
} {
  const handlers: ((frame: Uint8Array) => boolean)[] = [];
  const log: Buffer[] = [];
  const end = (index: number): NetPort => ({
    offloads: false,
    linkUp: true,
    send: (parts) => {
      const frame = change(Buffer.concat(parts));
      log.push(frame);
      return handlers[1 - index]?.(frame) ?? false;
    },
    receive: (handler) => {
      handlers[index] = handler;
    },
    ready: () => {},
    onLink: () => {},
    activate: () => {},
    announce: () => {},
    close: () => {},
  });
  return { ends: [end(0), end(1)], log };
}
const one = { mac: '52:54:00:00:00:01', ip: '10.0.0.1' };
const two = { mac: '52:54:00:00:00:02', ip: '10.0.0.2' };

describe('test peer', () => {
  test('resolves, pings, echoes', () => {
    const { ends, log } = cable();
    const seen: unknown[] = [];
    const a = new TestPeer(ends[0], one, {
      pong: (sequence, from) => seen.push([sequence, from]),
      datagram: (data, from, to) => seen.push([Buffer.from(data).toString(), from, to]),
    });
    new TestPeer(ends[1], two);
    a.ping(two.ip, 7);
    a.sendDatagram(two.ip, 1000, 7, Buffer.from('odd'));
    expect(seen).toEqual([
      [7, two.ip],
      ['odd', { ip: two.ip, port: 7 }, 1000],
    ]);
    expect(log.map((frame) => frame.readUInt16BE(12))).toEqual([
      etherType.arp,
      etherType.arp,
      ...new Array(4).fill(etherType.ipv4),
    ]);
    expect(Math.min(...log.map((frame) => frame.length))).toBe(60);
  });

  test('answers with the same VLAN tag', () => {
    const tag = Buffer.from([0x81, 0x00, 0x00, 0x05]);
    let first = true;
    const { ends, log } = cable((frame) => {
      const tagged = first ? Buffer.concat([frame.subarray(0, 12), tag, frame.subarray(12)]) : frame;
      first = false;
      return tagged;
    });
    const a = new TestPeer(ends[0], one);
    new TestPeer(ends[1], two);
    a.ping(two.ip, 1);
    expect(log[1]?.subarray(12, 16)).toEqual(tag);
  });

  test('does not answer a packet with a wrong checksum, and counts it', () => {
    let spoil = -1;
    const { ends } = cable((frame) => {
      const index = spoil;
      if (index >= 0 && frame.readUInt16BE(12) === etherType.ipv4) frame[index] = (frame[index] ?? 0) ^ 0xff;
      return frame;
    });
    const pongs: number[] = [];
    const a = new TestPeer(ends[0], one, { pong: (sequence) => pongs.push(sequence) });
    const b = new TestPeer(ends[1], two);
    a.ping(two.ip, 1);
    for (const at of [22, 45, 36]) {
      spoil = at;
      a.ping(two.ip, 2);
    }
    a.sendDatagram(two.ip, 9, 7, Buffer.from('x'));
    expect(pongs).toEqual([1]);
    expect(b.badChecksums).toBe(4);
  });

  test("checksum of RFC 1071's example", () => {
    expect(internetChecksum(Buffer.from('0001f203f4f5f6f7', 'hex'))).toBe(~0xddf2 & 0xffff);
    expect(parseMac(one.mac)[5]).toBe(1);
  });

  test('garbage is ignored', () => {
    const { ends } = cable();
    const b = new TestPeer(ends[1], two);
    for (let length = 14; length < 80; length++) {
      for (const type of [etherType.ipv4, etherType.arp, etherType.vlan]) {
        const frame = Buffer.alloc(length, 0x45);
        frame.set(b.mac, 0);
        frame.writeUInt16BE(type, 12);
        ends[0].send([frame], length);
      }
    }
    expect(b.badChecksums).toBe(0);
  });
});
