/** Where headers end: lengths that a frame claims, at their limits and beyond. */
import { describe, expect, it } from 'vitest';
import { FrameInfo, parseFrame, parseSentFrame } from '../../../device-models/mlx5/frame/parse.ts';
import { checkReceived, ReceiveChecksum } from '../../../device-models/mlx5/frame/transport-checksum.ts';
import { buildFrame, naiveSum } from './frames.ts';
import { running } from './setup.ts';

const peer = Buffer.from('020000000009', 'hex');
const l3 = 14;
const { tcp, udp } = { tcp: 6, udp: 17 } as const;

interface Ipv4 {
  /** Words of the IP header, its claim included. */
  readonly words?: number;
  readonly version?: number;
  /** Added to the total length that is right. */
  readonly longer?: number;
  readonly fragment?: number;
  readonly protocol?: number;
  /** Words that the TCP header claims, and bytes that are there from its start. */
  readonly tcpWords?: number;
  readonly transportBytes?: number;
  readonly padding?: number;
}

/** An IPv4 frame of claims. */
function ipv4(spec: Ipv4): Buffer {
  const words = spec.words ?? 5;
  const ip = Buffer.alloc(Math.max(20, 4 * words), 1);
  const transport = Buffer.alloc(spec.transportBytes ?? 28, 2);
  if (transport.length > 12) transport[12] = (spec.tcpWords ?? 5) << 4;
  ip[0] = ((spec.version ?? 4) << 4) | words;
  ip.writeUInt16BE(ip.length + transport.length + (spec.longer ?? 0), 2);
  ip.writeUInt16BE(spec.fragment ?? 0x4000, 6);
  ip[9] = spec.protocol ?? tcp;
  const head = Buffer.concat([peer, peer, Buffer.from([8, 0])]);
  return Buffer.concat([head, ip, transport, Buffer.alloc(spec.padding ?? 0)]);
}

function parsed(frame: Buffer): FrameInfo {
  const info = new FrameInfo();
  parseFrame(frame, frame.length, info);
  return info;
}

/** IP version, protocol, start, kind and length of the transport header. */
function found(frame: Buffer): number[] {
  const { ip, protocol, l4Offset, l4, l4HeaderLength } = parsed(frame);
  return [ip, protocol, l4Offset, l4, l4HeaderLength];
}

const nothing = [0, 0, 0, 0, 0];

describe('an IPv4 header', () => {
  const cases: readonly [string, Ipv4, number[]][] = [
    ['without options', {}, [4, tcp, l3 + 20, tcp, 20]],
    ['with one word of options', { words: 6 }, [4, tcp, l3 + 24, tcp, 20]],
    ['as long as can be', { words: 15 }, [4, tcp, l3 + 60, tcp, 20]],
    ['shorter than can be', { words: 4 }, nothing],
    ['of another version', { version: 5 }, nothing],
    ['whose packet ends with it', { transportBytes: 0 }, [4, tcp, l3 + 20, 0, 0]],
    ['whose packet ends inside it', { transportBytes: 0, longer: -1 }, nothing],
    [
      'whose packet ends inside its options',
      { words: 7, transportBytes: 0, longer: -1, padding: 20 },
      nothing,
    ],
    ['whose packet is longer than the frame', { longer: 1 }, nothing],
    ['with padding behind the packet', { padding: 6 }, [4, tcp, l3 + 20, tcp, 20]],
    ['of the first fragment', { fragment: 0x2000 }, [4, tcp, 0, 0, 0]],
    ['of the last fragment', { fragment: 0x0001 }, [4, tcp, 0, 0, 0]],
    ['of a fragment far behind', { fragment: 0x1000 }, [4, tcp, 0, 0, 0]],
    ['that must not be fragmented', { fragment: 0x4000 }, [4, tcp, l3 + 20, tcp, 20]],
    ['with the reserved bit', { fragment: 0x8000 }, [4, tcp, l3 + 20, tcp, 20]],
    ['of another protocol', { protocol: 1 }, [4, 1, l3 + 20, 0, 0]],
  ];
  it.each(cases)('%s', (_what, spec, expected) => {
    expect(found(ipv4(spec))).toEqual(expected);
  });

  it('that is cut off is none, however long its packet says it is', () => {
    const frame = ipv4({ words: 15, transportBytes: 0 });
    expect(parsed(frame).ip).toBe(4);
    for (const length of [l3 + 19, l3 + 20, l3 + 59]) {
      const info = new FrameInfo();
      // As of a frame of which no more than that has been copied.
      parseSentFrame(frame.subarray(0, length), length, frame.length, info, false);
      expect(info.ip).toBe(0);
    }
  });

  it('ends its packet where it says, not at the end of the frame', () => {
    expect(parsed(ipv4({ padding: 6 })).ipEnd).toBe(l3 + 48);
    expect(parsed(ipv4({ padding: 6, longer: 6 })).ipEnd).toBe(l3 + 54);
  });

  it('of a template ends it at the end of the frame', () => {
    const info = new FrameInfo();
    const frame = ipv4({ longer: -30 });
    parseSentFrame(frame, frame.length, 3000, info, true);
    expect([info.ip, info.ipEnd, info.l4]).toEqual([4, 3000, tcp]);
  });
});

