/**
 * What a device costs in the blackout of a live migration. Guests that are the same but for one device are migrated in
 * turn, there and back: with no device and with QEMU's own e1000e, by plain QMP as anybody would; with devices of
 * ours, by `migrate`. The blackout is from QEMU's STOP at the source to its RESUME at the destination.
 *
 *   node dist/bench/downtime.js [--count N] [--kinds none,e1000e,ram,ring,marked,mlx5] [--json FILE]
 *
 * `ram` is the ram model writing 300 pages round and round, `ring` the same with 10,000 pages, `marked` that with every page
 * marked and none carried, `mlx5` a virtual function with its driver loaded and no traffic. Guests whose turn it is not are stopped.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Testbed, type TestbedDevice } from '../src/qemu/index.ts';
import type { MigrationReport } from '../src/report/types.ts';

interface Kind {
  readonly devices: readonly TestbedDevice[];
  readonly args?: readonly string[];
  /** Pages that the device writes, one every `intervalUs`. */
  readonly churn?: { readonly pages: number; readonly intervalUs: number };
  /** Default true. */
  readonly carryPages?: boolean;
}

/** Aimed at by QEMU's last pass of RAM, ms: what `migrate` starts with, for the plain ones as well. */
const downtimeLimitMs = 10;
const memoryMiB = 256;
/** Memory that the guest's kernel leaves to the churn ring, and where that begins. */
const linuxMemory = '192M';
const ringAddress = 0xc40_0000;

const kinds: Readonly<Record<string, Kind>> = {
  none: { devices: [] },
  e1000e: { devices: [], args: ['-device', 'e1000e,addr=5'] },
  ram: { devices: [{ id: 'dev0', model: 'ram', addr: '5' }], churn: { pages: 300, intervalUs: 300 } },
  ring: { devices: [{ id: 'dev0', model: 'ram', addr: '5' }], churn: { pages: 10_000, intervalUs: 20 } },
  marked: {
    devices: [{ id: 'dev0', model: 'ram', addr: '5' }],
    churn: { pages: 10_000, intervalUs: 20 },
    carryPages: false,
  },
  mlx5: { devices: [{ id: 'dev0', model: 'mlx5', addr: '5' }] },
};

interface Sample {
  readonly blackoutMs: number;
  /** Parts by name, ms: only of migrations that `migrate` made. */
  readonly parts: Readonly<Record<string, number>>;
  readonly markedPages: number;
  readonly carriedPages: number;
}

async function start({ devices, args, churn }: Kind): Promise<Testbed> {
  const append = `mem=${linuxMemory}`;
  const bed = await Testbed.start({ devices, vm: { memoryMiB, append, ...(args && { args }) } });
  await bed.agent.waitReady({ timeoutMs: 180_000 });
  if (churn !== undefined) {
    const tool = 'pcitool 1b36:11e1';
    const registers = [
      [0x60, 8, ringAddress],
      [0x68, 4, churn.pages],
      [0x6c, 4, churn.intervalUs],
    ];
    const writes = registers.map((register) => `${tool} write 0 ${register.join(' ')}`);
    await bed.agent.check([`${tool} enable`, ...writes].join(' && '));
  }
  return bed;
}

/** As a user of stock QEMU migrates: the destination starts by itself. */
async function migratePlainly(bed: Testbed): Promise<Sample> {
  const from = bed.current;
  const to = await bed.prepare();
  const uri = `unix:${join(bed.folder, `${to.name}.ram`)}`;
  const [source, destination] = [from.vm.qmp, to.vm.qmp];
  const after = destination.lastEvent;
  // In state "inmigrate" this means: start when loaded.
  await destination.execute('cont');
  await destination.execute('migrate-incoming', { uri });
  await source.execute('migrate-set-parameters', { 'downtime-limit': downtimeLimitMs });
  const waiting = { timeoutMs: 120_000 };
  const stopped = source.waitFor('STOP', () => true, { ...waiting, after: source.lastEvent });
  const resumed = destination.waitFor('RESUME', () => true, { ...waiting, after });
  await source.execute('migrate', { uri });
  const [stop, resume] = await Promise.all([stopped, resumed]);
  bed.follow(to);
  await from.close();
  return { blackoutMs: (resume.timeUs - stop.timeUs) / 1000, parts: {}, markedPages: 0, carriedPages: 0 };
}

