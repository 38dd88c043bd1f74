import { describe, expect, test } from 'vitest';
import { limitsOf } from '../../../src/cli/switch.ts';
import { MAX_FRAME } from '../../../src/net/ethernet.ts';
import { FrameQueue, RECORD_HEADER, recordKind, recordLength } from '../../../src/net/frame-queue.ts';

const plenty = { frames: 1e6, bytes: 1e8 };
const frame = (length: number, fill: number) => Buffer.alloc(length, fill);

function drain(queue: FrameQueue): { kind: number; body: Buffer }[] {
  const found = [];
  while (queue.length > 0) {
    const { bytes } = queue.area;
    const length = recordLength(bytes, queue.head);
    const start = queue.head + RECORD_HEADER;
    found.push({
      kind: recordKind(bytes, queue.head),
      body: Buffer.from(bytes.subarray(start, start + length)),
    });
    queue.consume(RECORD_HEADER + length);
  }
  return found;
}

describe('frame queue', () => {
  test('keeps frames in order, given in pieces, beyond its first memory', () => {
    const queue = new FrameQueue(plenty);
    for (let index = 0; index < 500; index++)
      expect(queue.push([frame(100, index), frame(900, index + 1)], 1000)).toBe(true);
    expect(queue.frames).toBe(500);
    const all = drain(queue);
    expect(all.map(({ body }) => [body.length, body[0], body[999]])).toEqual(
      Array.from({ length: 500 }, (_, index) => [1000, index & 0xff, (index + 1) & 0xff]),
    );
    expect(queue.frames).toBe(0);
  });

  test('refuses what goes beyond either bound, and takes it again when there is room', () => {
    const byFrames = new FrameQueue({ frames: 2, bytes: 1000 });
    expect([1, 2, 3].map((n) => byFrames.push([frame(10, n)], 10))).toEqual([true, true, false]);
    byFrames.consume(RECORD_HEADER + 10);
    expect(byFrames.push([frame(10, 4)], 10)).toBe(true);
    expect(drain(byFrames).map(({ body }) => body[0])).toEqual([2, 4]);
    const byBytes = new FrameQueue({ frames: 1000, bytes: 100 });
    expect(byBytes.push([frame(97, 1)], 97)).toBe(false);
    expect(byBytes.push([frame(96, 1)], 96)).toBe(true);
    expect(byBytes.push([frame(0, 1)], 0)).toBe(false);
  });

  test('refuses pieces that are not as long as said', () => {
    const queue = new FrameQueue(plenty);
    expect(queue.push([frame(10, 1)], 9)).toBe(false);
    expect(queue.push([frame(10, 1)], 11)).toBe(false);
    expect(queue.length).toBe(0);
  });

  test('a stream may take any number of bytes', () => {
    for (let step = 1; step < 40; step++) {
      const queue = new FrameQueue({ frames: 100, bytes: 70_000 });
      const sent: Buffer[] = [];
      let pushed = 0;
      for (let round = 0; round < 60; round++) {
        if (queue.push([frame(round % 17, round)], round % 17)) pushed++;
        const take = Math.min(step, queue.length);
        sent.push(Buffer.from(queue.area.bytes.subarray(queue.head, queue.head + take)));
        queue.consume(take);
      }
      while (queue.length > 0) {
        sent.push(Buffer.from(queue.area.bytes.subarray(queue.head, queue.head + 1)));
        queue.consume(1);
      }
      const stream = Buffer.concat(sent);
      let at = 0;
      for (let index = 0; index < pushed; index++) {
        expect(stream.readUInt32BE(at)).toBe(index % 17);
        at += RECORD_HEADER + (index % 17);
      }
      expect(at).toBe(stream.length);
      expect(queue.frames).toBe(0);
    }
  });

  test('memory grows and moves while the first record is half gone', () => {
    const queue = new FrameQueue({ frames: 1000, bytes: 300_000 });
    queue.push([frame(50_000, 1)], 50_000);
    queue.consume(30_000);
    for (let index = 0; index < 4; index++) queue.push([frame(40_000, index + 2)], 40_000);
    expect(queue.frames).toBe(5);
    queue.consume(RECORD_HEADER + 20_000);
    expect(queue.frames).toBe(4);
    expect(drain(queue).map(({ body }) => [body.length, body[0]])).toEqual(
      [2, 3, 4, 5].map((n) => [40_000, n]),
    );
  });

  test('runs end at record boundaries', () => {
    const queue = new FrameQueue(plenty);
    for (const length of [10, 20, 30]) queue.push([frame(length, 1)], length);
    expect([13, 14, 37, 38, 71, 72, 1000].map((most) => queue.run(most))).toEqual([
      0, 14, 14, 38, 38, 72, 72,
    ]);
  });

  test('appends another queue as far as it fits, kinds kept', () => {
    const first = new FrameQueue({ frames: 3, bytes: 1000 });
    first.push([frame(4, 1)], 4, 1);
    const second = new FrameQueue(plenty);
    for (const n of [2, 3, 4]) second.push([frame(4, n)], 4, n);
    expect(first.append(second)).toBe(1);
    expect(second.length).toBe(0);
    expect(drain(first).map(({ kind, body }) => [kind, body[0]])).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
  });

  test('with the limit that a user gives the switch in frames, has room for so many jumbo frames, or for one of any length', () => {
    const queue = new FrameQueue(limitsOf(100));
    const jumbo = frame(9018, 1);
    for (let index = 0; index < 100; index++) expect(queue.push([jumbo], jumbo.length)).toBe(true);
    expect(queue.push([jumbo], jumbo.length)).toBe(false);
    expect(new FrameQueue(limitsOf(1)).push([frame(MAX_FRAME, 1)], MAX_FRAME)).toBe(true);
  });
});
