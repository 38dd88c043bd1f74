import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RequestError } from '../../../src/errors.ts';
import { command } from '../../../src/vfio-user/constants.ts';
import {
  decodePart,
  encodeError,
  encodeReply,
  encodeRequest,
  type MessageSpec,
  messageOf,
  messages,
  readHeader,
} from '../../../src/vfio-user/messages.ts';
import type { FieldKind, FieldTable, Struct, StructValue } from '../../../src/vfio-user/struct.ts';
import * as structs from '../../../src/vfio-user/structs.ts';

/** Sizes from libvfio-user's vfio-user.h, linux/vfio.h and the specification, written down by hand. */
const sizes: readonly (readonly [Struct, number])[] = [
  [structs.header, 16],
  [structs.empty, 0],
  [structs.version, 4],
  [structs.dmaMap, 32],
  [structs.dmaUnmap, 24],
  [structs.deviceInfo, 16],
  [structs.regionInfo, 32],
  [structs.sparseMmap, 16],
  [structs.sparseMmapArea, 16],
  [structs.regionIoFds, 16],
  [structs.subRegionIoFd, 40],
  [structs.irqInfo, 16],
  [structs.irqSet, 20],
  [structs.regionAccess, 16],
  [structs.dmaAccess, 16],
  [structs.regionWriteMulti, 8],
  [structs.singleWrite, 16],
  [structs.deviceFeature, 8],
  [structs.featureMigration, 8],
  [structs.featureMigState, 8],
  [structs.featureDataSize, 8],
  [structs.loggingControl, 16],
  [structs.loggingRange, 16],
  [structs.loggingReport, 24],
  [structs.migData, 8],
  [structs.precopyInfo, 24],
] as unknown as readonly (readonly [Struct, number])[];

const values: Record<FieldKind, fc.Arbitrary<number | bigint>> = {
  u16: fc.integer({ min: 0, max: 0xffff }),
  u32: fc.integer({ min: 0, max: 0xffff_ffff }),
  u64: fc.maxSafeInteger().map(Math.abs),
  u64big: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
};

function anyValue(fields: FieldTable): fc.Arbitrary<StructValue<FieldTable>> {
  const arbitraries: Record<string, fc.Arbitrary<number | bigint>> = {};
  for (const [name, kind] of Object.entries(fields)) arbitraries[name] = values[kind];
  return fc.record(arbitraries) as fc.Arbitrary<StructValue<FieldTable>>;
}

describe('structures', () => {
  it.each(sizes.map(([struct, size]) => ({ name: struct.name, struct, size })))(
    '$name: $size bytes, there and back',
    ({ struct, size }) => {
      expect(struct.size).toBe(size);
      fc.assert(
        fc.property(anyValue(struct.fields), fc.nat(9), (value, at) => {
          const buffer = Buffer.alloc(at + size, 0xee);
          expect(struct.encode(value, buffer, at)).toBe(at + size);
          expect(struct.decode(buffer, at)).toEqual(value);
        }),
        { numRuns: 100 },
      );
    },
  );

  it('lie where the C compiler puts them', () => {
    const at = (fields: object) => Object.values(fields);
    expect(at(structs.header.offsets)).toEqual([0, 2, 4, 8, 12]);
    expect(at(structs.dmaMap.offsets)).toEqual([0, 4, 8, 16, 24]);
    expect(at(structs.regionInfo.offsets)).toEqual([0, 4, 8, 12, 16, 24]);
    expect(at(structs.subRegionIoFd.offsets)).toEqual([0, 8, 16, 20, 24, 28, 32]);
    const bytes = Buffer.from('00000000030000000010000000000000000000c0000000000000001000000000', 'hex');
    const value = { argsz: 0, flags: 3, offset: 0x1000, addr: 0xc000_0000, size: 0x1000_0000 };
    expect(structs.dmaMap.decode(bytes, 0)).toEqual(value);
  });

  it('refuse 64-bit values from 2^53 on', () => {
    const buffer = Buffer.alloc(8);
    for (const value of [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      buffer.writeBigUInt64LE(value);
      expect(() => structs.featureMigration.decode(buffer, 0)).toThrow(RequestError);
    }
    buffer.writeBigUInt64LE(2n ** 53n - 1n);
    expect(structs.featureMigration.decode(buffer, 0).flags).toBe(Number.MAX_SAFE_INTEGER);
  });
});

const specs = Object.values(messages) as unknown as readonly MessageSpec[];

describe('messages', () => {
  it('have every command once', () => {
    expect(specs.map((spec) => spec.command)).toEqual(Object.values(command));
    for (const spec of specs) expect(messageOf(spec.command)).toBe(spec);
    expect(messageOf(14)).toBeUndefined();
  });

  it.each(specs)('$name: request and reply, there and back', (spec) => {
    fc.assert(
      fc.property(
        anyValue(spec.request.struct.fields),
        anyValue(spec.reply.struct.fields),
        fc.nat(0xffff),
        fc.uint8Array({ maxLength: 64 }),
        (request, reply, id, data) => {
          for (const [part, value, bytes] of [
            [
              spec.request,
              counted(spec.request, request, data),
              encodeRequest(spec, id, counted(spec.request, request, data), data),
            ],
            [
              spec.reply,
              counted(spec.reply, reply, data),
              encodeReply(spec, id, counted(spec.reply, reply, data), data),
            ],
          ] as const) {
            expect(readHeader(bytes, 0)).toMatchObject({
              id,
              command: spec.command,
              size: bytes.length,
              error: 0,
            });
            expect(decodePart(spec.name, part, bytes, 16, bytes.length - 16)).toEqual(value);
            expect(bytes.subarray(16 + part.struct.size)).toEqual(Buffer.from(data));
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  it.each(specs)('$name: payloads of a wrong length are refused', (spec) => {
    const { struct, tail } = spec.request;
    for (let length = 0; length < struct.size; length++) {
      expect(() => decodePart(spec.name, spec.request, Buffer.alloc(64), 0, length)).toThrow(RequestError);
    }
    expect(decodePart(spec.name, spec.request, Buffer.alloc(64), 0, struct.size)).toBeDefined();
    const longer = () => decodePart(spec.name, spec.request, Buffer.alloc(64), 0, struct.size + 1);
    if (typeof tail === 'object') expect(longer).toThrow(RequestError);
    else expect(longer()).toBeDefined();
  });

  it('have error replies without payload', () => {
    const bytes = encodeError(7, command.DMA_MAP, 22);
    expect(bytes.toString('hex')).toBe('07000200100000002100000016000000');
  });
});

/** With the count field that a part's data need. */
function counted(
  part: MessageSpec['request'],
  value: StructValue<FieldTable>,
  data: Uint8Array,
): StructValue<FieldTable> {
  return typeof part.tail === 'object' ? { ...value, [part.tail.count]: data.length } : value;
}
