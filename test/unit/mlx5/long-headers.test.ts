/** Frames whose headers are longer than what is copied of every frame: SRv6 with many segments. */
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
