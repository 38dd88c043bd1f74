import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../../src/log.ts';
import { createReactor, type Reactor } from '../../../src/loop/index.ts';
import { CapturedPort } from '../../../src/net/capture.ts';
import { NetError } from '../../../src/net/errors.ts';
import { openPort } from '../../../src/net/index.ts';
import { PcapWriter } from '../../../src/net/pcap.ts';
import { BasePort } from '../../../src/net/port.ts';

let directory: string;
let reactor: Reactor;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vc-pcap-'));
  reactor = createReactor({ busyWaitNs: 0 });
});
afterEach(() => {
  reactor.close();
  rmSync(directory, { recursive: true });
});
const path = () => join(directory, 'capture.pcap');

/** Reads a capture as the format says, independently of the writer. */
function parse(file: string) {
  const bytes = readFileSync(file);
  const header = {
    magic: bytes.readUInt32LE(0),
    version: [bytes.readUInt16LE(4), bytes.readUInt16LE(6)],
    zeros: [bytes.readUInt32LE(8), bytes.readUInt32LE(12)],
    snap: bytes.readUInt32LE(16),
    link: bytes.readUInt32LE(20),
  };
  const packets = [];
  let at = 24;
  while (at < bytes.length) {
    const [seconds, nanoseconds, captured, original] = [0, 4, 8, 12].map((o) => bytes.readUInt32LE(at + o));
    const length = captured ?? 0;
    packets.push({ seconds, nanoseconds, original, frame: bytes.subarray(at + 16, at + 16 + length) });
    at += 16 + length;
  }
  expect(at).toBe(bytes.length);
  return { header, packets };
}

/** A port that takes everything, and lets a test be the network. */
class LoopPort extends BasePort {
  readonly kind = 'none';
  constructor() {
    super({ reactor, log: silentLogger });
    this.setPeer(true);
  }
  send(): boolean {
    return this.sending;
  }
  ready(): void {}
  arrive(frame: Uint8Array): boolean {
    return this.deliver(frame);
  }
}

describe('capture', () => {
  test('file header and packets are laid out as the format says', () => {
    const writer = new PcapWriter(path(), () => 1_700_000_000_123.25);
    writer.write([Buffer.alloc(14, 1), Buffer.alloc(50, 2)], 64);
    writer.writeOne(Buffer.alloc(0xffff + 22, 3));
    writer.close();
    const { header, packets } = parse(path());
    expect(header).toEqual({ magic: 0xa1b23c4d, version: [2, 4], zeros: [0, 0], snap: 262144, link: 1 });
    expect(packets.map(({ frame }) => frame.length)).toEqual([64, 0xffff + 22]);
    expect(packets[0]).toMatchObject({ seconds: 1_700_000_000, nanoseconds: 123_250_000, original: 64 });
    expect([packets[0]?.frame[13], packets[0]?.frame[14]]).toEqual([1, 2]);
    expect(statSync(path()).mode & 0o777).toBe(0o600);
  });

  test('a capture into which another one is under way is shared, one that is over replaced', () => {
    const one = new PcapWriter(path());
    one.writeOne(Buffer.alloc(60, 1));
    one.flush();
    const other = new PcapWriter(path());
    other.writeOne(Buffer.alloc(60, 2));
    other.flush();
    one.writeOne(Buffer.alloc(60, 3));
    one.close();
    const third = new PcapWriter(path());
    other.writeOne(Buffer.alloc(60, 4));
    other.close();
    third.writeOne(Buffer.alloc(60, 5));
    third.close();
    expect(parse(path()).packets.map(({ frame }) => frame[0])).toEqual([1, 2, 3, 4, 5]);
    new PcapWriter(path()).close();
    expect(parse(path()).packets).toEqual([]);
  });

  test('many frames go through a small buffer', () => {
    const writer = new PcapWriter(path());
    for (let n = 0; n < 3000; n++) writer.writeOne(Buffer.alloc(60 + (n % 1000), n));
    writer.close();
    const { packets } = parse(path());
    expect(packets.map(({ frame }) => [frame.length, frame[0]])).toEqual(
      Array.from({ length: 3000 }, (_, n) => [60 + (n % 1000), n & 0xff]),
    );
  });

  test('both directions, each frame once, question before answer', () => {
    const inner = new LoopPort();
    const port = new CapturedPort(inner, new PcapWriter(path()), { reactor, log: silentLogger });
    let room = false;
    port.receive((frame) => {
      if (room) port.send([Buffer.from(frame).fill(9)], frame.length);
      return room;
    });
    const question = Buffer.alloc(60, 1);
    expect(inner.arrive(question)).toBe(false);
    expect(inner.arrive(question)).toBe(false);
    room = true;
    expect(inner.arrive(question)).toBe(true);
    port.setLink(false);
    expect(port.send([Buffer.alloc(60, 5)], 60)).toBe(false);
    port.close();
    expect(parse(path()).packets.map(({ frame }) => frame[0])).toEqual([1, 9]);
  });

  test('offers what the port inside offers', () => {
    for (const offered of [true, false]) {
      const inner = Object.assign(new LoopPort(), { offloads: offered, segmentsUdp: offered });
      const port = new CapturedPort(inner, new PcapWriter(path()), { reactor, log: silentLogger });
      expect([port.offloads, port.segmentsUdp]).toEqual([offered, offered]);
      port.close();
    }
  });

  test('tcpdump reads it, where there is one', (context) => {
    if (spawnSync('tcpdump', ['--version']).error !== undefined) context.skip('no tcpdump');
    const writer = new PcapWriter(path());
    writer.writeOne(Buffer.from(`ffffffffffff525400123456${'0806'}${'00'.repeat(46)}`, 'hex'));
    writer.close();
    const result = spawnSync('tcpdump', ['-r', path(), '-en'], { encoding: 'utf8' });
    expect(result.stdout).toContain('52:54:00:12:34:56 > ff:ff:ff:ff:ff:ff');
  });

  test('a place that can not be written is an error, one that fills up is not', () => {
    const context = { reactor, log: silentLogger };
    expect(() => openPort('none', { ...context, pcap: join(directory, 'no', 'x') })).toThrow(NetError);
    expect(() => openPort('none', { ...context, pcap: directory })).toThrow(
      /^can't write a capture to \S+: EISDIR$/,
    );
    const inner = new LoopPort();
    const port = new CapturedPort(inner, new PcapWriter('/dev/full'), context);
    const frame = Buffer.alloc(60_000);
    for (let n = 0; n < 20; n++) expect(port.send([frame], frame.length)).toBe(true);
    port.close();
  });

  test('none: link up, everything dropped and counted', () => {
    const port = openPort('none', { reactor, log: silentLogger });
    expect(port.linkUp).toBe(true);
    expect(port.send([Buffer.alloc(60)], 60)).toBe(false);
    expect(port.park()).toBe(false);
    port.announce(new Uint8Array(6));
    expect(port.stats.sendDropped).toBe(2);
    port.close();
  });
});
