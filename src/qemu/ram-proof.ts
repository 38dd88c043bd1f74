/**
 * The proof that a migration lost nothing: every page of both guests' RAM, compared. Both QEMUs must run on
 * this machine with shared RAM (memfd or file), and both guests must be stopped.
 */
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync, statSync } from 'node:fs';
import { setImmediate as immediate } from 'node:timers/promises';
import { CompanionError } from '../errors.ts';
import { nextData } from '../posix/index.ts';

/** For a QEMU that this process may not look at. */
export const foreignQemuHint = 'to compare RAM, run this as the user of both QEMUs, or as root';

const pageSize = 4096;
const blockSize = 1024 * 1024;
/** What is compared in one go: some 20 ms. */
const pieceSize = 64 * 1024 * 1024;
/** Differing pages that are named; the rest is only counted. */
const namedPages = 16;

/** One piece of a QEMU's guest RAM that is shared and can be opened. */
export interface RamRegion {
  /** Its link below /proc, for messages: "/memfd:memory-backend-memfd (deleted)". */
  readonly name: string;
  /** What to open. */
  readonly path: string;
  readonly size: number;
}

export interface DifferingPage {
  readonly region: string;
  /** Byte offset in the region. */
  readonly offset: number;
  /** First differing byte of the page and its values. */
  readonly at: number;
  readonly source: number;
  readonly destination: number;
}

export interface RamProof {
  readonly pages: number;
  readonly bytes: number;
  readonly differing: number;
  /** The first few differing pages. */
  readonly first: readonly DifferingPage[];
  readonly milliseconds: number;
}

/** QEMU's names for the memory of `memory-backend-memfd` and of `-mem-path` files. */
const memfdName = /^\/memfd:memory-backend-memfd /;

/**
 * The shared RAM of the QEMU with process id `pid`, in the order in which QEMU opened it; none if its RAM is not shared.
 * @throws the system's error when there is no such process, or it may not be looked at
 */
export function ramOf(pid: number): RamRegion[] {
  const shared = new Set<string>();
  // maps: "start-end perms offset dev inode path"; 's' marks a shared mapping.
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    const [, permissions, , , inode] = line.split(/\s+/, 5);
    if (permissions?.[3] === 's' && permissions[1] === 'w' && inode !== undefined) shared.add(inode);
  }
  const regions: RamRegion[] = [];
  const seen = new Set<number>();
  const descriptors = readdirSync(`/proc/${pid}/fd`)
    .map(Number)
    .sort((a, b) => a - b);
  for (const fd of descriptors) {
    const path = `/proc/${pid}/fd/${fd}`;
    try {
      const name = readlinkSync(path);
      const memfd = memfdName.test(name);
      if (!memfd && (name.startsWith('/memfd:') || !name.startsWith('/'))) continue;
      const stat = statSync(path);
      if (!stat.isFile() || stat.size === 0 || seen.has(stat.ino) || !shared.has(String(stat.ino))) continue;
      seen.add(stat.ino);
      regions.push({ name, path, size: stat.size });
    } catch {
      // The descriptor was closed meanwhile.
    }
  }
  return regions;
}

function sharedRam(pid: number, side: string): RamRegion[] {
  let regions: RamRegion[];
  try {
    regions = ramOf(pid);
  } catch (error) {
    const refused = error instanceof Error && 'code' in error && error.code === 'EACCES';
    throw new CompanionError('VC_RAM_PROOF', `can't look at the ${side} QEMU (pid ${pid})`, {
      ...(refused && { hint: foreignQemuHint }),
      cause: error,
    });
  }
  if (regions.length === 0)
    throw new CompanionError('VC_RAM_PROOF', `the ${side} QEMU (pid ${pid}) has no shared guest RAM`, {
      hint: 'give QEMU -object memory-backend-memfd,share=on and -machine memory-backend=',
    });
  return regions;
}

/**
 * Compares the guest RAM of two stopped QEMUs, page by page. This process does nothing else meanwhile.
 * @throws CompanionError VC_RAM_PROOF when there is nothing to compare, or the sizes differ
 */
export function verifyRam(source: { pid: number }, destination: { pid: number }): RamProof {
  const comparison = compareRam(source, destination);
  for (;;) {
    const { done, value } = comparison.next();
    if (done === true) return value;
  }
}

/**
 * The same, in pieces: what else this process has to notice, as that one of the QEMUs is gone, it notices meanwhile, and all of it
 * before this resolves.
 * @throws as `verifyRam`; the reason of `signal` when that is aborted
 */
export async function verifyRamInTurns(
  source: { pid: number },
  destination: { pid: number },
  signal: AbortSignal,
): Promise<RamProof> {
  const comparison = compareRam(source, destination);
  for (;;) {
    const { done, value } = comparison.next();
    // What was waiting before the first of them has been handled before the second.
    await immediate();
    await immediate();
    signal.throwIfAborted();
    if (done === true) return value;
  }
}

/**
 * What would be compared of two QEMUs.
 * @throws as `verifyRam`
 */