describe('a TCP header', () => {
  const cases: readonly [string, Ipv4, number][] = [
    ['without options', { tcpWords: 5, transportBytes: 20 }, 20],
    ['a byte short', { tcpWords: 5, transportBytes: 19 }, 0],
    ['a byte short, with padding behind the packet', { tcpWords: 5, transportBytes: 20, longer: -1 }, 0],
    ['shorter than can be', { tcpWords: 4 }, 0],
    ['with options, to the end of the packet', { tcpWords: 7, transportBytes: 28 }, 28],
    ['with options beyond the packet', { tcpWords: 8, transportBytes: 28, padding: 8 }, 0],
    ['as long as can be', { tcpWords: 15, transportBytes: 61 }, 60],
  ];
  it.each(cases)('%s', (_what, spec, length) => {
    expect(found(ipv4(spec)).slice(3)).toEqual(length === 0 ? [0, 0] : [tcp, length]);
  });
});

it.each([
  [8, udp],
  [7, 0],
])('a UDP header of %i bytes', (transportBytes, l4) => {
  expect(found(ipv4({ protocol: udp, transportBytes }))[3]).toBe(l4);
});

const extension = { hopByHop: 0, routing: 43, fragment: 44, options: 60 } as const;

/** An IPv6 frame with these extension headers of 8 or more bytes, and UDP. */
function ipv6(headers: readonly (readonly [number, number])[], longer = 0, version = 6): Buffer {
  const kinds = [...headers.map(([kind]) => kind), udp];
  const ip = Buffer.alloc(40);
  ip[0] = version << 4;
  ip[6] = kinds[0] ?? udp;
  const chain = headers.map(([, bytes], index) => {
    const header = Buffer.alloc(bytes);
    header[0] = kinds[index + 1] ?? udp;
    header[1] = bytes / 8 - 1;
    return header;
  });
  const rest = Buffer.concat([...chain, Buffer.alloc(8, 5)]);
  ip.writeUInt16BE(rest.length + longer, 4);
  return Buffer.concat([peer, peer, Buffer.from([0x86, 0xdd]), ip, rest]);
}

