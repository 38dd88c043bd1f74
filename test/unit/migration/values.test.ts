import fc from 'fast-check';
import { Packr } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { crc32, crc32ByTable } from '../../../src/migration/stream/crc32.ts';
import { packValue, unpackValue } from '../../../src/migration/stream/values.ts';

describe('structured values', () => {
  it('come back as they were', () => {
    const leaf = fc.oneof(
      fc.integer(),
      fc.maxSafeInteger(),
      fc.string(),
      fc.boolean(),
      fc.constant(null),
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    );
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        leaf,
        fc.array(tie('value'), { maxLength: 5 }),
        fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), tie('value'), { maxKeys: 5, noNullPrototype: true }),
      ),
    }));
    fc.assert(
      fc.property(value, (v) => {
        expect(unpackValue(packValue(v, 'x'), 'x')).toEqual(v);
      }),
      { numRuns: 300 },
    );
  });

  it('that no reader could take are refused when saving', () => {
    let deep: unknown = 1;
    for (let i = 0; i < 40; i++) deep = [deep];
    for (const bad of [new Date(), 2n ** 70n, Symbol('x'), deep, Buffer.alloc(5 << 20)]) {
      expect(() => packValue(bad, 'sec')).toThrow(expect.objectContaining({ code: 'VC_STATE_UNSAVABLE' }));
    }
  });

  it('that are hostile are refused before anything is built', () => {
    const bombs = {
      empty: '',
      'array of 4 G items': 'ddffffffff',
      'map of 4 G pairs': 'dfffffffff01',
      'string of 4 GB': 'dbffffffff61',
      'bytes of 4 GB': 'c6ffffffff00',
      'depth 10000': '91'.repeat(10_000),
      'extension (record definition)': 'd4724091a16101',
      'extension (date)': 'd6ff00000000',
      'extension (8)': 'c70501aabbccddee',
      'unused type': 'c1',
      'trailing bytes': '0102',
      'cut number': 'cd01',
    };
    for (const [name, hex] of Object.entries(bombs)) {
      expect(() => unpackValue(Buffer.from(hex, 'hex'), name), name).toThrow(
        expect.objectContaining({ code: 'VC_STATE_REFUSED' }),
      );
    }
  });

  it('can not change prototypes', () => {
    const value = unpackValue(Buffer.from('81a95f5f70726f746f5f5f81a17801', 'hex'), 'x') as { x?: unknown };
    expect(value.x).toBeUndefined();
    expect(({} as { x?: unknown }).x).toBeUndefined();
  });

  it('of any bytes end in a value or a refusal', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
        try {
          unpackValue(bytes, 'x');
        } catch (error) {
          expect(error).toMatchObject({ code: 'VC_STATE_REFUSED' });
        }
      }),
      { numRuns: 1500 },
    );
  });

  it('use nothing but plain msgpack', () => {
    // Records, msgpackr's default for objects, would be an extension: proves that the check above is not vacuous.
    const records = new Packr({ useRecords: true }).pack({ a: 1 });
    expect(() => unpackValue(records, 'x')).toThrow('not allowed');
  });
});

it('the checksum by table is that of zlib', () => {
  expect(crc32ByTable(Buffer.from('123456789'))).toBe(0xcbf43926);
  fc.assert(
    fc.property(fc.uint8Array(), fc.uint8Array(), (a, b) => {
      expect(crc32ByTable(b, crc32ByTable(a))).toBe(crc32(Buffer.concat([a, b])));
    }),
  );
});
