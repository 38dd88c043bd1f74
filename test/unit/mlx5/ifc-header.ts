import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheRoot } from '../../../src/setup/paths.ts';

/** One leaf of a structure of the header: offset and width, both in bits. */
export interface HeaderField {
  readonly offset: number;
  readonly width: number;
}

/** A structure as the header declares it: its size in bits, and every path (`cqc.log_cq_size`) in it. */
export interface HeaderStruct {
  readonly size: number;
  readonly fields: ReadonlyMap<string, HeaderField>;
}

const hintHowToGet =
  'set VFIO_COMPANION_MLX5_HEADERS to a folder with mlx5_ifc.h and device.h (include/linux/mlx5 of a kernel source), ' +
  'or run with network access once: apt-get download linux-headers-*-common';

/** The newest `linux-headers-*-common` package that apt knows for Linux 6.1 or 6.12. */
function newestHeadersPackage(): string | undefined {
  const names = execFileSync('apt-cache', ['search', '--names-only', '^linux-headers-6\\.1.*-common$'], {
    encoding: 'utf8',
  })
    .split('\n')
    .map((line) => line.split(' ')[0] ?? '')
    .filter((name) => /^linux-headers-6\.1\.[0-9-]+-common$/.test(name));
  return names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1);
}

function findIn(folder: string): string | undefined {
  if (!existsSync(folder)) return undefined;
  for (const entry of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    if (entry.endsWith('include/linux/mlx5/mlx5_ifc.h')) return join(folder, entry, '..');
  }
  return undefined;
}

/**
 * The folder with the kernel's `mlx5_ifc.h`, from Debian's headers package, unpacked once into the cache; or
 * the reason why it can't be had.
 */
export function headersFolder(): { folder: string } | { reason: string } {
  const own = process.env.VFIO_COMPANION_MLX5_HEADERS;
  if (own !== undefined && own !== '') {
    return existsSync(join(own, 'mlx5_ifc.h')) ? { folder: own } : { reason: `no mlx5_ifc.h in ${own}` };
  }
  const cache = join(cacheRoot(), 'linux-headers');
  const cached = findIn(cache);
  if (cached !== undefined) return { folder: cached };
  try {
    const name = newestHeadersPackage();
    if (name === undefined)
      return { reason: `apt knows no linux-headers-6.1*-common package; ${hintHowToGet}` };
    mkdirSync(cache, { recursive: true });
    execFileSync('apt-get', ['download', name], { cwd: cache, stdio: 'ignore', timeout: 60_000 });
    const file = readdirSync(cache).find((entry) => entry.endsWith('.deb'));
    if (file === undefined) return { reason: `apt-get download ${name} left no file; ${hintHowToGet}` };
    const tar = execFileSync('dpkg-deb', ['--fsys-tarfile', join(cache, file)], { maxBuffer: 256 << 20 });
    execFileSync('tar', ['-x', '--wildcards', '*/include/linux/mlx5/*.h'], { cwd: cache, input: tar });
  } catch (error) {
    return {
      reason: `${error instanceof Error ? error.message.split('\n')[0] : String(error)}; ${hintHowToGet}`,
    };
  }
  const folder = findIn(cache);
  return folder === undefined
    ? { reason: `the headers package has no mlx5_ifc.h; ${hintHowToGet}` }
    : { folder };
}

interface Declaration {
  readonly kind: 'struct' | 'union';
  /** `u8 name[0x10];` or `struct mlx5_ifc_x_bits name[3];` in order. */
  readonly members: readonly { type: string; name: string; count: number }[];
}

const commentPattern = /\/\*[\s\S]*?\*\//g;
const memberPattern = /^\s*(?:(u8)|(struct|union)\s+(\w+))\s+(\w+)\s*(?:\[(\w*)\])?(?:\[(\w*)\])?\s*;/;

/** Blocks inside of a structure (`union { … } name;`) as declarations of their own before it, under names that nothing else has. */
function hoistInner(text: string): string {
  let inner = '';
  let count = 0;
  const rest = text.replace(
    /^\t(struct|union) \{([^{}]*)\}\s*(\w+);/gm,
    (_all, kind: string, body: string, name: string) => {
      count += 1;
      inner += `${kind} mlx5_ifc_inner_${count} {${body}\n};\n`;
      return `\t${kind} mlx5_ifc_inner_${count} ${name};`;
    },
  );
  return inner + rest;
}

function parseDeclarations(text: string): Map<string, Declaration> {
  const found = new Map<string, Declaration>();
  const clean = hoistInner(text.replace(commentPattern, ''));
  for (const match of clean.matchAll(/^(struct|union)\s+(mlx5_ifc_\w+)\s*\{([\s\S]*?)^\};/gm)) {
    const members: { type: string; name: string; count: number }[] = [];
    for (const line of (match[3] ?? '').split('\n')) {
      const member = memberPattern.exec(line);
      if (member === null) continue;
      const length = (index: number) => (member[index] === undefined ? 1 : Number(member[index] || '0'));
      members.push({
        type: member[1] ?? member[3] ?? '',
        name: member[4] ?? '',
        count: length(5) * length(6),
      });
    }
    found.set(match[2] ?? '', { kind: match[1] === 'union' ? 'union' : 'struct', members });
  }
  return found;
}