describe('an IPv6 header', () => {
  const start = l3 + 40;
  const many = (count: number) => new Array<[number, number]>(count).fill([extension.options, 8]);
  const cases: readonly [string, Buffer, number[]][] = [
    ['alone', ipv6([]), [6, udp, start, udp, 8]],
    ['of another version', ipv6([], 0, 5), nothing],
    ['whose packet is longer than the frame', ipv6([], 1), nothing],
    ['whose transport header is cut off', ipv6([], -1), [6, udp, start, 0, 0]],
    ['with hop-by-hop options', ipv6([[extension.hopByHop, 16]]), [6, udp, start + 16, udp, 8]],
    ['with destination options', ipv6([[extension.options, 24]]), [6, udp, start + 24, udp, 8]],
    ['with a routing header', ipv6([[extension.routing, 8]]), [6, udp, start + 8, udp, 8]],
    ['of a fragment', ipv6([[extension.fragment, 8]]), [6, udp, 0, 0, 0]],
    ['with as many extensions as are looked at', ipv6(many(8)), [6, udp, start + 64, udp, 8]],
    ['with more', ipv6(many(9)), [6, extension.options, start + 64, 0, 0]],
    [
      'whose packet ends before its extension',
      ipv6([[extension.options, 8]], -9),
      [6, extension.options, start, 0, 0],
    ],
    ['whose packet ends with its extension', ipv6([[extension.options, 8]], -8), [6, udp, start + 8, 0, 0]],
    ['whose packet ends inside its extension', ipv6([[extension.options, 16]], -9), [6, udp, 0, 0, 0]],
  ];
  it.each(cases)('%s', (_what, frame, expected) => {
    expect(found(frame)).toEqual(expected);
  });

  it('of a fragment has one of 8 bytes, whatever its second byte is', () => {
    const frame = ipv6([
      [extension.fragment, 8],
      [extension.options, 8],
    ]);
    frame[start + 1] = 7;
    expect([parsed(frame).protocol, parsed(frame).fragment]).toEqual([udp, true]);
  });
});

describe('addresses and tags', () => {
  it.each([
    ['ffffffffffff', 2],
    ['fffffffffffe', 1],
    ['0fffffffffff', 1],
    ['feffffffffff', 0],
  ] as const)('to %s is a cast of %i', (address, cast) => {
    const frame = ipv4({});
    Buffer.from(address, 'hex').copy(frame);
    expect(parsed(frame).cast).toBe(cast);
  });

  it('looks behind two tags of what is received, and takes a tag that is cut off for none', () => {
    const plain = ipv4({});
    const tagged = (count: number) =>
      Buffer.concat([
        plain.subarray(0, 12),
        ...Array.from({ length: count }, (_, index) => Buffer.from([0x81, 0, 0, index])),
        plain.subarray(12),
      ]);
    expect([0, 1, 2, 3].map((count) => parsed(tagged(count)).vlanTags)).toEqual([0, 1, 2, 2]);
    expect([1, 2, 3].map((count) => parsed(tagged(count)).ip)).toEqual([4, 4, 0]);
    const short = tagged(1).subarray(0, 18);
    expect([parsed(short).vlanTags, parsed(short).etherType]).toEqual([1, 0x0800]);
    expect(parsed(short.subarray(0, 17)).vlanTags).toBe(0);
  });
});

/** `frame` with so many words of options in its IPv4 header, all checksums right. */
function withOptions(frame: Buffer, words: number): Buffer {
  const header = Buffer.concat([frame.subarray(l3, l3 + 20), Buffer.alloc(4 * words, 1)]);
  header[0] = 0x40 | (5 + words);
  header.writeUInt16BE(header.readUInt16BE(2) + 4 * words, 2);
  header.writeUInt16BE(0, 10);
  header.writeUInt16BE(~naiveSum(header) & 0xffff, 10);
  return Buffer.concat([frame.subarray(0, l3), header, frame.subarray(l3 + 20)]);
}

function checked(frame: Buffer): [boolean, boolean] {
  const result = new ReceiveChecksum();
  checkReceived(frame, parsed(frame), result);
  return [result.l3Ok, result.l4Ok];
}

