/**
 * REGION_READ round trips: our native server against libvfio-user's C sample server, in alternation, measured
 * by the same client on the same machine in the same run, client and server pinned to a CPU each (as a vCPU and
 * a device server are) and, for comparison, both to one. Prints a table and, last, one line of JSON.
 *
 *   node dist/bench/round-trip.js [--reference /path/to/samples/server] [--rounds 6] [--reads 20000]
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { errno, RequestError } from '../src/errors.ts';
import { silentLogger } from '../src/log.ts';
import { createReactor } from '../src/loop/index.ts';
import { closeFd, connectUnix, recvBytes, sendMessage } from '../src/posix/index.ts';
import { NativeServer } from '../src/transport/native/index.ts';
import type { ServedDevice } from '../src/transport/served-device.ts';
import { encodeRequest, messages, readHeader } from '../src/vfio-user/messages.ts';
import { socketAppears, stop } from './child.ts';

const { values } = parseArgs({
  options: {
    reference: { type: 'string' },
    rounds: { type: 'string', default: '6' },
    reads: { type: 'string', default: '20000' },
    /** Internal: serve on this socket instead of measuring. */
    serve: { type: 'string' },
    'busy-wait-ns': { type: 'string', default: '0' },
  },
});

function nothing(): never {
  throw new RequestError(errno.EINVAL, 'not in this device');
}

/** The sample's BAR0: eight bytes that hold the difference between now and a time. */
function timeDevice(): ServedDevice {
  return {
    name: 'time',
    info: { regions: 9, irqs: 5, flags: 3 },
    attach() {},
    detach() {},
    regionInfo: () => ({ size: 8, flags: 3 }),
    regionIoFds: () => [],
    irqInfo: () => ({ count: 0, flags: 1 }),
    setIrqs: nothing,
    regionRead(_index, _offset, count, target, at) {
      if (count !== 8) nothing();
      target.writeUInt32LE(Math.floor(Date.now() / 1000), at);
      target.writeUInt32LE(0, at + 4);
    },
    checkRegionWrite() {},
    regionWrite() {},
    dmaMap: nothing,
    dmaUnmap: nothing,
    dmaUnmapAll() {},
    reset() {},
    migration: undefined,
    close() {},
  };
}

async function serve(path: string, busyWaitNs: number): Promise<void> {
  const reactor = createReactor({ busyWaitNs });
  const server = new NativeServer({ reactor, device: timeDevice(), path, role: 'device', log: silentLogger });
  process.once('SIGTERM', () => reactor.stop());
  await reactor.run();
  server.close();
  reactor.close();
}

interface Figures {
  readonly median: number;
  readonly p99: number;
}

/**
 * Round-trip times of `count` reads, microseconds. The client is as thin as one can be, a send and a receive of
 * bytes made beforehand: its own time is in the figures of both servers, and hides the difference between them.
 */
function measure(path: string, count: number): Float64Array {
  const fd = connectUnix(path);
  const reply = Buffer.alloc(4096);
  const ask = (request: Buffer): number => {
    sendMessage(fd, request, request.length, undefined, undefined, true);
    return recvBytes(fd, reply, 0, reply.length, true);
  };
  ask(encodeRequest(messages.VERSION, 0, { major: 0, minor: 0 }, Buffer.from('{}\0')));
  const size = 8;
  const read = encodeRequest(messages.REGION_READ, 1, { offset: 0, region: 0, count: size });
  const expected = read.length + size;
  const times = new Float64Array(count);
  // The first quarter warms both compilers up.
  for (let i = -Math.floor(count / 4); i < count; i++) {
    const begin = performance.now();
    const received = ask(read);
    const end = performance.now();
    if (received !== expected || readHeader(reply, 0).error !== 0)
      throw new Error(`a read of ${path} failed`);
    if (i >= 0) times[i] = (end - begin) * 1000;
  }
  closeFd(fd);
  return times;
}

function figures(samples: readonly Float64Array[]): Figures {
  const all = Float64Array.from(samples.flatMap((times) => [...times])).sort();
  const at = (part: number) => Math.round((all[Math.floor(all.length * part)] ?? Number.NaN) * 100) / 100;
  return { median: at(0.5), p99: at(0.99) };
}

async function waitFor(path: string): Promise<void> {
  await socketAppears(path);
  await new Promise((resolve) => setTimeout(resolve, 100));
}

const clientCpu = 0;
const placements =
  cpus().length > 1
    ? [
        { placement: 'two CPUs', cpu: 1 },
        { placement: 'one CPU', cpu: clientCpu },
      ]
    : [{ placement: 'one CPU', cpu: clientCpu }];

interface Contestant {
  readonly name: string;
  readonly placement: string;
  readonly cpu: number;
  readonly command: string;
  readonly args: (path: string) => string[];
  readonly samples: Float64Array[];
}

async function compare(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'vc-bench-'));
  const self = fileURLToPath(import.meta.url);
  const ours = (busy: number) => (path: string) => [self, '--serve', path, '--busy-wait-ns', String(busy)];
  const contestants: Contestant[] = [];
  for (const { placement, cpu } of placements) {
    const add = (name: string, command: string, args: (path: string) => string[]) =>
      contestants.push({ name, placement, cpu, command, args, samples: [] });
    add('native', process.execPath, ours(0));
    add('native, busy-waiting', process.execPath, ours(200_000));
    const { reference } = values;
    if (reference !== undefined) add('libvfio-user', reference, (path) => [path]);
  }
  execFileSync('taskset', ['-cp', String(clientCpu), String(process.pid)]);
  try {
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const contestant of contestants) {
        // A fresh process each time: the sample server ends when its client leaves.
        const path = join(directory, `${round}`);
        const { command, args, cpu } = contestant;
        const child = spawn('taskset', ['-c', String(cpu), command, ...args(path)], { stdio: 'ignore' });
        await waitFor(path);
        contestant.samples.push(measure(path, Number(values.reads)));
        await stop(child);
        rmSync(path, { force: true });
      }
    }
    report(contestants.map(({ name, placement, samples }) => ({ name, placement, ...figures(samples) })));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

interface Row extends Figures {
  readonly name: string;
  readonly placement: string;
}

function report(rows: readonly Row[]): void {
  const results = rows.map((row) => {
    const base = rows.find(({ name, placement }) => name === 'libvfio-user' && placement === row.placement);
    const ratio = base === undefined ? undefined : Math.round((row.median / base.median) * 1000) / 1000;
    return { ...row, ratio };
  });
  for (const { name, placement, median, p99, ratio } of results) {
    const against = ratio === undefined ? '' : `  ${ratio.toFixed(2)} × libvfio-user`;
    const times = `median ${median.toFixed(2).padStart(7)} µs  p99 ${p99.toFixed(2).padStart(8)} µs`;
    console.log(`${placement.padEnd(8)}  ${name.padEnd(22)} ${times}${against}`);
  }
  console.log(JSON.stringify({ bench: 'round-trip', unit: 'µs', results }));
}

if (values.serve === undefined) await compare();
else await serve(values.serve, Number(values['busy-wait-ns']));
