import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Flow } from '../../qemu-scripts/flows.ts';
import { configureIpv6, type Network, plainNet, plainNet6, vlanNet } from '../../qemu-scripts/network.ts';
import { canUseTaps } from '../../src/net/testnet.ts';
import type { Testbed } from '../../src/qemu/index.ts';
import {
  background,
  boot,
  card,
  closeAll,
  counters,
  expectAbout,
  expectWhole,
  makeNetwork,
  proven,
  warnings,
} from './mlx5-world.ts';

const channels = 4;
/** The second guest, in the VLAN. */
const neighbour = { peer: '10.78.0.3', guest: vlanNet.guest, vlan: vlanNet.vlan };
const streamRate = 300_000;

/** "Verifying the RSS hash calculation" (Microsoft), to the letter: the model has a table instead. */
function toeplitz(key: bigint, keyBits: number, input: readonly number[]): number {
  let hash = 0n;
  input.forEach((byte, index) => {
    for (let bit = 0; bit < 8; bit += 1) {
      const window = (key >> BigInt(keyBits - 32 - (8 * index + bit))) & 0xffff_ffffn;
      if ((byte & (0x80 >> bit)) !== 0) hash ^= window;
    }
  });
  return Number(hash);
}

/** The driver asks for the same hash in both directions, which it calls `RXH_XFRM_SYM_OR_XOR`. */
function symmetric([source = [], destination = []]: readonly number[][]): number[] {
  const pairs = source.map((byte, index) => [byte, destination[index] ?? 0] as const);
  return [...pairs.map(([a, b]) => a | b), ...pairs.map(([a, b]) => a ^ b)];
}

/** Which ring takes datagrams from the peer's `port` to the guest's, by what `ethtool -x` says. */
async function ringOf(bed: Testbed): Promise<(port: number) => number> {
  const text = await bed.agent.check('ethtool -x eth0');
  const table = [...text.matchAll(/^\s*\d+:((?:\s+\d+)+)$/gm)].flatMap(([, row = '']) =>
    row.trim().split(/\s+/).map(Number),
  );
  const key = /^((?:[0-9a-f]{2}:){39}[0-9a-f]{2})$/m.exec(text)?.[1]?.replaceAll(':', '') ?? '';
  expect([table.length > 0, key.length]).toEqual([true, 80]);
  const addresses = [plainNet.peer, plainNet.guest].map((address) => address.split('.').map(Number));
  return (port) => {
    const ports = [port, port].map((each) => [each >> 8, each & 255]);
    const hash = toeplitz(BigInt(`0x${key}`), 320, [addresses, ports].flatMap(symmetric));
    return table[hash % table.length] ?? -1;
  };
}

