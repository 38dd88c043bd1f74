import fc from 'fast-check';
import { command, headerFlags } from '../../src/vfio-user/constants.ts';
import { type MessageSpec, messages } from '../../src/vfio-user/messages.ts';
import type { FieldKind } from '../../src/vfio-user/struct.ts';

/** A message as a hostile client would make it, and how many descriptors come with it. */
export interface FuzzMessage {
  readonly bytes: Buffer;
  readonly fds: number;
}

/** Values that tend to hit borders. */
const interesting = [
  0,
  1,
  2,
  3,
  4,
  7,
  8,
  9,
  15,
  16,
  31,
  32,
  255,
  256,
  4095,
  4096,
  65536,
  2 ** 20,
  2 ** 31,
  2 ** 32 - 1,
];
const big = [...interesting.map(BigInt), 2n ** 40n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 4096n, 2n ** 64n - 1n];
const commands = [...Object.values(command), 0, 14, 20, 99, 0xffff];

const number = fc.oneof(fc.constantFrom(...interesting), fc.nat(0xffff_ffff));
const bigNumber = fc.oneof(fc.constantFrom(...big), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));

function field(kind: FieldKind): fc.Arbitrary<Buffer> {
  switch (kind) {
    case 'u16':
      return fc.nat(0xffff).map((value) => Buffer.from([value & 0xff, value >> 8]));
    case 'u32':
      return number.map((value) => {
        const bytes = Buffer.alloc(4);
        bytes.writeUInt32LE(value);
        return bytes;
      });
    default:
      return bigNumber.map((value) => {
        const bytes = Buffer.alloc(8);
        bytes.writeBigUInt64LE(value);
        return bytes;
      });
  }
}

/** A payload with the shape of the message, each field on or beyond a border, with too much or too little behind. */
function shaped(spec: MessageSpec): fc.Arbitrary<Buffer> {
  const fields = Object.values(spec.request.struct.fields).map(field);
  return fc
    .tuple(fc.tuple(...fields), fc.uint8Array({ maxLength: 48 }), fc.nat(3))
    .map(([parts, tail, cut]) => {
      const whole = Buffer.concat([...parts, tail]);
      return cut === 0 ? whole.subarray(0, Math.max(0, whole.length - tail.length - 1)) : whole;
    });
}

function frame(id: number, cmd: number, payload: Buffer, flags: number, lie: number): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt16LE(id, 0);
  head.writeUInt16LE(cmd, 2);
  head.writeUInt32LE(Math.max(16, 16 + payload.length + lie), 4);
  head.writeUInt32LE(flags, 8);
  return Buffer.concat([head, payload]);
}

const shapes: ReadonlyMap<number, fc.Arbitrary<Buffer>> = new Map(
  Object.values(messages).map((spec) => [spec.command, shaped(spec as unknown as MessageSpec)]),
);
const noise = fc.uint8Array({ maxLength: 80 }).map((bytes) => Buffer.from(bytes));

/** One hostile message. Its size is true, so that the messages behind it are understood as well. */
export const fuzzMessage: fc.Arbitrary<FuzzMessage> = fc
  .tuple(fc.constantFrom(...commands), fc.nat(0xffff), fc.nat(19), fc.nat(19))
  .chain(([cmd, id, flagDice, fdDice]) => {
    const payload = shapes.get(cmd) ?? noise;
    const flags = [headerFlags.noReply, 1, 2, 0x21, 0xffff_ffc0][flagDice] ?? 0;
    const fds = [1, 2, 17][fdDice] ?? 0;
    return fc
      .oneof({ weight: 4, arbitrary: payload }, { weight: 1, arbitrary: noise })
      .map((bytes) => ({ bytes: frame(id, cmd, bytes, flags, 0), fds }));
  });

/** As `fuzzMessage`, but its header may lie about its size or it may be cut off: ends the conversation. */
export const fuzzEnd: fc.Arbitrary<FuzzMessage> = fc
  .tuple(fuzzMessage, fc.constantFrom(-1000, -1, 1, 1000, 2 ** 21, 2 ** 31), fc.nat(40))
  .map(([{ bytes, fds }, lie, cut]) => {
    const copy = Buffer.from(bytes);
    copy.writeUInt32LE(Math.max(0, copy.readUInt32LE(4) + lie) >>> 0, 4);
    return { bytes: copy.subarray(0, Math.max(1, copy.length - cut)), fds };
  });
