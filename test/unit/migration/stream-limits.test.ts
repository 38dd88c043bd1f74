import { expect, it } from 'vitest';
import { StreamDecoder } from '../../../src/migration/stream/decoder.ts';
import { StreamEncoder } from '../../../src/migration/stream/encoder.ts';
import { limits } from '../../../src/migration/stream/format.ts';
import { type Chunk, cut, join, renumber } from './chunks.ts';

const header = {
  model: 'fake',
  stateVersion: 1,
  geometry: {},
  requires: [],
  frameworkVersion: 1,
  pageSize: 4096,
};

/** Everything that `encoder` has to give now. */
function drained(encoder: StreamEncoder): Buffer {
  const target = Buffer.alloc(4096);
  return Buffer.from(target.subarray(0, encoder.take(target, 0)));
}

/** The offsets of the bulk records that a reader of `stream` was given. */
function delivered(stream: Buffer): number[] {
  const offsets: number[] = [];
  const sink = {
    header: () => {},
    value: () => {},
    bulk: (_section: string, offset: number) => void offsets.push(offset),
    restart: () => {},
  };
  new StreamDecoder(sink).write(stream);
  return offsets;
}

const last = Number.MAX_SAFE_INTEGER;

it('has bytes up to the last offset that a number can say, and none beyond', () => {
  const encoder = new StreamEncoder(header);
  const head = drained(encoder);
  const beyond = { code: 'VC_STATE_UNSAVABLE' };
  expect(() => encoder.putBulk('memory', last, Buffer.alloc(1))).toThrow(expect.objectContaining(beyond));
  expect(() => encoder.putBulk('memory', -1, Buffer.alloc(1))).toThrow(expect.objectContaining(beyond));
  encoder.putBulk('memory', last - 1, Buffer.alloc(1));
  const stream = Buffer.concat([head, drained(encoder)]);
  expect(delivered(stream)).toEqual([last - 1]);
  const chunks = cut(stream);
  const at = (offset: bigint): Buffer =>
    join(stream, [...chunks.slice(0, -1), { ...(chunks.at(-1) as Chunk), offset }]);
  expect(delivered(at(BigInt(last) - 1n))).toEqual([last - 1]);
  for (const offset of [BigInt(last), 2n ** 53n, 2n ** 64n - 1n])
    expect(() => delivered(at(offset))).toThrow('make no sense');
});

it('names as many sections as the limit says, and no more', () => {
  const encoder = new StreamEncoder(header);
  const parts = [drained(encoder)];
  for (let number = 0; number < limits.sections; number++) {
    encoder.putBulk(`section ${number}`, number, Buffer.alloc(1));
    parts.push(drained(encoder));
  }
  expect(() => encoder.putBulk('another', 0, Buffer.alloc(1))).toThrow("can't be a section's name");
  const stream = Buffer.concat(parts);
  expect(delivered(stream)).toHaveLength(limits.sections);
  const chunks = cut(stream);
  const named = chunks[1] ?? expect.fail('no section');
  const more = renumber([...chunks, { ...named, payload: Buffer.from('another') }]);
  expect(() => delivered(join(stream, more))).toThrow('too many sections');
});
