import { describe, expect, it } from 'vitest';
import { FrameInfo, parseFrame } from '../../../device-models/mlx5/frame/parse.ts';
import { patienceNs } from '../../../device-models/mlx5/receive.ts';
import { RssResult, rssHash, Tir } from '../../../device-models/mlx5/steering/tir.ts';
import { toeplitz, toeplitzTable } from '../../../device-models/mlx5/steering/toeplitz.ts';
import { queueState } from '../../../device-models/mlx5/work-queue.ts';
import { type Received, rssKey } from './driver.ts';
import { broadcast, buildFrame, naiveSum, withLabels } from './frames.ts';
import { type Bench, running } from './setup.ts';

const ok = (got: Received | undefined) => got?.cqe[0x1c];

describe('Toeplitz', () => {
  const table = toeplitzTable(rssKey);
  const ports = (source: number, destination: number) => [
    source >> 8,
    source & 255,
    destination >> 8,
    destination & 255,
  ];
  // "Verifying the RSS hash calculation", Microsoft: source, destination, ports, hash of addresses, hash with ports.
  const ipv4: [number[], number[], number, number, number, number][] = [
    [[66, 9, 149, 187], [161, 142, 100, 80], 2794, 1766, 0x323e8fc2, 0x51ccc178],
    [[199, 92, 111, 2], [65, 69, 140, 83], 14230, 4739, 0xd718262a, 0xc626b0ea],
    [[24, 19, 198, 95], [12, 22, 207, 184], 12898, 38024, 0xd2d0a5de, 0x5c2b394a],
    [[38, 27, 205, 30], [209, 142, 163, 6], 48228, 2217, 0x82989176, 0xafc7327f],
    [[153, 39, 163, 191], [202, 188, 127, 2], 44251, 1303, 0x5d1809c5, 0x10e828a2],
  ];
  it.each(ipv4)('hashes %j to %j as published', (source, destination, sport, dport, addresses, all) => {
    const input = Uint8Array.from([...source, ...destination, ...ports(sport, dport)]);
    expect(toeplitz(table, input, 8)).toBe(addresses);
    expect(toeplitz(table, input, 12)).toBe(all);
  });
  const v6 = (text: string) => [...Buffer.from(text, 'hex')];
  it('hashes IPv6 as published', () => {
    const vectors: [string, string, number, number, number, number][] = [
      [
        '3ffe250102001fff0000000000000007',
        '3ffe2501020000030000000000000001',
        2794,
        1766,
        0x2cc18cd5,
        0x40207d3d,
      ],
      [
        '3ffe050100080000026097fffe40efab',
        'ff020000000000000000000000000001',
        14230,
        4739,
        0x0f0c461c,
        0xdde51bbf,
      ],
      [
        '3ffe1900454500030200f8fffe2167cf',
        'fe800000000000000200f8fffe2167cf',
        44251,
        38024,
        0x4b61e985,
        0x02d1feef,
      ],
    ];
    for (const [source, destination, sport, dport, addresses, all] of vectors) {
      const input = Uint8Array.from([...v6(source), ...v6(destination), ...ports(sport, dport)]);
      expect(toeplitz(table, input, 32)).toBe(addresses);
      expect(toeplitz(table, input, 36)).toBe(all);
    }
  });
});

describe('symmetric hash', () => {
  const hashOf = (symmetric: boolean, frame: Buffer) => {
    const settings = {
      dispType: 1,
      inlineRqn: 0,
      indirectTable: 1,
      rxHashFn: 2,
      symmetric,
      key: rssKey,
      ipv6: frame[12] === 0x86,
      udp: false,
      selectedFields: 15,
      selfLoopback: 0,
      transportDomain: 1,
    };
    const info = new FrameInfo();
    const result = new RssResult();
    parseFrame(frame, frame.length, info);
    rssHash(new Tir(1, settings), frame, info, result);
    return result.hash;
  };

  it.each([4, 6] as const)('is the same for both directions of a flow over IPv%i', (ip) => {
    const low = ip === 4 ? [10, 1, 2, 3] : [...Buffer.alloc(16, 0x21)];
    const high = ip === 4 ? [172, 16, 9, 8] : [...Buffer.alloc(16, 0xfe)];
    const there = buildFrame({ ip, protocol: 'tcp', srcIp: low, dstIp: high, sport: 1234, dport: 80 });
    const back = buildFrame({ ip, protocol: 'tcp', srcIp: high, dstIp: low, sport: 80, dport: 1234 });
    expect(hashOf(true, there)).toBe(hashOf(true, back));
    expect(hashOf(false, there)).not.toBe(hashOf(false, back));
    const other = buildFrame({ ip, protocol: 'tcp', srcIp: low, dstIp: high, sport: 1235, dport: 80 });
    expect(hashOf(true, other)).not.toBe(hashOf(true, there));
  });
});

