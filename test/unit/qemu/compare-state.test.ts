import { describe, expect, it } from 'vitest';
import { compareStates, type StateReader } from '../../../src/qemu/switchover/compare-state.ts';

/** A saved state of `bytes`, handed out `piece` bytes at a time whatever is asked for. */
class FakeState implements StateReader {
  readonly maxTransfer = 4096;
  at = 0;
  /** Called before each read. */
  onRead: () => void = () => undefined;
  readonly #bytes: Buffer;
  readonly #piece: number;

  constructor(bytes: Buffer, piece: number) {
    this.#bytes = bytes;
    this.#piece = piece;
  }

  async read(maxBytes: number): Promise<Buffer> {
    expect(maxBytes).toBeLessThanOrEqual(this.maxTransfer);
    this.onRead();
    const chunk = this.#bytes.subarray(this.at, this.at + Math.min(maxBytes, this.#piece));
    this.at += chunk.length;
    return chunk;
  }
}

const length = 100_000;
const state = Buffer.from(Array.from({ length }, (_, index) => (index * 7 + (index >> 8)) & 0xff));

function altered(at: number): Buffer {
  const bytes = Buffer.from(state);
  bytes[at] = (bytes[at] ?? 0) ^ 0xff;
  return bytes;
}

function compare(one: Buffer, other: Buffer, pieces: readonly [number, number] = [4096, 4096]) {
  return compareStates(new FakeState(one, pieces[0]), new FakeState(other, pieces[1]));
}

describe('two saved states', () => {
  it.each<[number, number]>([
    [4096, 4096],
    [4096, 1000],
    [333, 4096],
    [7, 5],
  ])('are equal however they come (pieces of %d and %d bytes)', async (...pieces) => {
    expect(await compare(state, Buffer.from(state), pieces)).toEqual({
      sourceLength: length,
      destinationLength: length,
      difference: undefined,
    });
  });

  it.each([0, 1, 4095, 4096, 50_000, length - 1])('differ at byte %d', async (at) => {
    for (const pieces of [[4096, 4096] as const, [4096, 777] as const, [100, 4096] as const])
      expect(await compare(state, altered(at), pieces)).toEqual({
        sourceLength: length,
        destinationLength: length,
        difference: at,
      });
  });

  it.each<[number, number]>([
    [length, length - 1],
    [4096, length],
    [0, length],
    [length, 8192],
  ])('differ where the shorter one ends (%d and %d bytes)', async (one, other) => {
    const [source, destination] = [state.subarray(0, one), state.subarray(0, other)];
    expect(await compare(source, destination, [4096, 1000])).toEqual({
      sourceLength: one,
      destinationLength: other,
      difference: Math.min(one, other),
    });
  });

  it('tells the first difference, and the lengths all the same', async () => {
    const shorter = altered(50_000).subarray(0, 60_000);
    expect(await compare(state, shorter)).toMatchObject({
      difference: 50_000,
      sourceLength: length,
      destinationLength: 60_000,
    });
  });

  it('are never further apart than one read', async () => {
    const [one, other] = [new FakeState(state, 4096), new FakeState(Buffer.from(state), 500)];
    let furthest = 0;
    one.onRead = other.onRead = () => {
      furthest = Math.max(furthest, Math.abs(one.at - other.at));
    };
    expect((await compareStates(one, other)).difference).toBeUndefined();
    expect(furthest).toBeLessThanOrEqual(4096);
    expect(furthest).toBeGreaterThan(0);
  });

  it('pass on the error of a side', async () => {
    const broken = new FakeState(state, 4096);
    broken.onRead = () => {
      if (broken.at > 20_000) throw new Error('gone');
    };
    await expect(compareStates(new FakeState(state, 4096), broken)).rejects.toThrow('gone');
  });
});
