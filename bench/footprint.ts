/**
 * What a device server costs while nobody wants anything of it: CPU time as a share of one processor, and resident
 * memory, beside libvfio-user's C sample server when one is given. Prints a table and, last, one line of JSON.
 *
 *   node dist/bench/footprint.js [--reference /path/to/samples/server] [--seconds 5]
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { VfioUserClient } from '../src/vfio-user/client/index.ts';
import { pciRegion } from '../src/vfio-user/constants.ts';

const { values } = parseArgs({
  options: { reference: { type: 'string' }, seconds: { type: 'string', default: '5' } },
});
const cli = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
/** `sysconf(_SC_CLK_TCK)`: 100 on every Linux that Node runs on. */
const ticksPerSecond = 100;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

interface Footprint {
  readonly name: string;
  readonly idleCpuPercent: number;
  readonly residentMiB: number;
}

/** User and system time of a process, in seconds (proc(5), stat fields 14 and 15). */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

function residentMiB(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/^VmRSS:\s+(\d+)/m)?.[1]) / 1024;
}

async function measure(name: string, child: ChildProcess, socket: string, busy: boolean): Promise<Footprint> {
  const { pid } = child;
  if (pid === undefined) throw new Error(`${name} did not start`);
  while (!existsSync(socket)) await pause(20);
  await pause(200);
  const client = VfioUserClient.connect(socket);
  // It has been busy, so that whatever adapts to load has adapted.
  if (busy) for (let read = 0; read < 20_000; read++) client.regionRead(pciRegion.config, 0, 4);
  await pause(300);
  const before = cpuSeconds(pid);
  const seconds = Number(values.seconds);
  await pause(seconds * 1000);
  const idleCpuPercent = ((cpuSeconds(pid) - before) / seconds) * 100;
  const result = { name, idleCpuPercent, residentMiB: residentMiB(pid) };
  client.close();
  child.kill();
  return result;
}

const folder = mkdtempSync(join(tmpdir(), 'vfio-companion-'));
const results: Footprint[] = [];
try {
  for (const model of ['hello', 'ram', 'timer']) {
    const socket = join(folder, `${model}.sock`);
    const child = spawn(process.execPath, [cli, 'serve', model, '--socket', socket, '--log', 'warn']);
    results.push(await measure(`vfio-companion serve ${model}`, child, socket, true));
  }
  if (values.reference !== undefined) {
    const socket = join(folder, 'reference.sock');
    results.push(
      await measure('libvfio-user samples/server', spawn(values.reference, [socket]), socket, true),
    );
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
for (const { name, idleCpuPercent, residentMiB: resident } of results) {
  console.log(
    `${name.padEnd(32)} idle CPU ${idleCpuPercent.toFixed(2)} %   resident ${resident.toFixed(0)} MiB`,
  );
}
console.log(JSON.stringify({ bench: 'footprint', results }));
