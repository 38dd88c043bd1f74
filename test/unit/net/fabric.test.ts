/** The switch's data path without sockets: who gets a frame, what waits, what is dropped and counted. */
import { describe, expect, test } from 'vitest';
import { RECORD_HEADER, recordLength } from '../../../src/net/frame-queue.ts';
import { Fabric } from '../../../src/net/switch/fabric.ts';
import { Member } from '../../../src/net/switch/member.ts';
import { type RawArea, rawArea } from '../../../src/posix/index.ts';

const limits = { frames: 3, bytes: 10_000 };
const broadcast = 'ffffffffffff';

/** A port that takes as many frames as it has room for. */
class FakeMember extends Member {
  readonly sent: number[] = [];
  room = Number.POSITIVE_INFINITY;
  wants = false;

  protected override transmit(area: RawArea, start: number, end: number): number {
    let at = start;
    while (at < end && this.room > 0) {
      this.room--;
      this.sent.push(area.bytes.readUInt8(at + RECORD_HEADER + 14));
      at += RECORD_HEADER + recordLength(area.bytes, at);
    }
    this.countOut(area.bytes, start, at);
    return at - start;
  }

  protected override wantRoom(on: boolean): void {
    this.wants = on;
  }

  override notify(): void {}
  override disconnect(): void {}

  taken(): number[] {
    return this.sent.splice(0);
  }
}

function records(...frames: readonly Buffer[]): { area: RawArea; length: number } {
  const bytes = Buffer.concat(
    frames.flatMap((frame) => {
      const header = Buffer.alloc(RECORD_HEADER);
      header.writeUInt32BE(frame.length);
      return [header, frame];
    }),
  );
  const area = rawArea(65536);
  area.bytes.set(bytes);
  return { area, length: bytes.length };
}

/** A frame that `mark` tells from others. */
function frame(to: string, from: string, mark: number, length = 60): Buffer {
  const bytes = Buffer.alloc(Math.max(length, 15), 0);
  Buffer.from(to + from, 'hex').copy(bytes);
  bytes[14] = mark;
  return bytes.subarray(0, length);
}

function fabric(count: number) {
  const made = new Fabric({ entries: 64, ageSeconds: 300, perPort: 16 }, () => 0);
  const ports = Array.from(
    { length: count },
    (_, number) => new FakeMember(number, `port ${number}`, limits),
  );
  for (const port of ports) made.add(port);
  const receive = (from: number, ...frames: readonly Buffer[]): void => {
    const { area, length } = records(...frames);
    made.receive(ports[from] ?? expect.fail('no port'), area, length, () => expect.fail('no frame'));
  };
  return { fabric: made, ports, receive, taken: () => ports.map((port) => port.taken()) };
}

const a = '02000000000a';
const b = '02000000000b';

