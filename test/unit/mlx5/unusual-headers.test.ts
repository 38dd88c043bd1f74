/** What Linux sends now and then: headers longer than what is copied of every frame (SRv6 with many segments), many VLAN tags. */
import { describe, expect, it } from 'vitest';
import type { FrameOffload } from '../../../src/net/types.ts';
import { buildFrame, naiveSum, routedVia, routing } from './frames.ts';
import { running } from './setup.ts';

const peer = Buffer.from('020000000009', 'hex');
const via = Buffer.from('fd00000000000000000000000000beef', 'hex');
const macAndIp = 54;
const payload = Buffer.from(Array.from({ length: 301 }, (_, index) => index & 0xff));

const headerBytes = (segments: number, transport: number): number =>
  macAndIp + 8 + 16 * (segments + 1) + transport;

function finished(frame: Buffer, offload: FrameOffload | undefined): Buffer {
  if (offload === undefined) return frame;
  const done = Buffer.from(frame);
  const checksum = ~naiveSum(done.subarray(offload.checksumStart)) & 0xffff;
  done.writeUInt16BE(checksum, offload.checksumStart + offload.checksumOffset);
  return done;
}

// The transport header begins before, around and behind byte 256, and as far back as one WQE of the driver can have it.
const cases = [10, 11, 12, 13, 14, 30, 54].flatMap((segments) =>
  [false, true].map((offloads) => [segments, offloads] as const),
);

describe('headers with many segments', () => {
  it.each(cases)('%i: are summed to the end, also for a port that finishes (%s)', (segments, offloads) => {
    const { port, driver } = running();
    port.offloads = offloads;
    port.segmentsUdp = offloads;
    driver.setMtu(9022);
    for (const [protocol, transport] of [
      ['tcp', 20],
      ['udp', 8],
    ] as const) {
      const spec = { dst: peer, src: driver.mac, ip: 6, protocol, payload } as const;
      const routed = (checksums: boolean) =>
        routedVia(buildFrame({ ...spec, checksums }), via, routing.segments, 1, segments);
      // As the kernel has it: all headers in the first piece, and in pieces of any size.
      for (const pieces of [[], [14, 40, 300, 1], [headerBytes(segments, transport)]]) {
        driver.send(routed(false), { l3: true, l4: true, pieces });
        expect(finished(port.sent.pop() ?? expect.fail(), port.sentOffloads.pop())).toEqual(routed(true));
      }
    }
    driver.poll();
    expect(driver.completions.every((cqe) => (cqe[0x3f] ?? 0) >>> 4 === 0)).toBe(true);
  });

  it.each(cases.filter(([segments, offloads]) => segments < 54 && !offloads))(
    '%i: are the headers of each piece of what is cut',
    (segments) => {
      const { port, driver } = running();
      const spec = { dst: peer, src: driver.mac, ip: 6, protocol: 'tcp', sequence: 7, flags: 0x10 } as const;
      const whole = buildFrame({ ...spec, payload, checksums: false });
      const inline = headerBytes(segments, 20);
      driver.send(routedVia(whole, via, routing.segments, 1, segments), {
        l3: true,
        l4: true,
        mss: 200,
        inline,
      });
      driver.poll();
      expect(driver.completions.every((cqe) => (cqe[0x3f] ?? 0) >>> 4 === 0)).toBe(true);
      const parts = [payload.subarray(0, 200), payload.subarray(200)];
      expect(port.sent).toEqual(
        parts.map((part, index) => {
          const frame = buildFrame({ ...spec, sequence: 7 + 200 * index, payload: part });
          return routedVia(frame, via, routing.segments, 1, segments);
        }),
      );
    },
  );
});

/** The frame with so many tags: S-tag outermost. */
function tagged(frame: Buffer, count: number): Buffer {
  const tags = Array.from({ length: count }, (_, index) =>
    Buffer.from([...(index === 0 ? [0x88, 0xa8] : [0x81, 0x00]), 0, index + 1]),
  );
  return Buffer.concat([frame.subarray(0, 12), ...tags, frame.subarray(12)]);
}

describe('stacked VLAN tags', () => {
  it.each([1, 2, 3, 4, 8])('%i: checksums are made behind them', (count) => {
    const { port, driver } = running();
    for (const ip of [4, 6] as const) {
      const spec = { dst: peer, src: driver.mac, ip, payload } as const;
      driver.send(tagged(buildFrame({ ...spec, checksums: false }), count), { l3: true, l4: true });
      expect(port.sent.pop()).toEqual(tagged(buildFrame(spec), count));
      // Linux has the card insert the outermost where it may.
      const vlan = { type: 0x8001, tci: 1 } as const;
      const rest = tagged(buildFrame({ ...spec, checksums: false }), count);
      driver.send(Buffer.concat([rest.subarray(0, 12), rest.subarray(16)]), { l3: true, l4: true, vlan });
      expect(port.sent.pop()).toEqual(tagged(buildFrame(spec), count));
    }
  });
});

describe('GRE', () => {
  /** As Linux leaves it: a sum, not its complement, that says nothing here. */
  const unfinished = 0x1234;

  function inGre(flags: number, extra: Buffer, inner: Buffer): Buffer {
    const gre = Buffer.concat([Buffer.from([flags, 0, 8, 0]), extra, inner]);
    const outer = buildFrame({ dst: peer, protocol: 'icmp', checksums: false, padTo: 0 }).subarray(0, 34);
    outer.writeUInt16BE(20 + gre.length, 16);
    outer[23] = 47;
    outer.writeUInt16BE(~naiveSum(outer.subarray(14)) & 0xffff, 24);
    return Buffer.concat([outer, gre]);
  }

  it.each([60, 301, 1200])('has the checksum made that its header has, over %i bytes', (length) => {
    const { port, driver } = running();
    const inner = buildFrame({ payload: Buffer.alloc(length, 5) }).subarray(14);
    const checksum = Buffer.alloc(4);
    checksum.writeUInt16BE(unfinished, 0);
    driver.send(inGre(0x80, checksum, inner), { l3: true, l4: true });
    const sent = port.sent.pop() ?? expect.fail('nothing sent');
    expect(naiveSum(sent.subarray(34))).toBe(0xffff);
    expect(sent.subarray(0, 38)).toEqual(inGre(0x80, checksum, inner).subarray(0, 38));
    expect(sent.subarray(40)).toEqual(inGre(0x80, checksum, inner).subarray(40));
  });

  it('is left alone without one', () => {
    const { port, driver } = running();
    const frame = inGre(0x20, Buffer.from([0, 0, 0, 9]), buildFrame({}).subarray(14));
    driver.send(frame, { l3: true, l4: true });
    expect(port.sent.pop()).toEqual(frame);
  });
});