describe('what the card does for the driver, on both sides of a migration', () => {
  const able = canUseTaps();
  const taps = able.ok;
  const why = able.ok ? '' : ` (skipped: ${able.reason})`;
  let network: Network;
  let bed: Testbed;
  let other: Testbed;

  beforeAll(async () => {
    network = await makeNetwork();
    [bed, other] = await Promise.all([
      boot({ devices: [card(network)], vm: { cpus: channels } }),
      boot({ devices: [card(network, 1)] }, false),
    ]);
  });

  afterAll(closeAll);

  it.runIf(taps)(`spreads flows over four channels as key and table say${why}`, async () => {
    await bed.agent.check(`ethtool -L eth0 combined ${channels}`);
    expect(await bed.agent.check('ethtool -l eth0 | tail -1')).toMatch(/Combined:\s+4/);
    const ring = await ringOf(bed);
    const ports = Array.from({ length: channels }, (_, wanted) => {
      let port = 7100;
      while (ring(port) !== wanted) port += 1;
      return port;
    });
    const perRing = async (): Promise<number[]> => {
      const values = await counters(bed);
      return ports.map((_, index) => values.get(`rx${index}_packets`) ?? 0);
    };
    /** Waits until every ring has had its share since `since`, however slow this machine is. */
    const enough = async (since: readonly number[]): Promise<number[]> => {
      const deadline = Date.now() + 60_000;
      for (;;) {
        const now = await perRing();
        if (now.every((packets, index) => packets - (since[index] ?? 0) > 30)) return now;
        if (Date.now() > deadline) throw new Error(`packets by ring since ${since}: ${now}`);
        await bed.agent.check('sleep 0.2');
      }
    };
    const start = await perRing();
    const flows = [];
    // Of different rates, so that no ring can be taken for another one.
    for (const [index, port] of ports.entries())
      flows.push(await Flow.udp(bed, network, plainNet, port, { rate: 100 * (index + 1) }));
    await enough(start);
    expectWhole(await bed.migrate(proven));
    await enough(await perRing());
    const ends = await Promise.all(flows.map((flow) => flow.end()));
    const last = await perRing();
    ends.forEach(({ guest, peer }, index) => {
      expect(guest, `ring ${index}`).toMatchObject({ missing: 0, reordered: 0, duplicates: 0 });
      expect(peer, `ring ${index}`).toMatchObject({ missing: 0, reordered: 0, duplicates: 0 });
      const packets = (last[index] ?? 0) - (start[index] ?? 0);
      // This flow and no other one, but for what goes on in any network.
      expect(packets, `ring ${index}`).toBeGreaterThanOrEqual(guest.received);
      expect(packets, `ring ${index}`).toBeLessThan(peer.sent + 50);
    });
  });

  it.runIf(taps)(
    `sends a flow to the ring that a rule names, or drops it, and does so after a migration${why}`,
    async () => {
      const ring = await ringOf(bed);
      const port = 7150;
      const named = (ring(port) + 1) % channels;
      const rule = `ethtool -N eth0 flow-type udp4 src-ip ${plainNet.peer} dst-port ${port}`;
      await bed.agent.check(`${rule} action ${named} loc 1`);
      const received = async (index: number): Promise<number> =>
        (await counters(bed)).get(`rx${index}_packets`) ?? 0;
      const start = [await received(ring(port)), await received(named)] as const;
      const flow = await Flow.udp(bed, network, plainNet, port, { rate: 200 });
      await expect.poll(() => received(named), { timeout: 60_000 }).toBeGreaterThan(start[1] + 50);
      expectWhole(await bed.migrate(proven));
      const middle = await received(named);
      await expect.poll(() => received(named), { timeout: 60_000 }).toBeGreaterThan(middle + 50);
      const { guest, peer } = await flow.end();
      expect([guest, peer]).toMatchObject(Array(2).fill({ missing: 0, reordered: 0, duplicates: 0 }));
      // None of this flow where its hash would have sent it.
      expectAbout(await received(ring(port)), start[0], background.frames);

      await bed.agent.check(`ethtool -N eth0 delete 1; ${rule} action -1 loc 2`);
      const before = await counters(bed);
      const dropped = await Flow.udp(bed, network, plainNet, port, { rate: 200 });
      const filtered = async (): Promise<number> => {
        const now = await counters(bed);
        const grown = (name: string): number => (now.get(name) ?? 0) - (before.get(name) ?? 0);
        return grown('rx_packets_phy') - grown('rx_packets');
      };
      await expect.poll(filtered, { timeout: 60_000 }).toBeGreaterThan(50);
      await bed.agent.check('ethtool -N eth0 delete 2');
      const ends = await dropped.end();
      expect(ends.peer.missing).toBe(0);
      expect(ends.guest.reordered).toBe(0);
      expect(await warnings(bed)).toEqual([]);
    },
  );

  it.runIf(taps)(`cuts TCP over IPv6 and datagrams that the guest hands over in bulk${why}`, async () => {
    const features = await bed.agent.check('ethtool -k eth0');
    for (const name of ['tx-tcp-segmentation', 'tx-tcp6-segmentation', 'tx-udp-segmentation'])
      expect(features).toMatch(new RegExp(`${name}: on`));
    await configureIpv6(bed, network);
    const before = await counters(bed);
    const segments = 16;
    const size = 1000;
    const bulk = { rate: 1000, size, segments };
    const udp4 = await Flow.udp(bed, network, plainNet, 7202, bulk);
    const udp6 = await Flow.udp(bed, network, plainNet6, 7204, bulk);
    const tcp6 = await Flow.tcp(bed, network, plainNet6, 7206, 10 * streamRate);
    await bed.agent.check('sleep 1');
    const middle = await counters(bed);
    expectWhole(await bed.migrate(proven));
    const cutSince = async (): Promise<number> =>
      ((await counters(bed)).get('tx_tso_packets') ?? 0) - (middle.get('tx_tso_packets') ?? 0);
    await expect.poll(cutSince, { timeout: 60_000 }).toBeGreaterThan(60);
    const { guest, peer } = await tcp6.end();
    expect(guest).toMatchObject({ receivedHash: peer.sentHash, received: peer.sent });
    expect(peer).toMatchObject({ receivedHash: guest.sentHash, received: guest.sent });
    const datagrams = [await udp4.end(), await udp6.end()];
    for (const ends of datagrams)
      for (const end of [ends.guest, ends.peer])
        expect(end, await network.losses(bed)).toMatchObject({ missing: 0, reordered: 0, duplicates: 0 });
    const after = await counters(bed);
    const grown = (name: string, since = before): number => (after.get(name) ?? 0) - (since.get(name) ?? 0);
    // Each bulk of datagrams went to the card as one, and so did more of the stream than a frame holds.
    const sent = datagrams.reduce((total, ends) => total + ends.guest.sent, 0);
    expect(sent).toBeGreaterThan(1000);
    const streamBytes = grown('tx_tso_bytes') - sent * size;
    const streamPackets = grown('tx_tso_packets') - sent / segments;
    expect(streamBytes).toBeGreaterThan(guest.sent / 2);
    expect(streamBytes / streamPackets).toBeGreaterThan(2 * 1428);
    expect(grown('tx_tso_packets', middle)).toBeGreaterThan(50);
    // On the wire all of it is in frames of the MTU: as many as the driver expects, and the peer heard each.
    const frames = ['unicast', 'multicast', 'broadcast'].map((cast) => grown(`tx_vport_${cast}_packets`));
    const counted = frames.reduce((a, b) => a + b);
    expectAbout(counted, grown('tx_packets'), background.frames, 'frames on the wire');
    expect(datagrams.map((ends) => ends.peer.received)).toEqual(datagrams.map((ends) => ends.guest.sent));
  });

  it('carries TCP in a VLAN to another guest on the same switch', async () => {
    await other.agent.check(
      `ip link set eth0 up; ip link add link eth0 name eth0.5 type vlan id ${neighbour.vlan}; ip link set eth0.5 up; ` +
        `ip addr add ${neighbour.peer}/24 dev eth0.5; until ping -c 1 -W 1 ${neighbour.guest} >/dev/null; do :; done`,
    );
    const flow = await Flow.tcpBetween(bed, other, neighbour, 7301, streamRate);
    const passed = async (): Promise<number> => {
      const { guest, peer } = await flow.look();
      return Math.min(guest.received, peer.received);
    };
    await expect.poll(passed, { timeout: 30_000 }).toBeGreaterThan(streamRate / 2);
    expectWhole(await bed.migrate(proven));
    const then = await passed();
    await expect.poll(passed, { timeout: 30_000 }).toBeGreaterThan(then + streamRate / 2);
    const { guest, peer } = await flow.end();
    expect(guest).toMatchObject({ receivedHash: peer.sentHash, received: peer.sent });
    expect(peer).toMatchObject({ receivedHash: guest.sentHash, received: guest.sent });
    expect([await warnings(bed), await warnings(other)]).toEqual([[], []]);
  });
});
