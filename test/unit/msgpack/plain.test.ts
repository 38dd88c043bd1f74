import { Packr, pack } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { packPlain, unpackPlain } from '../../../src/msgpack.ts';

describe('messages in msgpack', () => {
  it('come back, without the fields that are undefined', () => {
    const value = { op: 'x', bytes: Buffer.from('abc'), n: 2 ** 40, list: [1, null], missing: undefined };
    const { missing: _, ...rest } = value;
    expect(unpackPlain(packPlain(value))).toEqual(rest);
    expect(Object.keys(unpackPlain(packPlain(value)) as object)).not.toContain('missing');
  });

  it.each([
    ['an Error object', new Packr({ moreTypes: true }).pack(new TypeError('x')), /type 0x/],
    ['a Map that says how it is to be built', new Packr({ moreTypes: true }).pack(new Set([1])), /type 0x/],
    ['a record definition', new Packr({ useRecords: true }).pack({ a: 1 }), /type 0xd4/],
    ['a length of 4 GB', Buffer.from([0xdd, 0xff, 0xff, 0xff, 0xff]), /length exceeds/],
    ['a cut map', Buffer.from([0x82, 0xa2, 0x6f]), /length exceeds|too early/],
    ['nothing', Buffer.alloc(0), /too early/],
    ['two values', Buffer.concat([pack(1), pack(2)]), /follow/],
    ['a nest of 40 lists', Buffer.concat([Buffer.alloc(40, 0x91), pack(1)]), /nested deeper/],
  ])('of a peer may not be %s', (_what, bytes, message) => {
    expect(() => unpackPlain(bytes)).toThrow(message);
  });
});
