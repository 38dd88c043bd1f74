/**
 * Migrates a guest with a network card there and back under traffic (TCP, UDP, ping; plain and in a VLAN):
 *
 *   ping-pong-network [TIMES, default 20] [--json] [--park-limit FRAMES]
 *
 * With a low limit (1) the switch keeps nothing while the guest moves, and it fails: to see what parking is good for.
 *
 * Exit status 1, with the reasons, when a page of RAM or the device's state differs, the guest's log has a warning, or
 * anything was lost, changed, doubled or reordered.
 */
import { parseArgs } from 'node:util';
import { Testbed } from '../src/qemu/index.ts';
import { duration } from '../src/report/format.ts';
import type { MigrationReport } from '../src/report/types.ts';
import { countFrom, fromCommandLine } from './arguments.ts';
import { configureGuest, guestWarnings, Network, plainNet, vlanNet } from './network.ts';
import { play } from './scene.ts';
import { faultsOf, Traffic, type TrafficReport } from './traffic.ts';

const { times, parkLimit, json } = fromCommandLine(
  'ping-pong-network [TIMES, default 20] [--json] [--park-limit FRAMES]',
  (args, usage) => {
    const { values, positionals } = parseArgs({
      args,
      options: {
        json: { type: 'boolean', default: false },
        'park-limit': { type: 'string', default: '8192' },
      },
      allowPositionals: true,
    });
    return {
      times: countFrom(positionals, usage, 20),
      parkLimit: countFrom([values['park-limit']], usage, 8192),
      json: values.json,
    };
  },
);
const tell = (line: string): void => void (json ? process.stderr : process.stdout).write(`${line}\n`);

interface Hop {
  readonly blackoutUs: number;
  readonly totalMs: number;
  readonly differingPages: number;
  readonly stateEqual: boolean;
}

function hopOf(report: MigrationReport): Hop {
  return {
    blackoutUs: report.blackoutUs ?? 0,
    totalMs: Math.round(report.totalMs),
    differingPages: report.ram?.differing ?? -1,
    stateEqual: report.devices.every((device) => device.stateEqual === true),
  };
}

function faultsOfHops(hops: readonly Hop[]): string[] {
  return hops.flatMap(({ differingPages, stateEqual }, index) => [
    ...(differingPages === 0 ? [] : [`hop ${index + 1}: ${differingPages} pages of RAM differ`]),
    ...(stateEqual ? [] : [`hop ${index + 1}: the device's state differs`]),
  ]);
}

function describeTraffic(name: string, { pings, udp, tcp }: TrafficReport): string {
  const stream =
    tcp === undefined ? '' : `; TCP ${tcp.guest.received} bytes to the guest, ${tcp.peer.received} from it`;
  return (
    `${name}: ${pings.lost} of ${pings.sent} pings lost; UDP ${udp.guest.received} datagrams to the guest, ` +
    `${udp.peer.received} from it, ${udp.guest.missing + udp.peer.missing} missing, longest silence ` +
    `${udp.guest.gapMs} and ${udp.peer.gapMs} ms${stream}`
  );
}

function describeBlackouts(hops: readonly Hop[]): string {
  const sorted = hops.map(({ blackoutUs }) => blackoutUs).sort((a, b) => a - b);
  const at = (index: number): string => duration(sorted[index] ?? 0);
  return `${hops.length} migrations, blackout with the RAM proof: ${at(0)} shortest, ${at(hops.length >> 1)} median, ${at(hops.length - 1)} longest`;
}

const network = await Network.create({ parkLimit });
try {
  const bed = await Testbed.start({
    devices: [{ id: 'nic0', model: 'mlx5', addr: '5', args: network.serveArguments('nic0') }],
    vm: { cpus: 2 },
  });
  await play(bed, async () => {
    await bed.agent.waitReady({ timeoutMs: 120_000 });
    await configureGuest(bed);
    const plain = await Traffic.start(bed, network, plainNet, 7001);
    const tagged = await Traffic.start(bed, network, vlanNet, 7011);
    const hops: Hop[] = [];
    while (hops.length < times) {
      const hop = hopOf(await bed.migrate({ verify: { ram: true, state: true }, downtimeLimitMs: 5000 }));
      hops.push(hop);
      tell(`${hops.length}: blackout ${duration(hop.blackoutUs)}, ${hop.totalMs} ms in all`);
      await plain.progress();
      await tagged.progress();
    }
    const [ofPlain, ofTagged] = await Promise.all([plain.end(), tagged.end()]);
    const traffic = { plain: ofPlain, vlan: ofTagged };
    const faults = [
      ...faultsOfHops(hops),
      ...faultsOf(plainNet, traffic.plain),
      ...faultsOf(vlanNet, traffic.vlan),
      ...(await guestWarnings(bed)).map((line) => `the guest's log: ${line}`),
    ];
    for (const [name, report] of Object.entries(traffic)) tell(describeTraffic(name, report));
    tell(describeBlackouts(hops));
    if (json)
      process.stdout.write(`${JSON.stringify({ peer: network.peer, hops, traffic, faults }, null, 2)}\n`);
    if (faults.length > 0) throw new Error([...faults, await network.losses(bed)].join('\n'));
  });
} finally {
  await network.close();
}
