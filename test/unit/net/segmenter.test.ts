import { describe, expect, test } from 'vitest';
import { Segmenter } from '../../../src/net/segmenter.ts';
import { icmpEcho, internetChecksum, udpDatagram } from '../../../src/net/testing/packets.ts';

const START = 10;
const payload = Buffer.from(Array.from({ length: 5000 }, (_, n) => (n * 31) & 0xff));

interface Shape {
  tags: number;
  /** EtherType of the first tag. */
  outer?: number;
  version: 4 | 6;
  options: number;
  /** 32-bit words of the IPv4 header. */
  words?: number;
  /** Behind a routing header, with another address to pass before the last. */
  routed?: true;
}

/**
 * A TCP segment over one of the shapes, flags CWR|ACK|PSH|FIN. Of its checksum a kernel has left what it sums of the
 * pseudo header, and of the IP header's nothing.
 */
function tcpFrame({ tags, outer = 0x8100, version, options, words = 5, routed }: Shape) {
  const head = Buffer.alloc(12 + 4 * tags + 2);
  for (let tag = 0; tag < tags; tag++) head.writeUInt32BE(0x81000005 + tag, 12 + 4 * tag);
  if (tags > 0) head.writeUInt16BE(outer, 12);
  head.writeUInt16BE(version === 4 ? 0x0800 : 0x86dd, head.length - 2);
  const tcp = Buffer.alloc(20 + options, 1);
  tcp.writeUInt32BE(0xfffff000, 4);
  tcp[12] = (tcp.length / 4) << 4;
  tcp[13] = 0x80 | 0x10 | 0x08 | 0x01;
  const network = Buffer.alloc(version === 4 ? 4 * words : 40, 0x11);
  if (version === 4) {
    network[0] = 0x40 | words;
    network[9] = 6;
    network.writeUInt16BE(0xfffe, 4);
  } else network[6] = routed ? 43 : 6;
  const destination = Buffer.from('fd000000000000000000000000000777', 'hex');
  const routing = routed
    ? Buffer.concat([Buffer.from([6, 2, 2, 1, 0, 0, 0, 0]), destination])
    : Buffer.alloc(0);
  const addresses = Buffer.from(version === 4 ? network.subarray(12, 20) : network.subarray(8));
  if (routed) destination.copy(addresses, 16);
  const pseudo = Buffer.concat([addresses, Buffer.from([0, 6, 0, 0])]);
  pseudo.writeUInt16BE(tcp.length + payload.length, pseudo.length - 2);
  tcp.writeUInt16BE(~internetChecksum(pseudo) & 0xffff, 16);
  const frame = Buffer.concat([head, network, routing, tcp, payload]);
  const transport = head.length + network.length + routing.length;
  const offload = {
    gsoType: version === 4 ? 1 : 4,
    headerLength: transport + tcp.length,
    gsoSize: 0,
    checksumStart: transport,
    checksumOffset: 16,
  };
  return { frame, offload, addresses, network: head.length, transport, headers: transport + tcp.length };
}

function load(frame: Buffer): { bytes: Buffer; segmenter: Segmenter } {
  const bytes = Buffer.alloc(70_000);
  bytes.set(frame, START);
  return { bytes, segmenter: new Segmenter(bytes) };
}

function all(bytes: Buffer, segmenter: Segmenter): Buffer[] {
  const frames: Buffer[] = [];
  for (let length = segmenter.next(); length > 0; length = segmenter.next())
    frames.push(Buffer.from(bytes.subarray(segmenter.at, segmenter.at + length)));
  return frames;
}

