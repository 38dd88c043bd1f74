/**
 * The same device, the `ram` model, through our native server and through libvfio-user, in alternation in one run:
 * round trip of a register read, DMA through mapped guest memory, DMA by message. Client and server are pinned to a
 * CPU each where there are two. Prints a table and, last, one line of JSON.
 *
 *   node dist/bench/transports.js [--rounds 4] [--reads 20000]
 *
 * Libraries: the one that `make libvfio-user` built, and `$LIBVFIO_USER` if it is set to another.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { shippedModel } from '../device-models/index.ts';
import { command, registers, status } from '../device-models/ram/registers.ts';
import { silentLogger } from '../src/log.ts';
import { createReactor } from '../src/loop/index.ts';
import { closeFd, memfdCreate } from '../src/posix/index.ts';
import { DeviceRuntime } from '../src/runtime/device-runtime.ts';
import { libraryVariable, locateLibvfioUser } from '../src/setup/libvfio-user.ts';
import { LibvfioUserServer } from '../src/transport/libvfio-user/index.ts';
import { NativeServer } from '../src/transport/native/index.ts';
import { operations, VfioUserClient } from '../src/vfio-user/client/index.ts';
import { pciRegion } from '../src/vfio-user/constants.ts';
import { socketAppears, stop } from './child.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '4' },
    reads: { type: 'string', default: '20000' },
    /** Internal: serve on this socket instead of measuring. */
    serve: { type: 'string' },
    /** Internal: through the library at this path, else by the native server. */
    library: { type: 'string' },
    'busy-wait-ns': { type: 'string', default: '0' },
  },
});

const mib = 2 ** 20;
const mappedAt = 0x1000_0000;
const messageAt = 0x2000_0000;
const transfers = 64;
const bothProt = 3;

async function serve(path: string): Promise<void> {
  const reactor = createReactor({ busyWaitNs: Number(values['busy-wait-ns']) });
  const log = silentLogger;
  const model = await shippedModel('ram');
  if (model === undefined) throw new Error('no ram model');
  const device = new DeviceRuntime(model, { reactor, log });
  const library =
    values.library === undefined ? undefined : locateLibvfioUser({ [libraryVariable]: values.library });
  const server =
    library === undefined
      ? new NativeServer({ reactor, device, path, role: 'device', log })
      : new LibvfioUserServer({ reactor, device, path, log, library });
  process.once('SIGTERM', () => reactor.stop());
  await reactor.run();
  server.close();
  device.close();
  reactor.close();
}

/** Samples of one process: µs for each read, MiB/s of each kind of DMA. */
interface Sample {
  readonly reads: Float64Array;
  readonly mapped: number;
  /** The device writes to the guest, and reads from it. */
  readonly message: number;
  readonly messageRead: number;
}

function set64(client: VfioUserClient, offset: number, value: number): void {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  client.regionWrite(0, offset, bytes);
}

/** MiB/s of DMA to or from guest memory at `guest`, 1 MiB at a time. */
function dma(client: VfioUserClient, guest: number, direction: number = command.toGuest): number {
  set64(client, registers.GUEST_ADDRESS.offset, guest);
  set64(client, registers.DEVICE_ADDRESS.offset, 0);
  set64(client, registers.LENGTH.offset, mib);
  const once = () => {
    client.writeRegister(0, registers.COMMAND.offset, direction);
    let state: number;
    do state = client.readRegister(0, registers.STATUS.offset);
    while (state !== status.done && state !== status.dmaFault);
    if (state !== status.done) throw new Error(`DMA failed: status ${state}`);
  };
  for (let i = 0; i < transfers / 4; i++) once();
  const begin = performance.now();
  for (let i = 0; i < transfers; i++) once();
  return (transfers * 1000) / (performance.now() - begin);
}

function measure(path: string, count: number): Sample {
  const client = VfioUserClient.connect(path);
  client.writeRegister(pciRegion.config, 4, 6, 2);
  const fd = memfdCreate('guest', mib);
  client.dmaMap({ iova: mappedAt, size: mib, prot: bothProt, fd });
  closeFd(fd);
  client.dmaMap({ iova: messageAt, size: mib, prot: bothProt, bytes: Buffer.alloc(mib) });
  const read = operations.regionRead(0, registers.SCRATCH.offset, 4);
  const reads = new Float64Array(count);
  for (let i = 0; i < count / 4; i++) client.run(read);
  for (let i = 0; i < count; i++) {
    const begin = performance.now();
    client.run(read);
    reads[i] = (performance.now() - begin) * 1000;
  }
  const sample = {
    reads,
    mapped: dma(client, mappedAt),
    message: dma(client, messageAt),
    messageRead: dma(client, messageAt, command.fromGuest),
  };
  client.close();
  return sample;
}

interface Contestant {
  readonly name: string;
  readonly args: readonly string[];
  readonly samples: Sample[];
}

function contestants(): Contestant[] {
  const list: Contestant[] = [];
  const add = (name: string, args: readonly string[]) => {
    list.push({ name, args, samples: [] });
    list.push({ name: `${name}, busy-waiting`, args: [...args, '--busy-wait-ns', '200000'], samples: [] });
  };
  add('native', []);
  const built = locateLibvfioUser({ ...process.env, [libraryVariable]: '' });
  const named = process.env[libraryVariable] ? locateLibvfioUser() : undefined;
  for (const library of [built, named]) {
    if (library !== undefined) add(`libvfio-user ${library.generation}`, ['--library', library.path]);
  }
  return list;
}

async function compare(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'vc-bench-'));
  const self = fileURLToPath(import.meta.url);
  const list = contestants();
  const cpu = String(cpus().length > 1 ? 1 : 0);
  execFileSync('taskset', ['-cp', '0', String(process.pid)], { stdio: 'ignore' });
  try {
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const [index, { args, samples }] of list.entries()) {
        const path = join(directory, `${round}-${index}`);
        const child = spawn('taskset', ['-c', cpu, process.execPath, self, '--serve', path, ...args], {
          stdio: ['ignore', 'ignore', 'inherit'],
        });
        try {
          await socketAppears(path);
          samples.push(measure(path, Number(values.reads)));
        } finally {
          await stop(child);
        }
      }
    }
    report(list);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function report(list: readonly Contestant[]): void {
  const round = (value: number) => Math.round(value * 100) / 100;
  const results = list.map(({ name, samples }) => {
    const all = Float64Array.from(samples.flatMap(({ reads }) => [...reads])).sort();
    const at = (part: number) => round(all[Math.floor(all.length * part)] ?? Number.NaN);
    const best = (of: (sample: Sample) => number) => round(Math.max(...samples.map(of)));
    return {
      name,
      medianUs: at(0.5),
      p99Us: at(0.99),
      mappedMiBs: best(({ mapped }) => mapped),
      messageMiBs: best(({ message }) => message),
      messageReadMiBs: best(({ messageRead }) => messageRead),
    };
  });
  for (const { name, medianUs, p99Us, mappedMiBs, messageMiBs, messageReadMiBs } of results) {
    const read = `read median ${medianUs.toFixed(2).padStart(6)} µs  p99 ${p99Us.toFixed(2).padStart(7)} µs`;
    const moved = `mapped ${mappedMiBs.toFixed(0).padStart(6)} MiB/s  message ${messageMiBs.toFixed(0).padStart(5)} MiB/s out, ${messageReadMiBs.toFixed(0).padStart(5)} MiB/s in`;
    console.log(`${name.padEnd(30)} ${read}  ${moved}`);
  }
  console.log(JSON.stringify({ bench: 'transports', results }));
}

if (values.serve === undefined) await compare();
else await serve(values.serve);
