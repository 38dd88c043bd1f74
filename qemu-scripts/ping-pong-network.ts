/** Migrates a guest with a network card there and back under traffic: ping-pong-network [TIMES, default 20]. */
import { Testbed } from '../src/qemu/index.ts';
import { duration } from '../src/report/format.ts';
import { configureGuest, Flow, Network, Pings, plainNet } from './network.ts';
import { play } from './scene.ts';

const times = Number(process.argv[2] ?? 20);
const network = await Network.create();
try {
  const bed = await Testbed.start({
    devices: [{ id: 'nic0', model: 'mlx5', addr: '5', args: network.serveArguments('nic0') }],
    vm: { cpus: 2 },
  });
  await play(bed, async () => {
    await bed.agent.waitReady({ timeoutMs: 120_000 });
    await configureGuest(bed);
    const tcp =
      network.peer === 'linux' ? await Flow.tcp(bed, network, plainNet, 7001, 1_000_000) : undefined;
    const udp = await Flow.udp(bed, network, plainNet, 7002, 1000);
    const pings = await Pings.start(bed, plainNet);
    const blackouts: number[] = [];
    for (let hop = 1; hop <= times; hop += 1) {
      const report = await bed.migrate({ verify: { ram: true, state: true }, downtimeLimitMs: 5000 });
      if (report.ram?.differing !== 0) throw new Error(`${report.ram?.differing} pages of RAM differ`);
      blackouts.push(report.blackoutUs ?? 0);
      console.log(`${hop}: blackout with the RAM proof ${duration(report.blackoutUs ?? 0)}`);
    }
    console.log('pings', await pings.end());
    console.log('UDP', await udp.end());
    const ends = await tcp?.end();
    if (ends !== undefined) {
      const { guest, peer } = ends;
      console.log('TCP', ends);
      if (guest.receivedHash !== peer.sentHash || peer.receivedHash !== guest.sentHash)
        throw new Error('the TCP streams differ');
    }
    blackouts.sort((a, b) => a - b);
    const at = (index: number): string => duration(blackouts[index] ?? 0);
    console.log(`${times} migrations: ${at(0)} shortest, ${at(times >> 1)} median, ${at(times - 1)} longest`);
  });
} finally {
  await network.close();
}
