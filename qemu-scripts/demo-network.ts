/** The demonstration: the stock Linux driver drives our network card, and its connections live through a migration. */
import { canUseTaps } from '../src/net/testnet.ts';
import { Testbed } from '../src/qemu/index.ts';
import { bytes } from '../src/report/format.ts';
import { type LimitedScene, migrateAndProve, say } from './demo-scene.ts';
import { type Ends, Flow, type PingReport, Pings, type TcpReport, type UdpReport } from './flows.ts';
import { configureGuest, guestWarnings, Network, plainNet } from './network.ts';
import { bootTimeoutMs } from './scene.ts';

const streamRate = 2_000_000;
const datagramRate = 1000;
/** Traffic before and after the migration. */
const settleMs = 2000;

export const networkScene: LimitedScene = async (finish, downtimeLimitMs) => {
  const network = await Network.create();
  finish(() => network.close());
  const taps = canUseTaps();
  say(
    taps.ok
      ? 'The peer is this Linux: a bridge and a tap in a network namespace of their own, joined to our switch.'
      : `The peer is a small one of ours, without TCP: no tap can be made (${taps.reason}).`,
  );
  say('Booting a guest under QEMU, with an mlx5 virtual function served by vfio-companion …');
  const bed = await Testbed.start({
    devices: [{ id: 'nic0', model: 'mlx5', addr: '5', args: network.serveArguments('nic0') }],
    vm: { cpus: 2 },
  });
  finish(() => bed.close());
  await bed.agent.waitReady({ timeoutMs: bootTimeoutMs });
  await configureGuest(bed);
  const card = await bed.agent.check("ethtool -i eth0 | grep -E '^(driver|firmware-version)' | tr '\\n' ' '");
  say(`The guest runs Linux ${await bed.agent.check('uname -r')}; eth0: ${card.trim()}`);

  const tcp = network.peer === 'linux' ? await Flow.tcp(bed, network, plainNet, 7001, streamRate) : undefined;
  const udp = await Flow.udp(bed, network, plainNet, 7002, { rate: datagramRate });
  const pings = await Pings.start(bed, plainNet);
  const stream = tcp === undefined ? '' : `a TCP connection (${bytes(streamRate)}/s each way, hashed), `;
  say(`Running: ${stream}${datagramRate} numbered UDP datagrams a second each way, 100 pings a second.\n`);
  await sleep(settleMs);

  const { report, proven } = await migrateAndProve(bed, downtimeLimitMs);
  await sleep(settleMs);
  const pinged = await pings.end();
  const datagrams = await udp.end();
  const missed = missing(pinged, datagrams);
  if (missed !== undefined)
    throw new Error(`${missed}\nWhat was counted on the way:\n${await network.losses(bed)}`);
  proven.push(`pings: ${pinged.lost} of ${pinged.sent} lost`);
  proven.push(arrived(datagrams));
  if (tcp !== undefined) proven.push(streamsEqual(await tcp.end()));
  proven.push(await silentLog(bed));
  return { report, proven };
};

/** What was lost or exchanged, if anything was; that nothing arrived at all is no success. */
export function missing(pinged: PingReport, ends: Ends<UdpReport>): string | undefined {
  if (pinged.lost > 0 || pinged.sent === 0) return `pings were lost: ${pinged.lost} of ${pinged.sent}`;
  for (const [where, report] of Object.entries(ends)) {
    const wrong = report.missing + report.reordered + report.duplicates;
    if (wrong > 0 || report.received === 0)
      return `datagrams went wrong on their way to the ${where}: ${JSON.stringify(report)}`;
  }
  return undefined;
}

function arrived({ guest, peer }: Ends<UdpReport>): string {
  return (
    `UDP: ${guest.received} arrived in the guest and ${peer.received} at the peer, 0 missing, 0 reordered; ` +
    `longest silence ${guest.gapMs} and ${peer.gapMs} ms`
  );
}

export function streamsEqual({ guest, peer }: { guest: TcpReport; peer: TcpReport }): string {
  if (guest.receivedHash !== peer.sentHash || peer.receivedHash !== guest.sentHash)
    throw new Error(`the TCP streams differ: ${JSON.stringify({ guest, peer })}`);
  if (guest.received === 0 || peer.received === 0)
    throw new Error(`nothing arrived by TCP: ${JSON.stringify({ guest, peer })}`);
  return (
    `TCP: one connection, ${bytes(guest.received)} to the guest (hash ${guest.receivedHash}) and ` +
    `${bytes(peer.received)} from it (hash ${peer.receivedHash}), both as they were sent`
  );
}

async function silentLog(bed: Testbed): Promise<string> {
  const bad = await guestWarnings(bed);
  if (bad.length > 0) throw new Error(`the guest's log has warnings:\n${bad.join('\n')}`);
  return 'guest log: no warning of the driver or the network';
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
