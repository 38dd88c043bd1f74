/**
 * Writer of cpio archives in the "newc" format, which the Linux kernel unpacks as its first root file
 * system (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel source).
 */

/** One member of an archive. Owner is always root, the time always 0, so that equal input gives equal bytes. */
export type Entry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode?: number }
  | { readonly kind: 'file'; readonly path: string; readonly mode?: number; readonly data: Uint8Array }
  | { readonly kind: 'link'; readonly path: string; readonly target: string }
  | { readonly kind: 'device'; readonly path: string; readonly major: number; readonly minor: number };

const fileType = { directory: 0o040000, file: 0o100000, link: 0o120000, device: 0o020000 } as const;
const magic = '070701';
const trailer = 'TRAILER!!!';
const alignment = 4;

/** Concatenates `entries`, sorted so that folders come before what they hold, as one archive. */
export function cpioArchive(entries: readonly Entry[]): Buffer {
  const chunks: Buffer[] = [];
  const sorted = [...entries].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  let inode = 1;
  let last = '';
  for (const entry of sorted) {
    if (entry.path === last) throw new Error(`two entries named ${entry.path}`);
    last = entry.path;
    member(
      chunks,
      inode++,
      entry.path,
      modeOf(entry),
      dataOf(entry),
      entry.kind === 'device' ? entry : undefined,
    );
  }
  member(chunks, 0, trailer, 0, Buffer.alloc(0), undefined);
  return Buffer.concat(chunks);
}

function modeOf(entry: Entry): number {
  switch (entry.kind) {
    case 'directory':
      return fileType.directory | (entry.mode ?? 0o755);
    case 'file':
      return fileType.file | (entry.mode ?? 0o644);
    case 'link':
      return fileType.link | 0o777;
    case 'device':
      return fileType.device | 0o600;
  }
}

function dataOf(entry: Entry): Uint8Array {
  if (entry.kind === 'file') return entry.data;
  return entry.kind === 'link' ? Buffer.from(entry.target) : Buffer.alloc(0);
}

function member(
  chunks: Buffer[],
  inode: number,
  path: string,
  mode: number,
  data: Uint8Array,
  device: { readonly major: number; readonly minor: number } | undefined,
): void {
  const name = Buffer.from(`${path}\0`);
  const links = (mode & 0o170000) === fileType.directory ? 2 : 1;
  const fields = [
    inode,
    mode,
    0, // uid
    0, // gid
    links,
    0, // mtime
    data.length,
    0, // device of the file system, major
    0, // and minor
    device?.major ?? 0,
    device?.minor ?? 0,
    name.length,
    0, // checksum, unused in this format
  ];
  const header = Buffer.from(magic + fields.map((value) => value.toString(16).padStart(8, '0')).join(''));
  chunks.push(header, name, padding(header.length + name.length), Buffer.from(data), padding(data.length));
}

function padding(length: number): Buffer {
  return Buffer.alloc((alignment - (length % alignment)) % alignment);
}
