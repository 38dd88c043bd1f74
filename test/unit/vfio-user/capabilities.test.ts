import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RequestError } from '../../../src/errors.ts';
import { defaultOffer, formatCapabilities, parseCapabilities } from '../../../src/vfio-user/capabilities.ts';

const data = (json: unknown) => Buffer.from(`${JSON.stringify(json)}\0`);

describe('capabilities', () => {
  it('have the defaults of the specification', () => {
    for (const bytes of [
      Buffer.alloc(0),
      data({}),
      data({ capabilities: {} }),
      data({ capabilities: { other: 1 } }),
    ]) {
      expect(parseCapabilities(bytes)).toMatchObject({
        maxMsgFds: 1,
        maxDataXferSize: 1048576,
        maxDmaMaps: 65535,
        pgsizes: 4096,
        writeMultiple: false,
        migration: undefined,
        companion: false,
      });
    }
  });

  it('are understood as they are offered', () => {
    const parsed = parseCapabilities(formatCapabilities({ ...defaultOffer, companion: true }));
    const { proposed, ...rest } = parsed;
    expect(rest).toEqual({ ...defaultOffer, companion: true });
    expect([...proposed]).toContain('vfio_companion');
  });

  it('name nothing in a reply that was not proposed', () => {
    const offer = { ...defaultOffer, companion: true };
    fc.assert(
      fc.property(
        fc.subarray(Object.keys(JSON.parse(formatCapabilities(offer).toString().slice(0, -1)).capabilities)),
        (keys) => {
          const all = JSON.parse(formatCapabilities(offer).toString().slice(0, -1)).capabilities;
          const proposal = Object.fromEntries(keys.map((key) => [key, all[key]]));
          const reply = formatCapabilities(offer, parseCapabilities(data({ capabilities: proposal })));
          expect(Object.keys(JSON.parse(reply.toString().slice(0, -1)).capabilities).sort()).toEqual(
            [...keys].sort(),
          );
          expect(reply.length).toBeLessThanOrEqual(data({ capabilities: proposal }).length);
        },
      ),
    );
  });

  it('survive anything: understood, or refused with EINVAL', () => {
    const names = [
      'max_msg_fds',
      'max_data_xfer_size',
      'pgsizes',
      'write_multiple',
      'migration',
      '__proto__',
      'vfio_companion',
    ];
    const hostile = fc.oneof(
      fc.json().map((json) => Buffer.from(`${json}\0`)),
      fc.dictionary(fc.constantFrom(...names), fc.jsonValue()).map((capabilities) => data({ capabilities })),
      fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    );
    fc.assert(
      fc.property(hostile, (bytes) => {
        try {
          parseCapabilities(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(RequestError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
