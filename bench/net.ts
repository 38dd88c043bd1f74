/**
 * Network throughput, packet rate and latency of one guest through our mlx5 and through QEMU's own e1000e, igb and
 * virtio-net, all on taps of the same Linux bridge, in alternation. Ratios are what counts; the machine's own speed
 * cancels out. Prints a table, whether the targets are met, and last one line of JSON. Without taps it says why and
 * measures nothing.
 *
 *   node dist/bench/net.js [--rounds 5] [--seconds 1] [--offered 60000] [--only mlx5,igb] [--measure tcpIn,ping]
 *                          [--busy-wait US]
 */
import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { canUseTaps } from '../src/net/testnet.ts';
import { type Measure, measure, measures, median } from './net-measure.ts';
import { NetWorld } from './net-world.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    /** Packets per second that the host sends for `packetsIn`: more than a guest takes, less than takes it a core. */
    offered: { type: 'string', default: '60000' },
    only: { type: 'string', default: '' },
    measure: { type: 'string', default: '' },
    /** As `serve --busy-wait`. */
    'busy-wait': { type: 'string' },
  },
});

const words = (text: string) => text.split(',').filter((word) => word !== '');
const ours = 'mlx5';
/** The targets are about these. */
const rivals = ['e1000e', 'igb'];
const warmUpSeconds = 1;

type Samples = Map<Measure, Map<string, number[]>>;

async function run(): Promise<void> {
  const chosen = words(values.measure);
  const all = (Object.keys(measures) as Measure[]).filter(
    (name) => chosen.length === 0 || chosen.includes(name),
  );
  const world = await NetWorld.start(words(values.only), values['busy-wait']);
  const samples: Samples = new Map(all.map((name) => [name, new Map()]));
  const options = { seconds: Number(values.seconds), offered: Number(values.offered) };
  try {
    // Translated and compiled code, on all sides: what is measured is not how fast it gets there.
    for (const name of all) {
      for (const nic of world.nics)
        await measure(world.agent, nic, name, { ...options, seconds: warmUpSeconds });
    }
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const [name, byNic] of samples) {
        // Each round begins with another one.
        const first = round % world.nics.length;
        for (const nic of [...world.nics.slice(first), ...world.nics.slice(0, first)]) {
          const value = await measure(world.agent, nic, name, options);
          byNic.set(nic.name, [...(byNic.get(nic.name) ?? []), value]);
        }
      }
    }
    report(world, samples);
  } finally {
    await world.close();
  }
}

function report(world: NetWorld, samples: Samples): void {
  const names = world.nics.map(({ name }) => name);
  const load = loadavg()[0] ?? Number.NaN;
  console.log(`guest ${world.kernel} under ${world.accelerator}, load average ${load.toFixed(1)}`);
  console.log(`${''.padEnd(40)}${names.map((name) => name.padStart(12)).join('')}`);
  const results: Record<string, Record<string, number>> = {};
  const ratios: Record<string, Record<string, number>> = {};
  const verdicts: string[] = [];
  for (const [name, byNic] of samples) {
    const medians = Object.fromEntries(names.map((nic) => [nic, median(byNic.get(nic) ?? [])]));
    results[name] = medians;
    const cells = names.map((nic) =>
      Math.round(medians[nic] ?? Number.NaN)
        .toString()
        .padStart(12),
    );
    console.log(`${measures[name].title.padEnd(40)}${cells.join('')}`);
    const own = medians[ours];
    if (own === undefined) continue;
    const over = Object.fromEntries(names.map((nic) => [nic, own / (medians[nic] ?? Number.NaN)]));
    ratios[name] = over;
    const shown = names.map((nic) => (nic === ours ? '' : `${over[nic]?.toFixed(2)}x`).padStart(12));
    console.log(`${'  mlx5 / theirs'.padEnd(40)}${shown.join('')}`);
    for (const rival of rivals) {
      const ratio = over[rival];
      if (ratio === undefined) continue;
      const met = measures[name].up ? ratio >= 1 : ratio <= 1;
      verdicts.push(
        `${met ? 'met   ' : 'missed'} ${name} against ${rival}: ${ratio.toFixed(2)}x, wanted ${measures[name].up ? '>=' : '<='} 1.0x`,
      );
    }
  }
  for (const verdict of verdicts) console.log(verdict);
  console.log(JSON.stringify({ bench: 'net', load, results, ratios }));
}

const able = canUseTaps();
if (able.ok) await run();
else console.log(`skipped: ${able.reason}`);