/** All `mlx5_ifc_*_bits` of a header's text, laid out: an array of `u8` is so many bits, in order. */
export function parseIfc(text: string): (name: string) => HeaderStruct | undefined {
  const declarations = parseDeclarations(text);
  const done = new Map<string, HeaderStruct>();

  function layout(type: string): HeaderStruct | undefined {
    const known = done.get(type);
    if (known !== undefined) return known;
    const declaration = declarations.get(type);
    if (declaration === undefined) return undefined;
    const fields = new Map<string, HeaderField>();
    let offset = 0;
    let size = 0;
    for (const member of declaration.members) {
      const inner = member.type === 'u8' ? undefined : layout(member.type);
      const width = (inner === undefined ? 1 : inner.size) * member.count;
      fields.set(member.name, { offset, width });
      if (inner !== undefined) {
        for (const [path, field] of inner.fields) {
          fields.set(`${member.name}.${path}`, { offset: offset + field.offset, width: field.width });
        }
      }
      size = Math.max(size, offset + width);
      if (declaration.kind === 'struct') offset += width;
    }
    const result = { size, fields };
    done.set(type, result);
    return result;
  }
  return (name) => layout(name);
}

const scalarBytes: Readonly<Record<string, number>> = {
  u8: 1,
  __u8: 1,
  __be16: 2,
  __be32: 4,
  __be64: 8,
  u64: 8,
};

/** Bits of a member's type: a scalar, or another plain structure of the same text. */
function memberBits(text: string, type: string): number | undefined {
  const bytes = scalarBytes[type];
  if (bytes !== undefined) return 8 * bytes;
  // A named union (`union ev_data`) has a scalar array `raw` of its full size as its first member.
  if (type.startsWith('union ')) {
    const raw = new RegExp(`^${type}\\s*\\{\\s*__be32\\s+raw\\[(\\d+)\\]`, 'm').exec(text)?.[1];
    return raw === undefined ? undefined : 32 * Number(raw);
  }
  return type.startsWith('struct ') ? parsePlainStruct(text, type.slice('struct '.length))?.size : undefined;
}

/** An array length: a number, or the name of a constant that the same text gives a number. */
function elementCount(text: string, length: string | undefined): number {
  if (length === undefined) return 1;
  if (/^\d+$/.test(length)) return Number(length);
  return Number(new RegExp(`\\b${length}\\s*=?\\s*(\\d+)`).exec(text)?.[1]);
}

/** Value that the text gives to an enumerator or macro (`MLX5_CMD_OP_CREATE_EQ = 0x301`). */
export function headerConstant(text: string, name: string): number | undefined {
  const value = new RegExp(`\\b${name}\\s*=?\\s*(0x[0-9a-fA-F]+|\\d+)`).exec(text)?.[1];
  return value === undefined ? undefined : Number(value);
}

/**
 * The plain C structures of `device.h` and `qp.h` (`struct mlx5_cqe64 { u8 tls[2]; __be16 … }`), in bits. Only scalar members and
 * anonymous unions/structs of scalars are understood; a structure with others yields what precedes them.
 */
export function parsePlainStruct(text: string, name: string): HeaderStruct | undefined {
  const body = new RegExp(`^struct ${name}\\s*\\{([\\s\\S]*?)^\\};`, 'm').exec(
    text.replace(commentPattern, ''),
  )?.[1];
  if (body === undefined) return undefined;
  const fields = new Map<string, HeaderField>();
  const tokens = body.split('\n').map((line) => line.trim());
  let at = 0;

  function block(kind: 'struct' | 'union', start: number, prefix: string): number {
    let offset = start;
    let end = start;
    while (at < tokens.length) {
      const line = tokens[at++] ?? '';
      if (line.startsWith('}')) {
        return end;
      }
      const opening = /^(struct|union)\s*\{/.exec(line);
      let width: number;
      if (opening !== null) {
        // The name of an inner block follows its closing brace.
        let depth = 1;
        let close = at;
        while (close < tokens.length) {
          if (/\{/.test(tokens[close] ?? '')) depth++;
          if (/^\}/.test(tokens[close] ?? '') && --depth === 0) break;
          close++;
        }
        const inner = /^\}\s*(\w+)/.exec(tokens[close] ?? '')?.[1];
        const innerEnd = block(
          opening[1] === 'union' ? 'union' : 'struct',
          offset,
          inner ? `${prefix}${inner}.` : prefix,
        );
        width = innerEnd - offset;
      } else {
        const member = /^((?:struct|union) \w+|\w+)\s+(\w+)\s*(?:\[(\w+)\])?\s*;/.exec(line);
        if (member === null) continue;
        const bits = memberBits(text, member[1] ?? '');
        if (bits === undefined) return end;
        width = bits * elementCount(text, member[3]);
        fields.set(`${prefix}${member[2]}`, { offset, width });
      }
      end = Math.max(end, offset + width);
      if (kind === 'struct') offset += width;
    }
    return end;
  }
  const size = block('struct', 0, '');
  return { size, fields };
}

/** Reads a header of the folder. */
export function readHeader(folder: string, file: string): string {
  return readFileSync(join(folder, file), 'utf8');
}
