import { Packr, Unpackr } from 'msgpackr';

/** Plain msgpack: no records, no extension types. What other implementations read is what we write. */
export const plainMsgpack = {
  useRecords: false,
  moreTypes: false,
  encodeUndefinedAsNil: true,
  copyBuffers: true,
};

/** Nesting of containers that is still read. */
const maxDepth = 32;

// Declared apart from its use: msgpackr's types do not know `skipValues`.
const messageOptions = { ...plainMsgpack, skipValues: [undefined] };
const packr = new Packr(messageOptions);
const unpackr = new Unpackr(plainMsgpack);

/** Packs a message; fields that are undefined are left out. Types that only msgpackr knows become extension types. */
export function packPlain(value: unknown): Buffer {
  return packr.pack(value);
}

/** Unpacks one value of a peer. Throws a plain Error for anything that `checkMsgpack` refuses, before building it. */
export function unpackPlain(bytes: Uint8Array): unknown {
  checkMsgpack(bytes);
  return unpackr.unpack(bytes) as unknown;
}

/** Type bytes of the msgpack specification: `[first, last]`, and how much follows. */
const forms: readonly {
  readonly first: number;
  readonly last: number;
  /** Bytes of the length field, 0: the length is in the type byte under `mask`. */
  readonly lengthBytes: 0 | 1 | 2 | 4;
  readonly mask: number;
  /** What the length counts. */
  readonly counts: 'bytes' | 'items' | 'pairs';
  /** Bytes that follow whatever the length. */
  readonly fixed: number;
}[] = [
  { first: 0x00, last: 0x7f, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0x80, last: 0x8f, lengthBytes: 0, mask: 0x0f, counts: 'pairs', fixed: 0 },
  { first: 0x90, last: 0x9f, lengthBytes: 0, mask: 0x0f, counts: 'items', fixed: 0 },
  { first: 0xa0, last: 0xbf, lengthBytes: 0, mask: 0x1f, counts: 'bytes', fixed: 0 },
  { first: 0xc0, last: 0xc0, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0xc2, last: 0xc3, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0xc4, last: 0xc4, lengthBytes: 1, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0xc5, last: 0xc5, lengthBytes: 2, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0xc6, last: 0xc6, lengthBytes: 4, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0xca, last: 0xca, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 4 },
  { first: 0xcb, last: 0xcb, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 8 },
  { first: 0xcc, last: 0xcc, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 1 },
  { first: 0xcd, last: 0xcd, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 2 },
  { first: 0xce, last: 0xce, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 4 },
  { first: 0xcf, last: 0xcf, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 8 },
  { first: 0xd0, last: 0xd0, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 1 },
  { first: 0xd1, last: 0xd1, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 2 },
  { first: 0xd2, last: 0xd2, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 4 },
  { first: 0xd3, last: 0xd3, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 8 },
  { first: 0xd9, last: 0xd9, lengthBytes: 1, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0xda, last: 0xda, lengthBytes: 2, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0xdb, last: 0xdb, lengthBytes: 4, mask: 0, counts: 'bytes', fixed: 0 },
  { first: 0xdc, last: 0xdc, lengthBytes: 2, mask: 0, counts: 'items', fixed: 0 },
  { first: 0xdd, last: 0xdd, lengthBytes: 4, mask: 0, counts: 'items', fixed: 0 },
  { first: 0xde, last: 0xde, lengthBytes: 2, mask: 0, counts: 'pairs', fixed: 0 },
  { first: 0xdf, last: 0xdf, lengthBytes: 4, mask: 0, counts: 'pairs', fixed: 0 },
  { first: 0xe0, last: 0xff, lengthBytes: 0, mask: 0, counts: 'bytes', fixed: 0 },
];
const formOf = Array.from({ length: 256 }, (_, type) => forms.find((f) => type >= f.first && type <= f.last));

/**
 * Walks msgpack without building anything: exactly one value, no extension types (0xc7–0xc9, 0xd4–0xd8,
 * which msgpackr would turn into objects of its own), every claimed length within the bytes there are,
 * depth bounded. Throws a plain Error that says what is wrong.
 */
export function checkMsgpack(bytes: Uint8Array): void {
  /** Items still to come in each open container, outermost first. */
  const open: number[] = [1];
  let at = 0;
  while (open.length > 0) {
    const left = open[open.length - 1] ?? 0;
    if (left === 0) {
      open.pop();
      continue;
    }
    open[open.length - 1] = left - 1;
    const type = bytes[at++];
    if (type === undefined) throw new Error('it ends too early');
    const form = formOf[type];
    if (form === undefined) throw new Error(`type 0x${type.toString(16)} is not allowed`);
    let length = type & form.mask;
    for (let i = 0; i < form.lengthBytes; i++) length = length * 256 + (bytes[at++] ?? 0);
    at += form.fixed;
    if (form.counts === 'bytes') at += length;
    const items = form.counts === 'items' ? length : form.counts === 'pairs' ? 2 * length : 0;
    // Every item takes at least a byte.
    if (at > bytes.length || items > bytes.length - at) throw new Error('a length exceeds the data');
    if (items > 0) {
      if (open.length > maxDepth) throw new Error(`it is nested deeper than ${maxDepth}`);
      open.push(items);
    }
  }
  if (at !== bytes.length) throw new Error(`${bytes.length - at} bytes follow it`);
}
