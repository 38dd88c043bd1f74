import { describe, expect, it } from 'vitest';
import { limits } from '../../../device-models/mlx5/limits.ts';
import { segmentFlags } from '../../../device-models/mlx5/offload/transmit.ts';
import { errno, RequestError } from '../../../src/errors.ts';
import type { FrameOffload } from '../../../src/net/types.ts';
import {
  buildFrame,
  checksumsRight,
  type FrameSpec,
  naiveSum,
  routedVia,
  routing,
  withLabels,
} from './frames.ts';
import { running } from './setup.ts';

const peer = Buffer.from('020000000009', 'hex');

/** What a port makes of a frame whose checksum was left to it: the sum of all from where that begins, what is in the field included. */
function checksummed(frame: Buffer, { checksumStart, checksumOffset }: FrameOffload): Buffer {
  const done = Buffer.from(frame);
  const checksum = ~naiveSum(done.subarray(checksumStart)) & 0xffff;
  done.writeUInt16BE(checksum, checksumStart + checksumOffset);
  return done;
}

describe('transmit', () => {
  it.each([
    [4, 'udp'],
    [4, 'tcp'],
    [6, 'udp'],
    [6, 'tcp'],
  ] as const)('computes IPv%i %s checksums from scratch, whatever the pieces', (ip, protocol) => {
    const { port, driver } = running();
    for (const size of [0, 1, 18, 301, 1400]) {
      const payload = Buffer.alloc(size, size + 1);
      const spec = { dst: peer, src: driver.mac, ip, protocol, payload };
      const blank = buildFrame({ ...spec, checksums: false });
      for (const pieces of [[], [54], [61, 7, 333], [300, 1, 1]]) {
        driver.send(blank, { l3: true, l4: true, pieces });
        driver.poll();
        expect(port.sent.pop()).toEqual(buildFrame(spec));
      }
    }
  });

  it('leaves checksums alone that it was not asked for', () => {
    const { port, driver } = running();
    const blank = buildFrame({ dst: peer, src: driver.mac, checksums: false });
    driver.send(blank);
    expect(port.sent.pop()).toEqual(blank);
    expect(checksumsRight(blank)).toBe(false);
  });

  it('takes inline headers and pads short frames', () => {
    const { port, driver } = running();
    const frame = buildFrame({ dst: peer, src: driver.mac, payload: Buffer.from('abc'), padTo: 0 });
    for (const inline of [14, 18, 42]) driver.send(frame, { inline });
    expect(port.sent).toHaveLength(3);
    for (const sent of port.sent)
      expect(sent).toEqual(Buffer.concat([frame, Buffer.alloc(60 - frame.length)]));
  });

  it.each([
    [0x8000, 0x8100],
    [0x8001, 0x88a8],
  ] as const)('inserts a tag of kind 0x%s', (type, etherType) => {
    const { port, driver } = running();
    const spec = { dst: peer, src: driver.mac, payload: Buffer.alloc(500, 3) };
    driver.send(buildFrame({ ...spec, checksums: false }), {
      l3: true,
      l4: true,
      vlan: { type, tci: 0x2007 },
    });
    expect(port.sent.pop()).toEqual(buildFrame({ ...spec, vlan: { type: etherType, tci: 0x2007 } }));
  });

  it.each([4, 6] as const)('cuts TCP over IPv%i', (ip) => {
    const { port, driver } = running();
    const payload = Buffer.from(Array.from({ length: 5000 }, (_, index) => index & 0xff));
    const head = ip === 4 ? 54 : 74;
    const spec = {
      dst: peer,
      src: driver.mac,
      ip,
      protocol: 'tcp',
      flags: 0x99,
      sequence: 0xfffffff0,
    } as const;
    driver.send(buildFrame({ ...spec, payload, checksums: false }), {
      l3: true,
      l4: true,
      mss: 1448,
      inline: head,
      pieces: [1000, 3, 2000],
    });
    driver.poll();
    const cuts = [0, 1448, 2896, 4344, 5000];
    const expected = cuts.slice(0, -1).map((start, index) => {
      const flags = segmentFlags(0x99, index === 0, index === 3);
      const sequence = (0xfffffff0 + start) >>> 0;
      const frame = buildFrame({
        ...spec,
        flags,
        sequence,
        payload: payload.subarray(start, cuts[index + 1]),
      });
      if (ip === 6) return frame.toString('hex');
      // Only the identification counts up; its checksum follows.
      frame.writeUInt16BE(0x1234 + index, 18);
      frame.writeUInt16BE(0, 24);
      let sum = 0;
      for (let at = 14; at < 34; at += 2) sum += frame.readUInt16BE(at);
      while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
      frame.writeUInt16BE(~sum & 0xffff, 24);
      return frame.toString('hex');
    });
    expect(port.sent.map((frame) => frame.toString('hex'))).toEqual(expected);
    expect(driver.completions.at(-1)?.readUInt32BE(0x38)).toBe(
      (0x0e << 24) | (driver.channels[0]?.tx.sqn ?? 0),
    );
    expect(segmentFlags(0x99, true, false)).toBe(0x90);
    expect(segmentFlags(0x99, false, true)).toBe(0x19);
  });

  it.each([
    ['that does nothing', false],
    ['that cuts TCP only, as of an older kernel', true],
  ])('cuts UDP for a port %s', (_, offloads) => {
    const { port, driver } = running();
    port.offloads = offloads;
    const payload = Buffer.alloc(2500, 9);
    const spec = { dst: peer, src: driver.mac, protocol: 'udp' } as const;
    driver.send(buildFrame({ ...spec, payload, checksums: false }), {
      l3: true,
      l4: true,
      mss: 1000,
      inline: 42,
    });
    expect(port.sent.map((frame) => frame.length)).toEqual([1042, 1042, 542]);
    for (const frame of port.sent) expect(checksumsRight(frame)).toBe(true);
    expect(port.sent[2]?.readUInt16BE(38)).toBe(508);
  });

  it('hands checksums and segmentation to a port that can do them', () => {
    const { device, port, driver } = running();
    port.offloads = true;
    const payload = Buffer.alloc(5000, 5);
    const spec = { dst: peer, src: driver.mac, protocol: 'tcp', payload } as const;
    driver.send(buildFrame({ ...spec, checksums: false }), { l3: true, l4: true, mss: 1448, inline: 54 });
    expect(port.sent).toHaveLength(1);
    // Counted as what leaves in the end: four frames with headers of their own.
    expect(device.core.counters.vport.tx.packets[0]).toBe(4);
    expect(device.core.counters.vport.tx.octets[0]).toBe(5000 + 4 * 54);
    expect(port.sentOffloads[0]).toEqual({
      gsoType: 1,
      headerLength: 54,
      gsoSize: 1448,
      checksumStart: 34,
      checksumOffset: 16,
    });
  });

  const handedOver = ([4, 6] as const).flatMap((ip) =>
    (['tcp', 'udp'] as const).flatMap((protocol) =>
      ([undefined, 0x8100, 0x88a8] as const).map((tag) => [ip, protocol, tag] as const),
    ),
  );
  it.each(handedOver)(
    'hands an IPv%i %s frame over so that the port has all it needs, with tag %s',
    (ip, protocol, tag) => {
      const { port, driver } = running();
      port.offloads = true;
      port.segmentsUdp = true;
      const vlan = tag === undefined ? {} : { vlan: { type: tag, tci: 0x2007 } };
      const type = tag === 0x8100 ? 0x8000 : 0x8001;
      const insert = tag === undefined ? {} : ({ vlan: { type, tci: 0x2007 } } as const);
      const plain = 14 + (ip === 4 ? 20 : 40);
      const start = plain + (tag === undefined ? 0 : 4);
      const checksum = { checksumStart: start, checksumOffset: protocol === 'tcp' ? 16 : 6 };
      const specOf = (size: number) => {
        const payload = Buffer.from(Array.from({ length: size }, (_, index) => (index * 7) & 0xff));
        return { dst: peer, src: driver.mac, ip, protocol, payload } as const;
      };
      const blank = (spec: FrameSpec, transport: number): Buffer => {
        const frame = buildFrame({ ...spec, checksums: false, padTo: 0 });
        // What the guest leaves there does not matter.
        frame.writeUInt16BE(0xdead, transport + checksum.checksumOffset);
        return frame;
      };
      const expectSent = (spec: FrameSpec, what: object): void => {
        const [sent, offload] = [port.sent.pop(), port.sentOffloads.pop()];
        expect(offload).toEqual({ ...what, ...checksum });
        if (sent === undefined || offload === undefined) throw new Error('nothing was handed over');
        const whole = buildFrame({ ...spec, ...vlan, padTo: tag === undefined ? 60 : 64 });
        expect(checksummed(sent, offload).toString('hex')).toBe(whole.toString('hex'));
      };
      for (const size of [0, 1, 301, 1400]) {
        const spec = specOf(size);
        driver.send(blank(spec, plain), { l3: true, l4: true, ...insert });
        expectSent(spec, { gsoType: 0, headerLength: 0, gsoSize: 0 });
      }
      const gsoType = protocol === 'udp' ? 5 : ip === 4 ? 1 : 4;
      const headerLength = start + (protocol === 'udp' ? 8 : 20);
      for (const size of [1001, 2500, 5003]) {
        const spec = specOf(size);
        // A send with inline headers has no place for a tag to be inserted: it is among them.
        const frame = blank({ ...spec, ...vlan }, start);
        // Lengths are the card's to fill in.
        frame.writeUInt16BE(0, start - (ip === 4 ? 18 : 36));
        if (protocol === 'udp') frame.writeUInt16BE(0, start + 4);
        driver.send(frame, { l3: true, l4: true, mss: 1000, inline: headerLength, pieces: [333, 1] });
        expectSent(spec, { gsoType, headerLength, gsoSize: 1000 });
      }
    },
  );

  it('does not hand a checksum over to a port that would take in what is behind the packet', () => {
    const { port, driver } = running();
    port.offloads = true;
    const spec = { dst: peer, src: driver.mac, payload: Buffer.alloc(100, 3) };
    const tail = Buffer.from('tail');
    driver.send(Buffer.concat([buildFrame({ ...spec, checksums: false }), tail]), { l3: true, l4: true });
    expect(port.sent).toEqual([Buffer.concat([buildFrame(spec), tail])]);
    expect(port.sentOffloads).toEqual([undefined]);
  });

  const labelled = [1, 2, 30].flatMap((labels) =>
    ([4, 6] as const).flatMap((ip) => [false, true].map((offloads) => [labels, ip, offloads] as const)),
  );
  it.each(labelled)(
    'checksums and cuts behind %i MPLS labels over IPv%i, also for a port that could (%s)',
    (labels, ip, offloads) => {
      const { port, driver } = running();
      port.offloads = offloads;
      const labelBytes = 4 * labels;
      const spec = { dst: peer, src: driver.mac, ip } as const;
      const withoutLabels = (sent: Buffer) =>
        Buffer.concat([
          sent.subarray(0, 12),
          Buffer.from(ip === 4 ? [8, 0] : [0x86, 0xdd]),
          sent.subarray(14 + labelBytes),
        ]);
      for (const protocol of ['udp', 'tcp'] as const) {
        const whole = { ...spec, protocol, payload: Buffer.alloc(301, 7) };
        driver.send(withLabels(buildFrame({ ...whole, checksums: false }), labels), { l3: true, l4: true });
        expect(port.sent.pop()).toEqual(withLabels(buildFrame(whole), labels));
        const payload = Buffer.from(Array.from({ length: 3300 }, (_, index) => index & 0xff));
        const head = 14 + labelBytes + (ip === 4 ? 20 : 40) + (protocol === 'udp' ? 8 : 20);
        driver.send(withLabels(buildFrame({ ...spec, protocol, payload, checksums: false }), labels), {
          l3: true,
          l4: true,
          mss: 1000,
          inline: head,
        });
        const sent = port.sent.splice(0);
        expect(sent.map((frame) => frame.length - head)).toEqual([1000, 1000, 1000, 300]);
        expect(Buffer.concat(sent.map((frame) => frame.subarray(head)))).toEqual(payload);
        for (const frame of sent) {
          expect(checksumsRight(withoutLabels(frame))).toBe(true);
          expect(frame.subarray(0, 14 + labelBytes)).toEqual(
            withLabels(buildFrame(spec), labels).subarray(0, 14 + labelBytes),
          );
        }
      }
      expect(port.sentOffloads.every((offload) => offload === undefined)).toBe(true);
    },
  );

  const via = Buffer.from('fd00000000000000000000000000beef', 'hex');
  const routed = [routing.segments, routing.home].flatMap((type) =>
    ([0, 1] as const).flatMap((left) => [false, true].map((offloads) => [type, left, offloads] as const)),
  );
  it.each(routed)(
    'sums the address where a packet ends that has a routing header of type %i and %i more to pass, also for a port that finishes (%s)',
    (type, left, offloads) => {
      const { port, driver } = running();
      port.offloads = offloads;
      port.segmentsUdp = offloads;
      const finished = (index: number) => {
        const sent = port.sent[index] ?? expect.fail('nothing sent');
        const offload = port.sentOffloads[index];
        return offload === undefined ? sent : checksummed(sent, offload);
      };
      for (const protocol of ['udp', 'tcp'] as const) {
        port.sent.length = 0;
        port.sentOffloads.length = 0;
        const spec = { dst: peer, src: driver.mac, ip: 6, protocol } as const;
        const whole = { ...spec, payload: Buffer.alloc(301, 7) };
        const send = (frame: Buffer, options: { mss?: number; inline?: number }) =>
          driver.send(routedVia(frame, via, type, left), { l3: true, l4: true, ...options });
        send(buildFrame({ ...whole, checksums: false }), {});
        expect(finished(0)).toEqual(routedVia(buildFrame(whole), via, type, left));
        // So short that the card does it all.
        const inline = 54 + (type === routing.home ? 24 : 40) + (protocol === 'udp' ? 8 : 20);
        send(buildFrame({ ...whole, checksums: false }), { mss: 1000, inline });
        expect(finished(1)).toEqual(routedVia(buildFrame(whole), via, type, left));
      }
    },
  );

  it('sums the last address of the first of two routing headers when the second has none to pass', () => {
    const { port, driver } = running();
    const spec = { dst: peer, src: driver.mac, ip: 6, payload: Buffer.alloc(301, 7) } as const;
    const twice = (frame: Buffer) => routedVia(routedVia(frame, via, routing.home, 0), via, routing.segments);
    driver.send(twice(buildFrame({ ...spec, checksums: false })), { l3: true, l4: true });
    expect(port.sent).toEqual([twice(buildFrame(spec))]);
  });

  it('inserts a tag before MPLS labels', () => {
    const { port, driver } = running();
    const spec = { dst: peer, src: driver.mac, payload: Buffer.alloc(100, 3) };
    const vlan = { type: 0x8000, tci: 7 } as const;
    driver.send(withLabels(buildFrame({ ...spec, checksums: false }), 1), { l3: true, l4: true, vlan });
    const plain = withLabels(buildFrame(spec), 1);
    const tag = Buffer.from([0x81, 0, 0, 7]);
    expect(port.sent).toEqual([Buffer.concat([plain.subarray(0, 12), tag, plain.subarray(12)])]);
  });

  it('leaves alone what is behind labels and no IP packet, or behind too many, and cuts none of it', () => {
    const { port, driver } = running();
    const blank = buildFrame({ dst: peer, src: driver.mac, payload: Buffer.alloc(200, 1), checksums: false });
    const other = withLabels(blank, 1);
    other[18] = 0x05;
    const frames = [other, withLabels(blank, 31), withLabels(blank, 3, false)];
    for (const frame of frames) {
      driver.send(frame, { l3: true, l4: true });
      expect(port.sent.pop()).toEqual(frame);
    }
    driver.send(other, { l3: true, l4: true, mss: 100, inline: 46 });
    driver.poll();
    expect((driver.completions.at(-1)?.[0x3f] ?? 0) >>> 4).toBe(13);
    expect(port.sent).toEqual([]);
  });

  it('reports a bad WQE, stops the queue, flushes what is behind, and recovers', () => {
    const { port, driver } = running();
    const sq = driver.channels[0]?.tx;
    if (sq === undefined) throw new Error('no queue');
    const frame = buildFrame({ dst: peer, src: driver.mac });
    driver.build(sq, frame, { lkey: 0x4242 });
    driver.build(sq, frame);
    driver.build(sq, frame);
    const last = sq.pc - 1;
    driver.ring(sq);
    driver.poll();
    const errors = driver.completions.filter((cqe) => (cqe[0x3f] ?? 0) >>> 4 === 13);
    expect(errors.map((cqe) => [cqe[0x37], cqe.readUInt16BE(0x3c)])).toEqual([
      [4, 0],
      [5, last],
    ]);
    expect(port.sent).toEqual([]);
    expect(driver.querySqState(sq)).toBe(3);
    driver.build(sq, frame);
    driver.ring(sq);
    driver.poll();
    expect(driver.completions.at(-1)?.[0x37]).toBe(5);
    driver.modifySq(sq, 3, 0);
    sq.pc = 0;
    driver.modifySq(sq, 0, 1);
    driver.send(frame);
    expect(port.sent).toEqual([frame]);
  });

  it('refuses each kind of malformed WQE with an error completion', () => {
    const cases: [string, (wqe: Buffer) => void][] = [
      ['opcode', (wqe) => wqe.writeUInt8(0x25, 3)],
      ['other queue', (wqe) => wqe.writeUInt32BE(0x99999901, 4)],
      ['no length', (wqe) => wqe.writeUInt8(0, 7)],
      ['longer than the queue', (wqe) => wqe.writeUInt8(63, 7)],
      ['inline header beyond the WQE', (wqe) => wqe.writeUInt16BE(0x3ff, 28)],
      ['address beyond all memory', (wqe) => wqe.writeUInt32BE(0xffffffff, 40)],
      ['unmapped address', (wqe) => wqe.writeUInt32BE(5, 40)],
      ['byte count 0', (wqe) => wqe.writeUInt32BE(0, 32)],
      ['byte count 2 GiB', (wqe) => wqe.writeUInt32BE(0x7fffffff, 32)],
      ['inline data beyond the WQE', (wqe) => wqe.writeUInt32BE(0x80000100, 32)],
      ['LSO without headers', (wqe) => wqe.writeUInt8(0x0e, 3)],
      [
        'LSO with a tag in place of headers',
        (wqe) => wqe.writeUInt16BE(0x8000, wqe.writeUInt8(0x0e, 3) + 24),
      ],
    ];
    for (const [what, spoil] of cases) {
      const { port, driver } = running();
      const sq = driver.channels[0]?.tx;
      if (sq === undefined) throw new Error('no queue');
      driver.build(sq, buildFrame({ dst: peer, src: driver.mac }));
      spoil(driver.memory.subarray(sq.ring, sq.ring + 64));
      driver.ring(sq);
      driver.poll();
      expect([what, driver.completions.at(-1)?.[0x3f] ?? 0]).toEqual([what, expect.any(Number)]);
      expect([what, (driver.completions.at(-1)?.[0x3f] ?? 0) >>> 4]).toEqual([what, 13]);
      expect([what, driver.querySqState(sq)]).toEqual([what, 3]);
      expect(port.sent).toEqual([]);
    }
  });

  it.each([
    ['that can not be read', 0],
    ['of which there are more than the queue holds', 1000],
  ])('reports a block %s as itself, not as the WQE before it', (_what, beyond) => {
    const { driver, host } = running();
    const sq = driver.createSq(driver.channels[0]?.tx.cq ?? expect.fail('no CQ'), driver.tis, 7);
    // Of several blocks, and another opcode than the next.
    const long = buildFrame({ protocol: 'tcp', payload: Buffer.alloc(200) });
    const options = { mss: 100, inline: 54, pieces: new Array(10).fill(20) };
    driver.build(sq, long, options);
    driver.ring(sq);
    driver.poll();
    const index = sq.pc;
    driver.build(sq, buildFrame({ dst: peer }));
    driver.build(sq, long, options);
    sq.pc += beyond;
    const { dma } = host;
    const read = dma.read.bind(dma);
    let refusals = beyond === 0 ? 1 : 0;
    dma.read = (iova, target) => {
      if (iova === sq.ring + index * 64 && refusals-- > 0) throw new RequestError(errno.EFAULT, 'not there');
      read(iova, target);
    };
    driver.ring(sq);
    driver.poll();
    const errors = driver.completions.filter((cqe) => (cqe[0x3f] ?? 0) >>> 4 === 13);
    const reported = errors.map((cqe) => ({ opcode: cqe[0x38], index: cqe.readUInt16BE(0x3c) }));
    const flushed = beyond === 0 ? [{ opcode: 0x0e, index: index + 1 }] : [];
    expect(reported).toEqual([{ opcode: 0, index }, ...flushed]);
  });

  it('lets others have a turn while it cuts much into tiny segments', () => {
    const { driver, port, host } = running();
    const sq = driver.channels[0]?.tx;
    if (sq === undefined) throw new Error('no queue');
    const payload = 3000;
    const frame = buildFrame({ protocol: 'tcp', payload: Buffer.alloc(payload) });
    for (let index = 0; index < 8; index++) driver.build(sq, frame, { mss: 1, inline: 54 });
    driver.ring(sq);
    expect(port.sent.length).toBeLessThan(limits.sendBurstFrames + payload);
    host.advance(1_000);
    expect(port.sent.length).toBe(8 * payload);
  });

  it.each([
    ['one byte', 1],
    ['no', 0],
  ])('lets others have a turn among LSOs of %s payload, which are frames too', (_what, payload) => {
    const { driver, port, host } = running();
    const sq = driver.createSq(driver.channels[0]?.tx.cq ?? expect.fail('no CQ'), driver.tis, 12);
    const frame = buildFrame({ protocol: 'tcp', payload: Buffer.alloc(payload) });
    const count = limits.sendBurstFrames + 500;
    for (let left = count; left > 0; left--) {
      driver.build(sq, frame, { mss: 1448, inline: 54, signalled: false });
    }
    driver.ring(sq);
    expect(port.sent.length).toBe(limits.sendBurstFrames);
    host.advance(1_000);
    expect(port.sent.length).toBe(count);
  });

  it('goes around the ring many times, with multi-block WQEs', () => {
    const { port, driver } = running();
    const frame = buildFrame({ dst: peer, src: driver.mac, payload: Buffer.alloc(700, 1) });
    for (let round = 0; round < 200; round++) {
      driver.send(frame, { pieces: round % 3 === 0 ? [100, 100, 100, 100, 100] : [] });
      driver.poll();
    }
    expect(port.sent).toHaveLength(200);
    expect(port.sent.every((sent) => sent.equals(frame))).toBe(true);
  });

  it('lets the event for sent frames wait for company, where the driver wants moderation', () => {
    const { host, device, driver } = running();
    const frame = buildFrame({ dst: peer, src: driver.mac });
    const cq = device.core.cqs.table.get(driver.channels[0]?.tx.cq.cqn ?? 0);
    const send = (): number => {
      const before = host.fired.length;
      driver.send(frame);
      return host.fired.length - before;
    };
    expect(send()).toBe(1);
    driver.poll();
    cq.period = 16;
    cq.maxCount = 4;
    const fired = host.fired.length;
    expect([send(), send()]).toEqual([0, 0]);
    host.advance(150_000);
    expect(host.fired.length).toBe(fired + 1);
    driver.poll();
    expect([send(), send(), send(), send()]).toEqual([0, 0, 0, 1]);
    driver.poll();
    // Seen while something else was handled: no event, and no shorter wait for what comes next.
    send();
    host.advance(100_000);
    device.core.cqs.arm(cq.id, cq.pi, false);
    send();
    host.advance(100_000);
    expect(host.fired.length).toBe(fired + 2);
    host.advance(50_000);
    expect(host.fired.length).toBe(fired + 3);
  });
});
