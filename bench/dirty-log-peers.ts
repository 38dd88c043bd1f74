/**
 * The dirty log against libvfio-user's tracker: the same writes by the same device in JavaScript on our native server and on
 * libvfio-user, and in C on libvfio-user; then reports over 1 TiB by the same client. In alternation; medians.
 *
 *   node dist/bench/dirty-log-peers.js [--rounds 5] [--writes 300000] [--include DIR]
 *
 * The library is `$LIBVFIO_USER`, else the one that `make libvfio-user` built. DIR holds libvfio-user.h; where it is not
 * given, it is looked for beside a build tree (`../../include` from the library).
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { closeFd, memfdCreate } from '../src/posix/index.ts';
import { type LibvfioUser, locateLibvfioUser } from '../src/setup/libvfio-user.ts';
import { VfioUserClient } from '../src/vfio-user/client/index.ts';
import { pciRegion } from '../src/vfio-user/constants.ts';
import { registers } from './dirty-log-device.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    writes: { type: 'string', default: '300000' },
    include: { type: 'string' },
  },
});
const writes = Number(values.writes);
const page = 4096;
const GiB = 2 ** 30;
const TiB = 2 ** 40;
/** One mapping; its bitmap of 512 KiB fits in a message of any server. All are of the same file, which stays sparse. */
const regionSize = 16 * GiB;
const readWrite = 3;

/** What is written, 64 bytes at a time. Each pattern stays in one mapping. */
const patterns = {
  samePage: { stride: 0, span: page },
  ring: { stride: 2048, span: 16 * 2 ** 20 },
  scattered: { stride: 4099 * page, span: 64 * 2 ** 20 },
} as const;
type Pattern = keyof typeof patterns;
const patternNames = Object.keys(patterns) as Pattern[];
/** Pages written before the second kind of report, evenly in 1 TiB. */
const scatteredPages = 10_000;

interface Sample {
  /** Nanoseconds of a write, logging off and on. */
  readonly off: Record<Pattern, number>;
  readonly on: Record<Pattern, number>;
  /** Milliseconds of a report over all of it. */
  readonly clean: number;
  readonly scattered: number;
}

interface Contestant {
  readonly name: string;
  readonly command: readonly string[];
  readonly samples: Sample[];
}

function set(client: VfioUserClient, register: keyof typeof registers, value: number): void {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  client.regionWrite(0, registers[register].offset, bytes);
}

/** Nanoseconds of each of `count` writes. */
function write(client: VfioUserClient, stride: number, span: number, count: number): number {
  set(client, 'STRIDE', stride % span);
  set(client, 'SPAN', span);
  set(client, 'START', count);
  const took = client.regionRead(0, registers.NANOSECONDS.offset, 8).readBigUInt64LE();
  return Number(took) / count;
}

function writeAll(client: VfioUserClient): Record<Pattern, number> {
  const one = (name: Pattern) => write(client, patterns[name].stride, patterns[name].span, writes);
  return { samePage: one('samePage'), ring: one('ring'), scattered: one('scattered') };
}

/** Milliseconds until 1 TiB is reported, and the dirty pages in it. */
function report(client: VfioUserClient): { ms: number; pages: number } {
  const bitmaps: Buffer[] = [];
  const begin = performance.now();
  for (let iova = 0; iova < TiB; iova += regionSize)
    bitmaps.push(client.reportDmaLogging(iova, regionSize, page));
  const ms = performance.now() - begin;
  let pages = 0;
  for (const bitmap of bitmaps)
    for (const byte of bitmap) for (let left = byte; left !== 0; left &= left - 1) pages++;
  return { ms, pages };
}

function measure(client: VfioUserClient): Sample {
  client.writeRegister(pciRegion.config, 4, 6, 2); // memory space, bus master
  const fd = memfdCreate('guest', regionSize);
  for (let iova = 0; iova < TiB; iova += regionSize)
    client.dmaMap({ iova, size: regionSize, prot: readWrite, fd });
  closeFd(fd);
  set(client, 'BASE', 0);
  set(client, 'LENGTH', 64);
  writeAll(client); // the memory is there, the code is hot
  const off = writeAll(client);
  client.startDmaLogging(page);
  writeAll(client);
  const on = writeAll(client);
  report(client);
  const clean = report(client);
  write(client, Math.floor(TiB / scatteredPages / page) * page, TiB, scatteredPages);
  const scattered = report(client);
  if (clean.pages !== 0 || scattered.pages !== scatteredPages)
    throw new Error(
      `${clean.pages} and ${scattered.pages} dirty pages; 0 and ${scatteredPages} were written`,
    );
  client.stopDmaLogging();
  return { off, on, clean: clean.ms, scattered: scattered.ms };
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 2000);
  await ended;
  clearTimeout(timer);
}

