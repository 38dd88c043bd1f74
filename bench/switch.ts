/**
 * Frames through our switch (a process of its own) against a Linux bridge with two taps, both ends in this
 * process, alternating in one run: frames and megabytes per second with a window of frames under way, and the
 * time of one frame there and one back. Ratios are what counts; the machine's own speed cancels out.
 *
 *   node dist/bench/switch.js [ROUNDS]
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../src/log.ts';
import { createReactor } from '../src/loop/index.ts';
import { type HostPort, openPort, parseMac, Switch, specText } from '../src/net/index.ts';
import { canUseTaps, TestNet } from '../src/net/testnet.ts';

const SIZES = [64, 1500, 9000];
const WINDOW = 256;
const SECONDS = 0.5;
const TRIPS = 2000;
const NS = 1e9;
const macs = [parseMac('52:54:00:00:00:01'), parseMac('52:54:00:00:00:02')] as const;

const log = silentLogger;
const reactor = createReactor({
  onError: (error) => {
    throw error;
  },
});

async function serve(path: string): Promise<void> {
  const network = new Switch({ reactor, log, path });
  process.once('SIGTERM', () => reactor.stop());
  process.stdout.write('ready\n');
  await reactor.run();
  network.close();
}

function frame(size: number, to: Uint8Array, from: Uint8Array): Buffer {
  const bytes = Buffer.alloc(size);
  bytes.set(to, 0);
  bytes.set(from, 6);
  bytes.writeUInt16BE(0x88b5, 12);
  return bytes;
}

/** Frames per second from one port to another, at most `WINDOW` under way. */
function throughput(from: HostPort, to: HostPort, size: number): number {
  const bytes = frame(size, macs[1], macs[0]);
  const parts = [bytes.subarray(0, 54), bytes.subarray(54)];
  let received = 0;
  to.receive((got) => {
    if (got.length === size && got[12] === 0x88) received++;
    return true;
  });
  let sent = 0;
  let lost = 0;
  const start = reactor.now();
  const end = start + SECONDS * NS;
  let heard = start;
  let before = 0;
  for (;;) {
    const now = reactor.now();
    if (received !== before) {
      before = received;
      heard = now;
    } else if (now - heard > NS / 10) {
      // A full queue on the way has dropped some.
      lost += sent - lost - received;
      heard = now;
    }
    if (now > end) break;
    while (sent - lost - received < WINDOW) {
      from.send(parts, size);
      sent++;
    }
    reactor.turn(1);
  }
  const rate = (received * NS) / (reactor.now() - start);
  for (let quiet = 0; quiet < 3; quiet++) reactor.turn(5);
  if (lost > 0) process.stdout.write(`  (${lost} frames lost on ${from.kind})\n`);
  return rate;
}

/** Microseconds for a frame there and one back, median. */
function roundTrip(a: HostPort, b: HostPort): number {
  const [there, back] = [frame(64, macs[1], macs[0]), frame(64, macs[0], macs[1])];
  let arrived = false;
  b.receive((got) => {
    if (got[12] === 0x88) b.send([back], back.length);
    return true;
  });
  a.receive((got) => {
    if (got[12] === 0x88) arrived = true;
    return true;
  });
  const times: number[] = [];
  for (let trip = 0; trip < TRIPS; trip++) {
    const start = reactor.now();
    arrived = false;
    a.send([there], there.length);
    while (!arrived) reactor.turn(100);
    times.push(reactor.now() - start);
  }
  return median(times) / 1000;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((x, y) => x - y);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

async function ports(specs: readonly [string, string]): Promise<[HostPort, HostPort]> {
  const opened = specs.map((spec) => openPort(spec, { reactor, log }));
  const [a, b] = opened as [HostPort, HostPort];
  while (!a.linkUp || !b.linkUp) {
    reactor.turn(10);
    await new Promise((resolve) => setImmediate(resolve));
  }
  a.announce(macs[0]);
  b.announce(macs[1]);
  const settled = reactor.now() + NS;
  while (reactor.now() < settled) reactor.turn(10);
  return [a, b];
}

async function bench(rounds: number): Promise<void> {
  const able = canUseTaps();
  const directory = mkdtempSync(join(tmpdir(), 'vc-bench-'));
  const path = join(directory, 'switch');
  const child = spawn(process.execPath, [process.argv[1] ?? '', '--switch', path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const net = able.ok ? await TestNet.create({ taps: 2, mtu: 9000 }) : undefined;
  try {
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const kinds = new Map<string, [HostPort, HostPort]>();
    kinds.set('switch', await ports([`switch:${specText(path)}`, `switch:${specText(path)}`]));
    if (net === undefined) process.stdout.write(`no bridge to compare with: ${able.ok ? '' : able.reason}\n`);
    else kinds.set('bridge', await ports([net.tapSpec(0), net.tapSpec(1)]));
    const results = new Map<string, number[]>();
    const note = (key: string, value: number) => results.set(key, [...(results.get(key) ?? []), value]);
    for (let round = 0; round < rounds; round++)
      for (const [kind, [a, b]] of kinds) {
        for (const size of SIZES) note(`${kind} ${size}`, throughput(a, b, size));
        note(`${kind} trip`, roundTrip(a, b));
      }
    const of = (key: string) => median(results.get(key) ?? []);
    for (const size of SIZES) {
      const [ours, theirs] = [of(`switch ${size}`), of(`bridge ${size}`)];
      const text = (rate: number) => `${Math.round(rate)}/s ${((rate * size) / 1e6).toFixed(0)} MB/s`;
      process.stdout.write(
        `${size} B: switch ${text(ours)}, bridge ${text(theirs)}, ratio ${(ours / theirs).toFixed(2)}\n`,
      );
    }
    const [ours, theirs] = [of('switch trip'), of('bridge trip')];
    process.stdout.write(
      `round trip: switch ${ours.toFixed(1)} µs, bridge ${theirs.toFixed(1)} µs, ratio ${(ours / theirs).toFixed(2)}\n`,
    );
    for (const pair of kinds.values()) for (const port of pair) port.close();
  } finally {
    child.kill('SIGTERM');
    await net?.close();
    rmSync(directory, { recursive: true, force: true });
    reactor.close();
  }
}

if (process.argv[2] === '--switch') await serve(process.argv[3] ?? '');
else await bench(Number(process.argv[2] ?? 5));