describe('a frame', () => {
  test('goes to all ports but its own, and once known to one; never back to where it came from', () => {
    const { receive, taken } = fabric(3);
    receive(0, frame(broadcast, a, 1));
    expect(taken()).toEqual([[], [1], [1]]);
    receive(1, frame(a, b, 2));
    expect(taken()).toEqual([[2], [], []]);
    receive(0, frame(a, a, 3));
    expect(taken()).toEqual([[], [], []]);
  });

  test('for the bridge itself goes to nobody and teaches nothing: a bond took the LACP of its own cards for a loop', () => {
    const { fabric: network, receive, taken } = fabric(2);
    for (const to of ['0180c2000000', '0180c2000002', '0180c200000f']) receive(0, frame(to, a, 1));
    expect(taken()).toEqual([[], []]);
    expect(network.table.size).toBe(0);
    for (const to of ['0180c2000010', '0180c2010002', '0180c2000102', '0380c2000002'])
      receive(0, frame(to, a, 2));
    expect(taken()).toEqual([[], [2, 2, 2, 2]]);
  });

  test('from a group address teaches nothing; one too short for addresses and type is dropped', () => {
    const { fabric: network, ports, receive, taken } = fabric(2);
    receive(0, frame(broadcast, '03000000000a', 1));
    expect([taken(), network.table.size]).toEqual([[[], [1]], 0]);
    receive(0, frame(broadcast, a, 2, 13), frame(broadcast, a, 3, 15));
    expect(taken()).toEqual([[], [3]]);
    expect(ports[0]?.stats).toMatchObject({ inFrames: 2, inBytes: 75, dropped: 1 });
  });

  test('is counted in frames, and in bytes without what the switch adds', () => {
    const { ports, receive } = fabric(2);
    receive(0, frame(broadcast, a, 1, 100), frame(broadcast, a, 2, 60));
    expect(ports[1]?.stats).toMatchObject({ outFrames: 2, outBytes: 160 });
  });

  test('is not taken from, and not given to, a port whose cable is pulled or that is in stand-by', () => {
    const { ports, receive, taken } = fabric(3);
    const [, pulled, spare] = ports;
    if (pulled === undefined || spare === undefined) throw new Error('no port');
    receive(1, frame(broadcast, a, 1));
    receive(2, frame(broadcast, b, 2));
    taken();
    pulled.link = false;
    spare.state = 'standby';
    receive(0, frame(broadcast, '020000000001', 3), frame(a, '020000000001', 4), frame(b, '020000000001', 5));
    receive(1, frame(broadcast, a, 6));
    receive(2, frame(broadcast, b, 7));
    expect(taken()).toEqual([[], [], []]);
    expect([pulled.stats.dropped, spare.stats.dropped]).toEqual([3, 2]);
  });
});

describe('a port without room', () => {
  test('has frames wait in order up to its limits, behind those that wait already; the others are counted', () => {
    const { ports, receive } = fabric(2);
    const slow = ports[1] ?? expect.fail('no port');
    slow.room = 1;
    receive(0, frame(broadcast, a, 1), frame(broadcast, a, 2));
    expect([slow.taken(), slow.queue.frames, slow.wants]).toEqual([[1], 1, true]);
    slow.room = 5;
    receive(0, frame(broadcast, a, 3));
    expect(slow.taken()).toEqual([]);
    receive(0, frame(broadcast, a, 4), frame(broadcast, a, 5));
    expect([slow.queue.frames, slow.stats.dropped]).toEqual([3, 1]);
    slow.room = 2;
    slow.drain();
    expect([slow.taken(), slow.wants]).toEqual([[2, 3], true]);
    slow.room = 2;
    slow.drain();
    expect([slow.taken(), slow.wants]).toEqual([[4], false]);
    receive(0, frame(broadcast, a, 6));
    expect(slow.taken()).toEqual([6]);
  });

  test('has the limits of a parked one until what was kept is gone, and its own again from then on', () => {
    const { ports, receive } = fabric(2);
    const port = ports[1] ?? expect.fail('no port');
    port.state = 'parked';
    port.queue.limits = { frames: 5, bytes: 10_000 };
    receive(0, ...[1, 2, 3, 4, 5, 6].map((mark) => frame(broadcast, a, mark)));
    expect([port.queue.frames, port.stats.parkDropped, port.stats.dropped]).toEqual([5, 1, 0]);
    port.drain();
    expect(port.taken()).toEqual([]);
    port.state = 'active';
    port.room = 2;
    port.drain();
    receive(0, ...[7, 8, 9].map((mark) => frame(broadcast, a, mark)));
    expect([port.queue.frames, port.stats.dropped]).toEqual([5, 1]);
    port.room = 5;
    port.drain();
    port.room = 0;
    receive(0, ...[10, 11, 12, 13].map((mark) => frame(broadcast, a, mark)));
    expect([port.queue.frames, port.stats.dropped]).toEqual([3, 2]);
  });

  test('leaves with what it had counted', () => {
    const { fabric: network, ports, receive } = fabric(2);
    const port = ports[1] ?? expect.fail('no port');
    port.link = false;
    receive(0, frame(broadcast, a, 1));
    network.remove(port);
    network.remove(port);
    expect(network.departed).toEqual({ inFrames: 0, outFrames: 0, dropped: 1, parkDropped: 0 });
  });
});