describe('checksums of a packet with IPv4 options', () => {
  const plain = buildFrame({ protocol: 'tcp', payload: Buffer.alloc(101, 7), padTo: 0 });
  const frame = withOptions(plain, 3);

  it('are of the whole header, when it is received', () => {
    expect(checked(frame)).toEqual([true, true]);
    const damaged = Buffer.from(frame);
    damaged[l3 + 21] = 2;
    expect(checked(damaged)).toEqual([false, true]);
    const fragment = Buffer.from(frame);
    fragment.writeUInt16BE(0x2000, l3 + 6);
    expect(checked(fragment)).toEqual([false, false]);
    fragment.writeUInt16BE(0, l3 + 10);
    fragment.writeUInt16BE(~naiveSum(fragment.subarray(l3, l3 + 32)) & 0xffff, l3 + 10);
    expect(checked(fragment)).toEqual([true, false]);
  });

  it('are of the whole header, when it is sent', () => {
    const { port, driver } = running();
    const blank = Buffer.from(frame);
    blank.writeUInt16BE(0xdead, l3 + 10);
    blank.writeUInt16BE(0xbeef, l3 + 32 + 16);
    driver.send(blank, { l3: true, l4: true });
    expect(port.sent).toEqual([frame]);
    driver.send(blank, { l4: true });
    expect(port.sent[1]?.readUInt16BE(l3 + 10)).toBe(0xdead);
  });

  it('and lengths are right in every segment that is cut of it', () => {
    const { port, driver } = running();
    const headers = l3 + 32 + 20;
    driver.send(frame, { mss: 40, inline: headers, l3: true, l4: true });
    expect(port.sent.map((sent) => sent.length - headers)).toEqual([40, 40, 21]);
    for (const [index, sent] of port.sent.entries()) {
      expect(sent.readUInt16BE(l3 + 2)).toBe(sent.length - l3);
      expect(sent.readUInt32BE(l3 + 32 + 4)).toBe(1 + 40 * index);
      expect(checked(sent)).toEqual([true, true]);
    }
  });
});

describe('the checksum of UDP', () => {
  const datagram = (length: number, ip: 4 | 6 = 4): Buffer => {
    const frame = buildFrame({ protocol: 'udp', ip, payload: Buffer.alloc(20, 9), padTo: 0 });
    const l4 = l3 + (ip === 4 ? 20 : 40);
    frame.writeUInt16BE(length, l4 + 4);
    frame.writeUInt16BE(0, l4 + 6);
    const addresses = ip === 4 ? frame.subarray(l3 + 12, l3 + 20) : frame.subarray(l3 + 8, l3 + 40);
    const pseudo = Buffer.concat([addresses, Buffer.from([0, udp, length >> 8, length & 0xff])]);
    const sum = naiveSum(Buffer.concat([pseudo, frame.subarray(l4, l4 + length)]));
    frame.writeUInt16BE(~sum & 0xffff, l4 + 6);
    return frame;
  };
  it('is of as much as its header claims', () => {
    expect([28, 27, 8].map((length) => checked(datagram(length))[1])).toEqual([true, true, true]);
  });

  it('is not right for a claim of less than a header, or of more than there is', () => {
    expect([7, 29].map((length) => checked(datagram(length))[1])).toEqual([false, false]);
  });

  it('is not right for a claim that leaves its own field out, even where the sum is', () => {
    const frame = datagram(6);
    const l4 = l3 + 20;
    frame.writeUInt16BE(0x1234, l4 + 6);
    frame.writeUInt16BE(0, l4);
    const pseudo = Buffer.concat([frame.subarray(l3 + 12, l3 + 20), Buffer.from([0, udp, 0, 6])]);
    frame.writeUInt16BE(~naiveSum(Buffer.concat([pseudo, frame.subarray(l4, l4 + 6)])) & 0xffff, l4);
    expect(checked(frame)).toEqual([true, false]);
  });

  it('may be missing with IPv4 alone', () => {
    const missing = (ip: 4 | 6) => {
      const frame = datagram(28, ip);
      frame.writeUInt16BE(0, l3 + (ip === 4 ? 26 : 46));
      return checked(frame)[1];
    };
    expect([missing(4), missing(6)]).toEqual([true, false]);
  });
});

