/** A program for XDP as an object file, which `ip link set … xdpdrv obj` takes: no compiler for BPF is needed. */

/** Opcodes (linux/bpf.h): class, size and mode, or class, source and operation. */
const op = {
  LDX_W: 0x61,
  LDX_H: 0x69,
  LDX_B: 0x71,
  STX_W: 0x63,
  STX_H: 0x6b,
  ADD64_K: 0x07,
  MOV64_X: 0xbf,
  MOV64_K: 0xb7,
  JNE_K: 0x55,
  JGT_X: 0x2d,
  EXIT: 0x95,
} as const;

/** `enum xdp_action`. */
const xdpAction = { PASS: 2, TX: 3 } as const;

type Instruction = readonly [opcode: number, dst: number, src: number, offset: number, immediate: number];

function encode(program: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(8 * program.length);
  for (const [index, [opcode, dst, src, offset, immediate]] of program.entries()) {
    bytes.writeUInt8(opcode, 8 * index);
    bytes.writeUInt8(dst | (src << 4), 8 * index + 1);
    bytes.writeInt16LE(offset, 8 * index + 2);
    bytes.writeInt32LE(immediate, 8 * index + 4);
  }
  return bytes;
}

/** Sends UDP over IPv4 back by XDP_TX with its addresses exchanged, which leaves all checksums right; passes on the rest. */
function echo(): Buffer {
  const frame = 2;
  const end = 3;
  const pass = 'pass';
  const lines: readonly (Instruction | readonly [number, number, number, typeof pass, number])[] = [
    [op.LDX_W, frame, 1, 0, 0],
    [op.LDX_W, end, 1, 4, 0],
    [op.MOV64_X, 4, frame, 0, 0],
    [op.ADD64_K, 4, 0, 0, 34],
    [op.JGT_X, 4, end, pass, 0],
    [op.LDX_H, 4, frame, 12, 0],
    [op.JNE_K, 4, 0, pass, 0x0008],
    [op.LDX_B, 4, frame, 23, 0],
    [op.JNE_K, 4, 0, pass, 17],
    [op.LDX_W, 4, frame, 0, 0],
    [op.LDX_H, 5, frame, 4, 0],
    [op.LDX_W, 6, frame, 6, 0],
    [op.LDX_H, 7, frame, 10, 0],
    [op.STX_W, frame, 6, 0, 0],
    [op.STX_H, frame, 7, 4, 0],
    [op.STX_W, frame, 4, 6, 0],
    [op.STX_H, frame, 5, 10, 0],
    [op.LDX_W, 4, frame, 26, 0],
    [op.LDX_W, 5, frame, 30, 0],
    [op.STX_W, frame, 5, 26, 0],
    [op.STX_W, frame, 4, 30, 0],
    [op.MOV64_K, 0, 0, 0, xdpAction.TX],
    [op.EXIT, 0, 0, 0, 0],
    [op.MOV64_K, 0, 0, 0, xdpAction.PASS],
    [op.EXIT, 0, 0, 0, 0],
  ];
  const passAt = lines.length - 2;
  return encode(
    lines.map(([opcode, dst, src, offset, immediate], index) => [
      opcode,
      dst,
      src,
      offset === pass ? passAt - index - 1 : offset,
      immediate,
    ]),
  );
}

interface Section {
  readonly name: string;
  readonly type: number;
  readonly flags: number;
  readonly data: Buffer;
  readonly link?: number;
  readonly info?: number;
  readonly entry?: number;
}

/** Names one behind the other, and where each begins. */
function strings(names: readonly string[]): { data: Buffer; at(name: string): number } {
  const text = `\0${names.map((name) => `${name}\0`).join('')}`;
  return { data: Buffer.from(text, 'latin1'), at: (name) => text.indexOf(`\0${name}\0`) + 1 };
}

const sectionType = { PROGBITS: 1, SYMTAB: 2, STRTAB: 3 } as const;
const sectionFlag = { WRITE: 1, ALLOC: 2, EXECINSTR: 4 } as const;
const headerBytes = 64;
const symbolBytes = 24;
/** A global function, of which a loader makes a program. */
const globalFunction = 0x12;

/** A relocatable ELF file for BPF, with `code` in section `xdp`. */
function elf(code: Buffer): Buffer {
  const names = strings(['xdp', 'license', 'names', 'symbols', 'main']);
  const symbols = Buffer.alloc(2 * symbolBytes);
  symbols.writeUInt32LE(names.at('main'), symbolBytes);
  symbols.writeUInt8(globalFunction, symbolBytes + 4);
  symbols.writeUInt16LE(1, symbolBytes + 6);
  symbols.writeBigUInt64LE(BigInt(code.length), symbolBytes + 16);
  const { PROGBITS, SYMTAB, STRTAB } = sectionType;
  const { WRITE, ALLOC, EXECINSTR } = sectionFlag;
  const sections: readonly Section[] = [
    { name: 'xdp', type: PROGBITS, flags: ALLOC | EXECINSTR, data: code },
    { name: 'license', type: PROGBITS, flags: ALLOC | WRITE, data: Buffer.from('GPL\0') },
    { name: 'names', type: STRTAB, flags: 0, data: names.data },
    { name: 'symbols', type: SYMTAB, flags: 0, data: symbols, link: 3, info: 1, entry: symbolBytes },
  ];
  const table = Buffer.alloc(headerBytes * (sections.length + 1));
  const parts: Buffer[] = [];
  let at = headerBytes;
  for (const [index, { name, type, flags, data, link = 0, info = 0, entry = 0 }] of sections.entries()) {
    const header = table.subarray(headerBytes * (index + 1));
    header.writeUInt32LE(names.at(name), 0);
    header.writeUInt32LE(type, 4);
    header.writeBigUInt64LE(BigInt(flags), 8);
    header.writeBigUInt64LE(BigInt(at), 24);
    header.writeBigUInt64LE(BigInt(data.length), 32);
    header.writeUInt32LE(link, 40);
    header.writeUInt32LE(info, 44);
    header.writeBigUInt64LE(8n, 48);
    header.writeBigUInt64LE(BigInt(entry), 56);
    const padded = Buffer.alloc(Math.ceil(data.length / 8) * 8);
    data.copy(padded);
    parts.push(padded);
    at += padded.length;
  }
  const header = Buffer.alloc(headerBytes);
  // 64 bits, little-endian, version 1; relocatable, for BPF (247), version 1.
  Buffer.from('7f454c46020101', 'hex').copy(header);
  header.writeUInt16LE(1, 16);
  header.writeUInt16LE(247, 18);
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(at), 40);
  header.writeUInt16LE(headerBytes, 52);
  header.writeUInt16LE(headerBytes, 58);
  header.writeUInt16LE(sections.length + 1, 60);
  header.writeUInt16LE(3, 62);
  return Buffer.concat([header, ...parts, table]);
}

/** An object file whose program sends UDP back where it came from. */
export function echoObject(): Buffer {
  return elf(echo());
}