describe('receive', () => {
  it('spreads flows over channels by the published hash and reports it', () => {
    const { port, driver } = running(4);
    const frame = buildFrame({
      dst: driver.mac,
      protocol: 'tcp',
      srcIp: [66, 9, 149, 187],
      dstIp: [161, 142, 100, 80],
      sport: 2794,
      dport: 1766,
    });
    port.inject(frame);
    for (let sport = 0; sport < 200; sport++) {
      port.inject(buildFrame({ dst: driver.mac, protocol: 'tcp', sport }));
      if (sport % 20 === 0) driver.poll();
    }
    driver.poll();
    const first = driver.received.find((got) => got.frame.equals(frame));
    expect(first?.cqe.readUInt32BE(0x0c)).toBe(0x51ccc178);
    expect(first?.channel).toBe((0x51ccc178 % 128) % 4);
    expect(first?.cqe[0x10]).toBe((1 << 2) | (1 << 6));
    expect(new Set(driver.received.map((got) => got.channel)).size).toBe(4);
    expect(driver.received).toHaveLength(201);
  });

  it('gives the sum of all behind the Ethernet header, and what is right, for every kind of frame', () => {
    const { port, driver } = running();
    for (const ip of [4, 6] as const) {
      for (const protocol of ['tcp', 'udp'] as const) {
        for (const size of [0, 1, 5, 100, 777, 1400]) {
          const frame = buildFrame({
            dst: driver.mac,
            ip,
            protocol,
            payload: Buffer.alloc(size, size),
            padTo: 90,
          });
          port.inject(frame);
          driver.poll();
          const got = driver.received.pop();
          expect(got?.frame).toEqual(frame);
          expect(got?.cqe.readUInt16BE(0x14)).toBe(naiveSum(frame.subarray(14)));
          expect(ok(got)).toBe(7);
          const wrong = Buffer.from(frame);
          const at = 14 + (ip === 4 ? 20 : 40) + 3;
          wrong[at] = (wrong[at] ?? 0) ^ 0x40;
          port.inject(wrong);
          driver.poll();
          const bad = driver.received.pop();
          expect(bad?.cqe.readUInt16BE(0x14)).toBe(naiveSum(wrong.subarray(14)));
          expect(ok(bad)).toBe(3);
        }
      }
    }
    const brokenIp = buildFrame({ dst: driver.mac });
    brokenIp[22] = 3;
    port.inject(brokenIp);
    const arp = Buffer.concat([
      broadcast,
      Buffer.from('020000000009', 'hex'),
      Buffer.from([8, 6]),
      Buffer.alloc(46, 1),
    ]);
    port.inject(arp);
    const fragment = buildFrame({ dst: driver.mac, payload: Buffer.alloc(100), checksums: false });
    fragment.writeUInt16BE(0x2000, 20);
    port.inject(fragment);
    // Says that it is longer than its packet, and has a sum over the frame's padding, too.
    const long = buildFrame({ dst: driver.mac, payload: Buffer.alloc(8, 1), padTo: 80 });
    long.writeUInt16BE(24, 38);
    long.writeUInt16BE(0, 40);
    const pseudo = Buffer.concat([long.subarray(26, 34), Buffer.from([0, 17, 0, 24])]);
    long.writeUInt16BE(~naiveSum(Buffer.concat([pseudo, long.subarray(34, 58)])) & 0xffff, 40);
    port.inject(long);
    // Cut off in the middle of what their IP headers promise.
    for (const ip of [4, 6] as const)
      port.inject(buildFrame({ dst: driver.mac, ip, payload: Buffer.alloc(100) }).subarray(0, 100));
    // What is behind labels is not looked at.
    port.inject(withLabels(buildFrame({ dst: driver.mac, payload: Buffer.alloc(100) }), 1));
    driver.poll();
    expect(driver.received.map((got) => ok(got))).toEqual([5, 1, 1, 3, 1, 1, 1]);
    expect(driver.received[1]?.cqe.readUInt16BE(0x14)).toBe(naiveSum(arp.subarray(14)));
  });

  it('strips, keeps and filters VLAN tags', () => {
    const { port, driver } = running();
    const spec = { dst: driver.mac, payload: Buffer.alloc(300, 4) };
    const tagged = buildFrame({ ...spec, vlan: { type: 0x8100, tci: 0x6007 } });
    port.inject(tagged);
    driver.poll();
    expect(driver.received).toEqual([]);
    driver.addVlan(7);
    port.inject(tagged);
    driver.poll();
    const stripped = driver.received.pop();
    const plain = buildFrame(spec);
    expect(stripped?.frame).toEqual(plain);
    expect((stripped?.cqe[0x1d] ?? 0) & 1).toBe(1);
    expect(stripped?.cqe.readUInt16BE(0x1e)).toBe(0x6007);
    expect(stripped?.cqe.readUInt16BE(0x14)).toBe(naiveSum(plain.subarray(14)));
    const rqn = driver.channels[0]?.rx.rqn ?? 0;
    driver.modifyRq(rqn, 1, 1, true);
    port.inject(tagged);
    driver.poll();
    const kept = driver.received.pop();
    expect(kept?.frame).toEqual(tagged);
    expect((kept?.cqe[0x1d] ?? 0) & 1).toBe(0);
    expect(kept?.cqe.readUInt16BE(0x14)).toBe(naiveSum(tagged.subarray(14)));
    // A change of something else leaves that as it is.
    driver.modifyRq(rqn, 1, 1);
    port.inject(tagged);
    driver.poll();
    expect(driver.received.pop()?.frame).toEqual(tagged);
  });

  it('sums what it delivers from byte 14 on, whichever tags stay in the frame', () => {
    const { port, driver } = running();
    driver.promisc(true);
    const spec = { dst: driver.mac, payload: Buffer.alloc(300, 4) };
    const tag = (type: number, tci: number) => Buffer.from([type >> 8, type & 255, tci >> 8, tci & 255]);
    const frameWith = (...tags: Buffer[]) => {
      const plain = buildFrame(spec);
      return Buffer.concat([plain.subarray(0, 12), ...tags, plain.subarray(12)]);
    };
    const customer = tag(0x8100, 7);
    const service = tag(0x88a8, 9);
    const cases = [[], [customer], [service], [service, customer], [customer, customer, service]];
    const rqn = driver.channels[0]?.rx.rqn ?? 0;
    for (const vsd of [false, true]) {
      driver.modifyRq(rqn, 1, 1, vsd);
      for (const tags of cases) {
        port.inject(frameWith(...tags));
        driver.poll();
        const got = driver.received.pop();
        const strips = !vsd && tags[0] === customer;
        expect(got?.frame).toEqual(frameWith(...(strips ? tags.slice(1) : tags)));
        expect(got?.cqe.readUInt16BE(0x14)).toBe(naiveSum(got?.frame.subarray(14) ?? Buffer.alloc(0)));
        // What is beyond the second tag is not looked at.
        expect(ok(got)).toBe(tags.length > 2 ? 1 : 7);
      }
    }
  });

  it('filters by address: unicast, broadcast, multicast, all-multi, promiscuous', () => {
    const { port, driver } = running();
    const other = Buffer.from('525400999999', 'hex');
    const group = Buffer.from('01005e000001', 'hex');
    const arrives = (dst: Buffer) => {
      port.inject(buildFrame({ dst }));
      driver.poll();
      return driver.received.splice(0).length === 1;
    };
    expect([driver.mac, broadcast, other, group].map(arrives)).toEqual([true, true, false, false]);
    driver.addMac(5, group);
    expect([other, group].map(arrives)).toEqual([false, true]);
    driver.deleteEntry('l2', 5);
    expect(arrives(group)).toBe(false);
    driver.allMulti(true);
    expect([other, group].map(arrives)).toEqual([false, true]);
    driver.allMulti(false);
    driver.promisc(true);
    expect([driver.mac, other, group].map(arrives)).toEqual([true, true, true]);
    driver.promisc(false);
    expect([driver.mac, other, group].map(arrives)).toEqual([true, false, false]);
  });

  it('drops what is longer than the MTU until that is raised', () => {
    const { port, driver } = running(1);
    driver.down();
    driver.up(1, { fragment: 4096, logFragments: 2 });
    const jumbo = buildFrame({ dst: driver.mac, payload: Buffer.alloc(8900, 6) });
    port.inject(jumbo);
    driver.poll();
    expect(driver.received).toEqual([]);
    driver.setMtu(9022);
    port.inject(jumbo);
    driver.poll();
    expect(driver.received.map((got) => got.frame)).toEqual([jumbo]);
  });

  it('lets frames wait for buffers at the port, then counts them as out of buffer', () => {
    const { host, device, port, driver } = running();
    const frame = buildFrame({ dst: driver.mac });
    for (let index = 0; index < 70; index++) port.inject(frame);
    expect(port.kept).toHaveLength(6);
    driver.poll();
    expect(port.kept).toHaveLength(0);
    driver.poll();
    expect(driver.received).toHaveLength(70);
    for (let index = 0; index < 70; index++) port.inject(frame);
    // A guest that gets no processor for a while has not given its queue up.
    host.advance(patienceNs - 100_000_000);
    expect(port.kept).toHaveLength(6);
    host.advance(200_000_000);
    expect(port.kept).toHaveLength(0);
    expect(device.core.counters.events.rxOutOfBuffer).toBe(6);
    expect(driver.stats().qCounter.readUInt32BE(0x30)).toBe(6);
    driver.poll();
    port.inject(frame);
    driver.poll();
    expect(driver.received).toHaveLength(135);
  });

  const tearDown: readonly [string, (made: Bench) => void][] = [
    ['TEARDOWN_HCA', ({ driver }) => driver.command('TEARDOWN_HCA')],
    ['a function level reset', ({ device }) => device.reset('flr')],
    [
      'a reset while it is held',
      ({ device, host }) => {
        host.mayInitiate = false;
        device.reset('client');
        host.runDeferred();
        host.mayInitiate = true;
        device.resume();
      },
    ],
  ];
  it.each(tearDown)('lets no frame wait for ever for a queue that is gone with %s', (_what, act) => {
    const made = running();
    const { host, port, driver } = made;
    host.holdsDeferred = true;
    const frame = buildFrame({ dst: driver.mac });
    while (port.inject(frame));
    port.inject(frame);
    driver.eventMode = false;
    act(made);
    host.runDeferred();
    expect(port.kept).toEqual([]);
    expect(port.inject(frame)).toBe(true);
  });

  it('does not ask a port for frames that is closed', () => {
    const { host, port, driver, device } = running();
    host.holdsDeferred = true;
    const frame = buildFrame({ dst: driver.mac });
    while (port.inject(frame));
    let asked = 0;
    port.ready = () => asked++;
    // Deferred before the end, and at the end.
    device.reset('flr');
    device.close();
    host.runDeferred();
    expect(asked).toBe(0);
  });

  it('does not count the time in which it stands still as time without buffers', () => {
    const { host, device, port, driver } = running();
    const frame = buildFrame({ dst: driver.mac });
    while (port.inject(frame));
    host.mayInitiate = false;
    device.quiesce();
    host.advance(2 * patienceNs);
    host.mayInitiate = true;
    device.resume();
    expect(port.kept).toHaveLength(1);
    driver.poll();
    expect(port.kept).toEqual([]);
    expect(device.core.counters.events.rxOutOfBuffer).toBe(0);
  });

  it('keeps true counters', () => {
    const { port, driver } = running();
    const unicast = buildFrame({ dst: driver.mac, payload: Buffer.alloc(200) });
    port.inject(unicast);
    port.inject(buildFrame({ dst: broadcast }));
    port.inject(buildFrame({ dst: Buffer.from('525400999999', 'hex') }));
    driver.send(unicast);
    driver.poll();
    const { vport, ieee } = driver.stats();
    const counter = (at: number) => [vport.readUInt32BE(at / 8 + 4), vport.readUInt32BE(at / 8 + 12)];
    expect(counter(0x480)).toEqual([1, unicast.length]);
    expect(counter(0x380)).toEqual([1, 60]);
    expect(counter(0x500)).toEqual([1, unicast.length]);
    expect(ieee.readUInt32BE(0x10 + 8 + 4)).toBe(1);
    expect(ieee.readUInt32BE(0x10 + 8 + 12)).toBe(3);
  });

  it('moderates events as MODIFY_CQ says', () => {
    const { host, device, port, driver } = running();
    const cqn = driver.channels[0]?.rx.cq.cqn ?? 0;
    const cq = device.core.cqs.table.get(cqn);
    cq.period = 50;
    cq.maxCount = 4;
    const frame = buildFrame({ dst: driver.mac });
    port.inject(frame);
    driver.poll();
    const fired = host.fired.length;
    port.inject(frame);
    port.inject(frame);
    expect(host.fired.length).toBe(fired);
    host.advance(60_000);
    expect(host.fired.length).toBe(fired + 1);
    driver.poll();
    for (let index = 0; index < 4; index++) port.inject(frame);
    expect(host.fired.length).toBe(fired + 2);
  });

  it('takes no WQEs from the doorbell record of a queue that its driver is about to recover', () => {
    const { device, port, driver } = running();
    const rx = driver.channels[0]?.rx ?? expect.fail('no queue');
    const frame = buildFrame({ dst: driver.mac });
    const arrives = () => {
      expect(port.inject(frame)).toBe(true);
      driver.poll();
      return driver.received.splice(0).map(({ cqe }) => cqe.readUInt16BE(0x3c));
    };
    expect([arrives(), arrives()]).toEqual([[0], [1]]);
    driver.modifyRq(rx.rqn, queueState.RDY, queueState.ERR);
    expect(arrives()).toEqual([]);
    driver.modifyRq(rx.rqn, queueState.ERR, queueState.RST);
    expect(arrives()).toEqual([]);
    driver.memory.writeUInt32BE(0, rx.dbr);
    driver.modifyRq(rx.rqn, queueState.RST, queueState.RDY);
    expect(arrives()).toEqual([]);
    expect(device.core.rqs.table.get(rx.rqn)).toMatchObject({ state: queueState.RDY, ci: 0, pi: 0 });
    driver.memory.writeUInt32BE(1, rx.dbr);
    expect(arrives()).toEqual([0]);
  });

  it('reports a frame for which a WQE has no room, and goes on with the next WQE', () => {
    const { device, port, driver } = running();
    const rx = driver.channels[0]?.rx ?? expect.fail('no queue');
    driver.setMtu(9022);
    const frame = buildFrame({ dst: driver.mac });
    port.inject(frame);
    port.inject(buildFrame({ dst: driver.mac, payload: Buffer.alloc(3000) }));
    port.inject(frame);
    driver.poll();
    const errors = driver.completions.filter((cqe) => (cqe[0x3f] ?? 0) >>> 4 === 14);
    expect(errors.map((cqe) => [cqe[0x37], cqe.readUInt16BE(0x3c)])).toEqual([[1, 1]]);
    expect(driver.received.map(({ cqe }) => cqe.readUInt16BE(0x3c))).toEqual([0, 2]);
    // Linux leaves a queue as it is after that.
    expect(device.core.rqs.table.get(rx.rqn).state).toBe(queueState.RDY);
    expect(driver.stats().qCounter.readUInt32BE(0x78)).toBe(1);
  });

  it('puts the queue in error for a WQE whose key is not good, and reports it', () => {
    const { device, port, driver } = running();
    const rx = driver.channels[0]?.rx ?? expect.fail('no queue');
    driver.memory.writeUInt32BE(0x4242, rx.ring + 4);
    port.inject(buildFrame({ dst: driver.mac }));
    driver.poll();
    expect(driver.completions.map((cqe) => [(cqe[0x3f] ?? 0) >>> 4, cqe[0x37]]).at(-1)).toEqual([14, 4]);
    expect(device.core.rqs.table.get(rx.rqn).state).toBe(queueState.ERR);
  });
});