describe('what is sent', () => {
  const bench = running();
  const { driver, port } = bench;
  const sq = () => driver.channels[0]?.tx ?? expect.fail('no queue');

  /** Frames that left, or the syndrome of the error; the queue is as new afterwards. */
  const send = (frame: Buffer, options: Parameters<typeof driver.send>[1] = {}): number | Buffer[] => {
    driver.completions.length = 0;
    driver.send(frame, options);
    bench.host.advance(1_000_000);
    driver.poll();
    const failure = driver.completions.find((cqe) => (cqe[0x3f] ?? 0) >>> 4 === 13);
    const frames = port.sent.splice(0);
    if (failure === undefined) return frames;
    driver.modifySq(sq(), 3, 0);
    sq().pc = 0;
    driver.modifySq(sq(), 0, 1);
    return failure[0x37] ?? 0;
  };
  const lengths = (result: number | Buffer[]) =>
    typeof result === 'number' ? result : result.map((frame) => frame.length);
  const [lengthError, operationError] = [1, 2];
  const tcpHeaders = l3 + 40;
  const headers = buildFrame({ protocol: 'tcp', padTo: 0 });
  // Lengths in the headers say nothing yet of what is cut.
  const segment = (payload: number) => Buffer.concat([headers, Buffer.alloc(payload, 3)]);

  it('is as long as a frame may be, and no longer; not shorter than its addresses and type', () => {
    expect(lengths(send(Buffer.alloc(10_000, 2)))).toEqual([10_000]);
    expect(send(Buffer.alloc(10_001, 2))).toBe(lengthError);
    expect(lengths(send(Buffer.alloc(14, 2)))).toEqual([60]);
    expect(send(Buffer.alloc(13, 2))).toBe(lengthError);
  });

  it('is cut into segments as long as a frame may be, and no longer', () => {
    const mss = 10_000 - tcpHeaders;
    expect(lengths(send(segment(mss + 1), { mss, inline: tcpHeaders }))).toEqual([10_000, 60]);
    expect(send(segment(mss + 1), { mss: mss + 1, inline: tcpHeaders })).toBe(lengthError);
  });

  it('is cut into no more segments than a WQE may make', () => {
    port.accepting = false;
    expect(send(segment(16 * 1024), { mss: 1, inline: tcpHeaders })).toEqual([]);
    expect(send(segment(16 * 1024 + 1), { mss: 1, inline: tcpHeaders })).toBe(lengthError);
    port.accepting = true;
  });

  it('is cut behind its headers, or not at all', () => {
    const frame = segment(100);
    expect(lengths(send(frame, { mss: 100, inline: tcpHeaders }))).toEqual([tcpHeaders + 100]);
    expect(send(frame, { mss: 100, inline: tcpHeaders + 1 })).toBe(operationError);
    expect(send(frame, { mss: 100, inline: tcpHeaders - 1 })).toBe(operationError);
    frame[l3 + 20 + 12] = 0x60;
    expect(send(frame, { mss: 100, inline: tcpHeaders })).toBe(operationError);
  });

  it('is left whole to a port that cuts, as long as IP can say how long it is', () => {
    port.offloads = true;
    const longest = 65_535 - 40;
    expect(lengths(send(segment(longest), { mss: 9000, inline: tcpHeaders }))).toEqual([
      tcpHeaders + longest,
    ]);
    expect(lengths(send(segment(longest + 1), { mss: 9000, inline: tcpHeaders }))).toHaveLength(8);
    port.offloads = false;
  });

  it.each([
    ['udp', 6, 0xffff],
    ['tcp', 16, 0],
  ] as const)('has a checksum of 0 as %s has it', (protocol, offset, expected) => {
    const frame = buildFrame({ protocol, payload: Buffer.alloc(100) });
    const l4 = l3 + 20;
    // A payload that takes the sum to where its complement is 0.
    frame.writeUInt16BE(frame.readUInt16BE(l4 + offset), frame.length - 2);
    const [sent] = send(frame, { l4: true }) as Buffer[];
    expect(sent?.readUInt16BE(l4 + offset)).toBe(expected);
  });
});
