/**
 * Save and load of a `ram` device's memory between two server processes, through their migration sockets: what an
 * orchestrator gets. Run: `npm run build && node dist/bench/state-stream-sockets.js [MiB] [requests in flight] [KiB a request]
 * [sockets] [populate]`. `sockets`: without memory that both servers share; `populate`: only without the page faults of
 * memory that the target uses for the first time.
 * Prints a JSON object for each: GB/s of save plus load as a whole, CPU seconds, and what each server had in memory
 * (the board's own memory is part of it).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { migrationState } from '../src/migration/index.ts';
import { closeFd, memfdCreate, sealSize, write } from '../src/posix/index.ts';
import { VfioUserClient } from '../src/vfio-user/client/index.ts';
import { companion, readState, writeState } from '../src/vfio-user/client/operations.ts';

const megabytes = Number(process.argv[2] ?? 1024);
const inFlight = Number(process.argv[3] ?? 2);
/** Bytes asked for at a time. */
const transfer = Number(process.argv[4] ?? 2048) * 1024;
/** Without the window of memory that both servers share: every byte twice through a socket. */
const socketsOnly = process.argv.includes('sockets');
/** Whether the target has its memory beforehand: page faults depend on the machine alone, and both are worth knowing. */
const populated = process.argv.includes('populate') ? [true] : [false, true];
/** What fills the memory beforehand. */
const pieceSize = 1024 * 1024;
/** The ram model's on-board memory. */
const memoryBar = 2;
const folder = mkdtempSync(join(tmpdir(), 'state-stream-'));
const main = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));

interface Server {
  readonly process: ChildProcess;
  readonly device: VfioUserClient;
  readonly migration: VfioUserClient;
}

async function serve(name: string, populate: boolean): Promise<Server> {
  const paths = [join(folder, `${name}.sock`), join(folder, `${name}.mig`)] as const;
  const child = spawn(
    process.execPath,
    [
      main,
      'serve',
      'ram',
      '--set',
      `megabytes=${megabytes}`,
      '--set',
      `populate=${populate}`,
      '--socket',
      paths[0],
      '--migration-socket',
      paths[1],
      '--log',
      'warn',
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  await once(child.stdout, 'data'); // the line that says it listens
  const capabilities = { maxDataXferSize: Math.max(pieceSize, transfer) };
  return {
    process: child,
    device: VfioUserClient.connect(paths[0], { capabilities }),
    migration: VfioUserClient.connect(paths[1], { capabilities: { ...capabilities, companion: true } }),
  };
}

/** Anonymous memory of a process in MB; the board's own is part of it. */
function residentMB(server: Server): number {
  const status = readFileSync(`/proc/${server.process.pid}/status`, 'utf8');
  return Math.round(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1000);
}

/** CPU seconds, user and system, of a process so far: what a loaded machine doesn't blur. */
function cpuSeconds(pid: number | undefined): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const [utime = 0, stime = 0] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13)
    .map(Number);
  return (utime + stime) / 100;
}

/** Moves the whole stream through memory that both servers map, in pieces of `transfer`; returns its bytes. */
function moveThroughWindow(from: VfioUserClient, to: VfioUserClient): number {
  const slots = Math.max(2, inFlight);
  const size = slots * transfer;
  const fd = memfdCreate('state-window', size);
  sealSize(fd);
  const token = randomBytes(16);
  write(fd, token);
  for (const side of [from, to]) side.companion('openStateWindow', { pid: process.pid, fd, size, token });
  closeFd(fd);
  const length = transfer;
  const read = (slot: number) => from.submit(companion('readState', { offset: slot * transfer, length }));
  let bytes = 0;
  const reads = Array.from({ length: slots }, (_, slot) => read(slot));
  const writes: { wait(): unknown }[] = [];
  for (let slot = 0; ; slot = (slot + 1) % slots) {
    const piece = reads.shift()?.wait() as { length: number } | undefined;
    const count = piece?.length ?? 0;
    bytes += count;
    if (count > 0)
      writes.push(to.submit(companion('writeState', { offset: slot * transfer, length: count })));
    if (count < transfer) break;
    // Half of the slots wait to be loaded while the other half is filled.
    if (writes.length > slots / 2) {
      writes.shift()?.wait();
      reads.push(read((slot + 1 + reads.length) % slots));
    }
  }
  for (const pending of [...writes, ...reads]) pending.wait();
  for (const side of [from, to]) side.companion('closeStateWindow');
  return bytes;
}

/** Moves the whole stream, several requests of each side under way; returns its bytes. */
function move(from: VfioUserClient, to: VfioUserClient): number {
  let bytes = 0;
  const reads = Array.from({ length: inFlight }, () => from.submit(readState(transfer)));
  const writes: { wait(): void }[] = [];
  for (let more = true; reads.length > 0; ) {
    const data = reads.shift()?.wait() ?? Buffer.alloc(0);
    if (data.length < transfer) more = false;
    if (more) reads.push(from.submit(readState(transfer)));
    if (data.length > 0) writes.push(to.submit(writeState(data)));
    if (writes.length >= inFlight) writes.shift()?.wait();
    bytes += data.length;
  }
  for (const write of writes) write.wait();
  return bytes;
}

async function measure(populate: boolean): Promise<void> {
  const servers: Server[] = [];
  try {
    const source = await serve('source', populate);
    servers.push(source);
    const target = await serve('target', populate);
    servers.push(target);
    const piece = Buffer.alloc(pieceSize, 0x5a);
    for (let at = 0; at < megabytes; at++) source.device.regionWrite(memoryBar, at * pieceSize, piece);
    const before = servers.map(residentMB);
    source.migration.setState(migrationState.STOP_COPY);
    target.migration.setState(migrationState.RESUMING);
    const pids = [process.pid, source.process.pid, target.process.pid];
    const cpuBefore = pids.map(cpuSeconds);
    const start = process.hrtime.bigint();
    const through = socketsOnly ? move : moveThroughWindow;
    const streamed = through(source.migration, target.migration);
    target.migration.setState(migrationState.STOP);
    const ns = Number(process.hrtime.bigint() - start);
    const cpu = pids.map((pid, i) => Number((cpuSeconds(pid) - (cpuBefore[i] ?? 0)).toFixed(2)));
    const last = target.device.regionRead(memoryBar, (megabytes - 1) * pieceSize, pieceSize);
    if (!last.equals(piece)) throw new Error('the memory did not arrive');
    const result = {
      megabytes,
      populate,
      through: socketsOnly ? 'sockets' : 'window',
      inFlight,
      transfer,
      streamed,
      GBps: Number(((megabytes * pieceSize) / ns).toFixed(2)),
      seconds: ns / 1e9,
      cpuSeconds: {
        client: cpu[0],
        source: cpu[1],
        target: cpu[2],
      },
      residentMBBefore: before,
      residentMB: servers.map(residentMB),
    };
    process.stdout.write(`${JSON.stringify(result)}\n`);
  } finally {
    for (const { process: child, device, migration } of servers) {
      device.close();
      migration.close();
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      await gone;
    }
  }
}

try {
  for (const populate of populated) await measure(populate);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