export function comparableRam(
  source: { pid: number },
  destination: { pid: number },
): { left: RamRegion[]; right: RamRegion[] } {
  const left = sharedRam(source.pid, 'source');
  const right = sharedRam(destination.pid, 'destination');
  const sizes = (regions: readonly RamRegion[]): string => regions.map(({ size }) => size).join(', ');
  if (sizes(left) !== sizes(right))
    throw new CompanionError(
      'VC_RAM_PROOF',
      `guest RAM differs in size: ${sizes(left)} against ${sizes(right)}`,
    );
  return { left, right };
}

/** Yields after each piece. */
function* compareRam(source: { pid: number }, destination: { pid: number }): Generator<undefined, RamProof> {
  const started = performance.now();
  const { left, right } = comparableRam(source, destination);
  let bytes = 0;
  let differing = 0;
  const first: DifferingPage[] = [];
  for (const [index, a] of left.entries()) {
    const b = right[index];
    if (b === undefined) continue;
    bytes += a.size;
    for (let from = 0; from < a.size; from += pieceSize) {
      const to = Math.min(from + pieceSize, a.size);
      differing += withFile(a, (ours) =>
        withFile(b, (theirs) => compareFiles(a.name, ours, theirs, { from, to }, first)),
      );
      yield;
    }
  }
  const pages = Math.ceil(bytes / pageSize);
  return { pages, bytes, differing, first, milliseconds: performance.now() - started };
}

function withFile<T>(region: RamRegion, use: (fd: number) => T): T {
  const fd = openSync(region.path, 'r');
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * Compares a range of two files; returns the number of differing pages and adds the first ones to `first`. They are read, not
 * mapped: a mapping would fault on each page, and give memory to those that the guest has never used. Where both have a hole, both
 * are zero.
 *
 * @throws CompanionError VC_RAM_PROOF when one ends early
 */
export function compareFiles(
  name: string,
  source: number,
  destination: number,
  { from, to }: { readonly from: number; readonly to: number },
  first: DifferingPage[],
): number {
  const ours = Buffer.allocUnsafe(blockSize);
  const theirs = Buffer.allocUnsafe(blockSize);
  let differing = 0;
  for (let at = from; at < to; at += blockSize) {
    const data = Math.min(nextData(source, at), nextData(destination, at));
    if (data >= to) break;
    at = data - (data % pageSize);
    const length = Math.min(blockSize, to - at);
    readBlock(name, source, ours, length, at);
    readBlock(name, destination, theirs, length, at);
    if (ours.compare(theirs, 0, length, 0, length) !== 0)
      differing += comparePages(name, ours.subarray(0, length), theirs.subarray(0, length), at, first);
  }
  return differing;
}

function readBlock(name: string, fd: number, into: Buffer, length: number, at: number): void {
  for (let done = 0; done < length; ) {
    const got = readSync(fd, into, done, length - done, at + done);
    if (got === 0) throw new CompanionError('VC_RAM_PROOF', `guest RAM ${name} ends at ${at + done}`);
    done += got;
  }
}

function comparePages(name: string, a: Buffer, b: Buffer, base: number, first: DifferingPage[]): number {
  let differing = 0;
  for (let page = 0; page < a.length; page += pageSize) {
    const end = Math.min(page + pageSize, a.length);
    if (a.compare(b, page, end, page, end) === 0) continue;
    differing += 1;
    if (first.length < namedPages) first.push(describe(name, a, b, page, end, base));
  }
  return differing;
}

function describe(
  region: string,
  a: Buffer,
  b: Buffer,
  page: number,
  end: number,
  base: number,
): DifferingPage {
  let at = page;
  while (at < end && a[at] === b[at]) at += 1;
  return { region, offset: base + page, at: at - page, source: a[at] ?? 0, destination: b[at] ?? 0 };
}

/** Those that have a socket of this path open, as far as they may be looked at; undefined when there is no such socket. */
function holdersOf(path: string): number[] | undefined {
  const inodes = new Set<string>();
  for (const line of readFileSync('/proc/net/unix', 'utf8').split('\n')) {
    const fields = line.trim().split(/\s+/);
    if (fields.slice(7).join(' ') === path && fields[6] !== undefined) inodes.add(`socket:[${fields[6]}]`);
  }
  if (inodes.size === 0) return undefined;
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry) && holds(entry, inodes))
    .map(Number);
}

/** Whether somebody on this machine has UNIX socket `path` whose process may not be looked at: another user. */
export function isForeignUnixSocket(path: string): boolean {
  return holdersOf(path)?.length === 0;
}

/**
 * The process that listens on (or is connected at) UNIX socket `path`; undefined when it can't be told, as for
 * another user's process or another machine's, or for a relative path at which several listen, each in its own folder.
 */
export function pidOfUnixSocket(path: string): number | undefined {
  const pids = holdersOf(path)?.filter((pid) => pid !== process.pid);
  return pids?.length === 1 ? pids[0] : undefined;
}

/** Whether a process has one of these open. */
function holds(pid: string, links: ReadonlySet<string>): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => links.has(linkAt(`/proc/${pid}/fd/${fd}`)));
  } catch {
    // Gone, or not ours to look at.
    return false;
  }
}

function linkAt(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    // Closed meanwhile.
    return '';
  }
}