describe('segmenter', () => {
  const tagged = [{ tags: 0 }, ...[1, 2].flatMap((tags) => [{ tags }, { tags, outer: 0x88a8 }])];
  const networks = [
    { version: 4 },
    { version: 4, words: 7 },
    { version: 6 },
    { version: 6, routed: true },
  ] as const;
  const shapes: Shape[] = tagged.flatMap((tags) =>
    networks.flatMap((network) => [0, 12].map((options) => ({ ...tags, ...network, options }))),
  );
  test.each(shapes)('cuts %o into frames that are right in every field', (shape) => {
    for (const gsoSize of [536, 1447, 1448, 4999, 5000, 9000]) {
      const { frame, offload, addresses, network, transport, headers } = tcpFrame(shape);
      const { bytes, segmenter } = load(frame);
      expect(segmenter.begin(START, frame.length, { ...offload, gsoSize })).toBe(true);
      const frames = all(bytes, segmenter);
      expect(frames.length).toBe(Math.ceil(payload.length / gsoSize));
      expect(Buffer.concat(frames.map((piece) => piece.subarray(headers))).equals(payload)).toBe(true);
      for (const [index, piece] of frames.entries()) {
        const last = index === frames.length - 1;
        expect(piece.subarray(0, network)).toEqual(frame.subarray(0, network));
        expect(piece.readUInt32BE(transport + 4)).toBe((0xfffff000 + index * gsoSize) % 2 ** 32);
        expect(piece[transport + 13]).toBe(0x10 | (index === 0 ? 0x80 : 0) | (last ? 0x09 : 0));
        const pseudo = Buffer.alloc(4);
        pseudo.writeUInt16BE(piece.length - transport, 2);
        pseudo[1] = 6;
        const v4 = shape.version === 4;
        const tcp = piece.subarray(transport);
        expect(internetChecksum(Buffer.concat([addresses, pseudo, tcp]))).toBe(0);
        if (v4) {
          expect(internetChecksum(piece.subarray(network, network + 4 * (shape.words ?? 5)))).toBe(0);
          expect(piece.readUInt16BE(network + 2)).toBe(piece.length - network);
          expect(piece.readUInt16BE(network + 4)).toBe((0xfffe + index) & 0xffff);
        } else expect(piece.readUInt16BE(network + 4)).toBe(piece.length - network - 40);
      }
    }
  });

  test('fills in a missing checksum, also where it begins at an odd place', () => {
    for (const size of [0, 1, 2, 101]) {
      const ends = { source: Buffer.from([10, 0, 0, 1]), destination: Buffer.from([10, 0, 0, 2]) };
      const whole = udpDatagram(ends, 5, 6, Buffer.alloc(size, 0xab));
      for (const head of [34, 35]) {
        const unfinished = Buffer.from(whole);
        const pseudo = Buffer.concat([ends.source, ends.destination, Buffer.from([0, 17, 0, whole.length])]);
        unfinished.writeUInt16BE(~internetChecksum(pseudo) & 0xffff, 6);
        const frame = Buffer.concat([Buffer.alloc(head), unfinished]);
        const { bytes, segmenter } = load(frame);
        const offload = { gsoType: 0, headerLength: 0, gsoSize: 0, checksumStart: head, checksumOffset: 6 };
        expect(segmenter.begin(START, frame.length, offload)).toBe(true);
        const [only, ...rest] = all(bytes, segmenter);
        expect(rest).toEqual([]);
        expect(only?.subarray(head)).toEqual(whole);
      }
    }
    expect(internetChecksum(icmpEcho(8, 1, 1, Buffer.alloc(3)))).toBe(0);
  });

  test.each([
    ['an unknown kind of segmentation', { gsoType: 3 }],
    ['no segment size', { gsoSize: 0 }],
    ['a transport header inside the network header', { checksumStart: 30 }],
    ['a transport header beyond the end', { checksumStart: 65_000 }],
    ['a checksum beyond the end', { gsoType: 0, checksumOffset: 65_000 }],
    ['a checksum in the Ethernet header', { gsoType: 0, checksumStart: 0 }],
  ])('refuses %s', (_, change) => {
    const { frame, offload } = tcpFrame({ tags: 0, version: 4, options: 0 });
    const { bytes, segmenter } = load(frame);
    expect(segmenter.begin(START, frame.length, { ...offload, gsoSize: 1000, ...change })).toBe(false);
    expect(all(bytes, segmenter)).toEqual([]);
  });

  test('refuses a kind of segmentation that is none of TCP, whatever the frame', () => {
    const { frame, offload } = tcpFrame({ tags: 0, version: 6, options: 0 });
    const { segmenter } = load(frame);
    expect(segmenter.begin(START, frame.length, { ...offload, gsoType: 3, gsoSize: 1000 })).toBe(false);
  });

  test.each([
    [4, 33, false],
    [4, 34, true],
    [6, 53, false],
    [6, 54, true],
  ] as const)('with IPv%i takes a TCP header at byte %i: %s', (version, checksumStart, taken) => {
    const { frame, offload } = tcpFrame({ tags: 0, version, options: 0 });
    frame[checksumStart + 12] = 0x50;
    const { segmenter } = load(frame);
    expect(segmenter.begin(START, frame.length, { ...offload, gsoSize: 1000, checksumStart })).toBe(taken);
  });

  test('takes headers of 512 bytes, and no longer ones, nor such as are longer than the frame', () => {
    const begin = (checksumStart: number, words: number, more: number): boolean => {
      const frame = Buffer.alloc(checksumStart + 20 + more);
      frame.writeUInt16BE(0x86dd, 12);
      frame[checksumStart + 12] = words << 4;
      const { segmenter } = load(frame);
      const offload = { gsoType: 4, headerLength: 0, gsoSize: 100, checksumStart, checksumOffset: 16 };
      return segmenter.begin(START, frame.length, offload);
    };
    expect([begin(492, 5, 1000), begin(493, 5, 1000), begin(492, 6, 1000)]).toEqual([true, false, false]);
    expect([begin(54, 15, 40), begin(54, 15, 39)]).toEqual([true, false]);
  });

  test('fills in a checksum that ends with the frame, and none that ends behind it', () => {
    const frame = Buffer.alloc(100, 1);
    const begin = (checksumStart: number): boolean => {
      const offload = { gsoType: 0, headerLength: 0, gsoSize: 0, checksumStart, checksumOffset: 6 };
      return load(frame).segmenter.begin(START, frame.length, offload);
    };
    expect([begin(92), begin(93)]).toEqual([true, false]);
  });

  test.each([
    ['UDP', 6, 0xffff],
    ['TCP', 16, 0],
  ] as const)('fills in a sum of 0 as %s has it', (_what, checksumOffset, expected) => {
    const frame = Buffer.alloc(80);
    frame.writeUInt16BE(0xffff, 60);
    const { bytes, segmenter } = load(frame);
    const offload = { gsoType: 0, headerLength: 0, gsoSize: 0, checksumStart: 34, checksumOffset };
    expect(segmenter.begin(START, frame.length, offload)).toBe(true);
    expect(all(bytes, segmenter)[0]?.readUInt16BE(34 + checksumOffset)).toBe(expected);
  });

  test('refuses a data offset that is too small', () => {
    const { frame, offload, transport } = tcpFrame({ tags: 0, version: 6, options: 0 });
    frame[transport + 12] = 0x40;
    const { segmenter } = load(frame);
    expect(segmenter.begin(START, frame.length, { ...offload, gsoSize: 1000 })).toBe(false);
  });
});