/** Compiles the device in C; returns its path, or why there is none. */
function compile(folder: string, library: LibvfioUser): { program: string } | { reason: string } {
  const lib = dirname(library.path);
  const include = values.include ?? join(lib, '../../include');
  if (!existsSync(join(include, 'libvfio-user.h')))
    return { reason: `no libvfio-user.h in ${include}; name its folder with --include` };
  const program = join(folder, 'device');
  const source = fileURLToPath(new URL('../../bench/dirty-log-libvfio-user.c', import.meta.url));
  const args = ['-O2', `-I${include}`, '-o', program, source, library.path, `-Wl,-rpath,${lib}`];
  try {
    execFileSync('cc', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    return { reason: `cc: ${String((error as { stderr?: unknown }).stderr ?? error).split('\n')[0]}` };
  }
  return { program };
}

function contestants(folder: string): Contestant[] {
  const device = fileURLToPath(new URL('./dirty-log-device.js', import.meta.url));
  const list: Contestant[] = [{ name: 'native', command: [process.execPath, device], samples: [] }];
  const library = locateLibvfioUser();
  if (library === undefined) {
    console.log('libvfio-user: not there (make libvfio-user, or LIBVFIO_USER)');
    return list;
  }
  if (library.generation === 'v1') {
    console.log(
      `libvfio-user: ${library.path} is of 2022 and knows no DMA_LOGGING; set LIBVFIO_USER to a newer one`,
    );
    return list;
  }
  const [node, ...rest] = list[0]?.command ?? [];
  if (node !== undefined)
    list.push({ name: 'libvfio-user', command: [node, ...rest, library.path], samples: [] });
  const compiled = compile(folder, library);
  if ('reason' in compiled) console.log(`libvfio-user, device in C: skipped: ${compiled.reason}`);
  else list.push({ name: 'libvfio-user, device in C', command: [compiled.program], samples: [] });
  return list;
}

function median(list: readonly number[]): number {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function summary({ name, samples }: Contestant) {
  const each = (of: (sample: Sample, pattern: Pattern) => number) =>
    Object.fromEntries(
      patternNames.map((p) => [p, Number(median(samples.map((s) => of(s, p))).toFixed(1))]),
    ) as Record<Pattern, number>;
  return {
    name,
    writeNs: each((s, p) => s.off[p]),
    loggedNs: each((s, p) => s.on[p]),
    markNs: each((s, p) => s.on[p] - s.off[p]),
    reportTiBms: {
      clean: Number(median(samples.map((s) => s.clean)).toFixed(2)),
      scattered: Number(median(samples.map((s) => s.scattered)).toFixed(2)),
    },
  };
}

const folder = mkdtempSync(join(tmpdir(), 'vc-bench-'));
try {
  const list = contestants(folder);
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [index, { command, samples }] of list.entries()) {
      const path = join(folder, `${round}-${index}`);
      const [program = '', ...args] = command;
      // The socket comes before the library in the arguments of dirty-log-device.js.
      const at = program === process.execPath ? 1 : 0;
      const child = spawn(program, [...args.slice(0, at), path, ...args.slice(at)], {
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      try {
        for (let tries = 0; tries < 400 && !existsSync(path); tries++)
          await new Promise((resolve) => setTimeout(resolve, 25));
        const client = VfioUserClient.connect(path);
        samples.push(measure(client));
        client.close();
      } finally {
        await stop(child);
      }
    }
  }
  const results = list.map(summary);
  for (const { name, writeNs, loggedNs, markNs, reportTiBms } of results) {
    const ns = (of: Record<Pattern, number>) =>
      patternNames.map((p) => of[p].toFixed(0).padStart(5)).join('');
    const reports = `${reportTiBms.clean.toFixed(1)} / ${reportTiBms.scattered.toFixed(1)}`;
    console.log(
      `${name.padEnd(26)} ns a write${ns(writeNs)}  logged${ns(loggedNs)}  mark${ns(markNs)}  ms a report ${reports}`,
    );
  }
  console.log(JSON.stringify({ bench: 'dirty-log-peers', patterns: patternNames, results }));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