async function migrateWithDevices(bed: Testbed, { carryPages = true }: Kind): Promise<Sample> {
  const report: MigrationReport = await bed.migrate({
    downtimeLimitMs: 5000,
    firstRamLimitMs: downtimeLimitMs,
    carryPages,
  });
  const parts: Record<string, number> = {};
  for (const { part, startUs, endUs } of report.timeline) parts[part] = (endUs - startUs) / 1000;
  const sum = (of: 'markedPages' | 'carriedPages'): number =>
    report.devices.reduce((total, device) => total + device[of], 0);
  return {
    blackoutMs: (report.blackoutUs ?? Number.NaN) / 1000,
    parts,
    markedPages: sum('markedPages'),
    carriedPages: sum('carriedPages'),
  };
}

/**
 * Stops a guest that is not measured, and then its devices, which would take CPU time from the others. Not its QEMU: that waits 5 s
 * for a device's answer, by a clock that does not stop with it.
 */
async function pause({ current }: Testbed): Promise<void> {
  await current.vm.qmp.execute('stop');
  for (const { pid } of current.servers.values()) process.kill(pid, 'SIGSTOP');
}

async function goOn({ current }: Testbed): Promise<void> {
  for (const { pid } of current.servers.values()) process.kill(pid, 'SIGCONT');
  await current.vm.qmp.execute('cont');
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return ((sorted[Math.ceil(middle) - 1] ?? Number.NaN) + (sorted[Math.floor(middle)] ?? Number.NaN)) / 2;
}

function summary(samples: readonly Sample[]) {
  const blackouts = samples.map(({ blackoutMs }) => blackoutMs);
  const names = new Set(samples.flatMap(({ parts }) => Object.keys(parts)));
  const parts: Record<string, number> = {};
  for (const name of names) parts[name] = median(samples.map((sample) => sample.parts[name] ?? 0));
  return {
    count: samples.length,
    medianMs: median(blackouts),
    bestMs: Math.min(...blackouts),
    worstMs: Math.max(...blackouts),
    markedPages: median(samples.map(({ markedPages }) => markedPages)),
    carriedPages: median(samples.map(({ carriedPages }) => carriedPages)),
    parts,
  };
}

function print(results: Readonly<Record<string, ReturnType<typeof summary>>>): void {
  const none = results.none?.medianMs;
  const e1000e = results.e1000e?.medianMs;
  for (const [name, result] of Object.entries(results)) {
    const { count, medianMs, bestMs, worstMs, markedPages, carriedPages, parts } = result;
    const ms = (value: number): string => value.toFixed(1);
    const against = [
      ...(none === undefined ? [] : [`${ms(medianMs - none)} ms more than none`]),
      ...(e1000e === undefined ? [] : [`${(medianMs / e1000e).toFixed(2)} x e1000e`]),
    ];
    console.log(
      `${name}: blackout ${ms(medianMs)} ms (${ms(bestMs)} to ${ms(worstMs)}, ${count}); ${against.join(', ')}` +
        (markedPages > 0 ? `; ${markedPages} pages marked` : '') +
        (carriedPages > 0 ? `; ${carriedPages} pages carried` : ''),
    );
    const listed = Object.entries(parts).map(([part, value]) => `${part} ${value.toFixed(2)}`);
    if (listed.length > 0) console.log(`  ${listed.join(', ')}`);
  }
}

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '10' },
    kinds: { type: 'string', default: 'none,e1000e,ram,ring,marked,mlx5' },
    json: { type: 'string' },
  },
});
const chosen = values.kinds.split(',').map((name) => {
  const kind = kinds[name];
  if (kind === undefined) throw new Error(`there is no kind "${name}": ${Object.keys(kinds).join(', ')}`);
  return { name, kind, samples: [] as Sample[] };
});
const beds = new Map<string, Testbed>();
try {
  for (const { name, kind } of chosen) {
    const bed = await start(kind);
    beds.set(name, bed);
    await pause(bed);
  }
  // The first of each is not counted: caches and files are cold.
  for (let round = 0; round <= Number(values.count); round++) {
    for (const { name, kind, samples } of chosen) {
      const bed = beds.get(name);
      if (bed === undefined) continue;
      await goOn(bed);
      const sample = await (kind.devices.length === 0 ? migratePlainly(bed) : migrateWithDevices(bed, kind));
      await pause(bed);
      if (round > 0) samples.push(sample);
    }
  }
} finally {
  await Promise.all([...beds.values()].map((bed) => bed.close()));
}
const results = Object.fromEntries(chosen.map(({ name, samples }) => [name, summary(samples)]));
print(results);
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify({ results }, undefined, 2)}\n`);
