import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type Ends,
  Flow,
  type Net,
  type Network,
  Pings,
  plainNet,
  type TcpReport,
  type UdpReport,
  vlanNet,
} from '../../qemu-scripts/network.ts';
import { canUseTaps } from '../../src/net/testnet.ts';
import type { Testbed } from '../../src/qemu/index.ts';
import {
  ask,
  boot,
  card,
  closeAll,
  counters,
  expectPings,
  expectWhole,
  makeNetwork,
  proven,
  slot,
  warnings,
} from './mlx5-world.ts';

const taps = canUseTaps();
/** Bytes a second of each stream. */
const streamRate = 300_000;

/** Both ends received, byte for byte, what the other sent. */
function expectEqualStreams({ guest, peer }: Ends<TcpReport>): void {
  expect(guest.received).toBeGreaterThan(0);
  expect(guest).toMatchObject({ receivedHash: peer.sentHash, received: peer.sent });
  expect(peer).toMatchObject({ receivedHash: guest.sentHash, received: guest.sent });
}

function expectNoLoss(ends: Ends<UdpReport>, losses: string): void {
  for (const report of [ends.guest, ends.peer]) {
    expect(report, losses).toMatchObject({ missing: 0, hole: 0, reordered: 0, duplicates: 0 });
    expect(report.received).toBeGreaterThan(0);
  }
}

/** Everything at once on one net: streams (with a Linux peer), datagrams, pings. */
class Traffic {
  readonly #bed: Testbed;
  readonly #network: Network;
  readonly #tcp: Flow<TcpReport> | undefined;
  readonly #udp: Flow<UdpReport>;
  readonly #pings: Pings;

  private constructor(
    bed: Testbed,
    network: Network,
    tcp: Flow<TcpReport> | undefined,
    udp: Flow<UdpReport>,
    pings: Pings,
  ) {
    this.#bed = bed;
    this.#network = network;
    this.#tcp = tcp;
    this.#udp = udp;
    this.#pings = pings;
  }

  static async start(
    bed: Testbed,
    network: Network,
    net: Net,
    port: number,
    { rate = 1000, size = 64 } = {},
  ): Promise<Traffic> {
    const tcp = network.peer === 'linux' ? await Flow.tcp(bed, network, net, port, streamRate) : undefined;
    const udp = await Flow.udp(bed, network, net, port + 1, rate, size);
    return new Traffic(bed, network, tcp, udp, await Pings.start(bed, net));
  }

  /** More has arrived at both ends. */
  async expectProgress(): Promise<void> {
    for (const flow of [this.#tcp, this.#udp]) {
      if (flow === undefined) continue;
      const before = await flow.look();
      await expect
        .poll(
          async () => {
            const now = await flow.look();
            return (
              now.guest.received > before.guest.received + 50 && now.peer.received > before.peer.received + 50
            );
          },
          { timeout: 30_000, interval: 100 },
        )
        .toBe(true);
    }
  }

  /** Ends everything; nothing may have been lost, changed or reordered. */
  async expectWhole(): Promise<void> {
    const pings = await this.#pings.end();
    const udp = await this.#udp.end();
    const losses = await this.#network.losses(this.#bed);
    expect(pings.sent).toBeGreaterThan(50);
    expect(pings, losses).toMatchObject({ lost: 0, duplicates: 0 });
    expectNoLoss(udp, losses);
    if (this.#tcp !== undefined) expectEqualStreams(await this.#tcp.end());
  }
}

describe(`traffic through a migration, ${taps.ok ? 'Linux as peer' : `without TCP (${taps.reason})`}`, () => {
  let network: Network;
  let bare: Network;
  let bed: Testbed;

  beforeAll(async () => {
    network = await makeNetwork();
    bare = await makeNetwork({ parkLimit: 1 });
    // Two cards in one guest; the second one's switch keeps nothing while it moves.
    bed = await boot({ devices: [card(network), card(bare, 1)], vm: { cpus: 2, memoryMiB: 512 } });
    // Room for a loaded machine, on which the guest may not get to its rings for a long while.
    await bed.agent.check('ethtool -G eth0 rx 4096');
  });

  afterAll(closeAll);

  it('is not lost, changed or reordered: plain and VLAN, MTU 1500, two channels, there and back', async () => {
    expect(await bed.agent.check('ethtool -l eth0 | tail -1')).toMatch(/Combined:\s+2/);
    const before = await counters(bed);
    const plain = await Traffic.start(bed, network, plainNet, 7001);
    const tagged = await Traffic.start(bed, network, vlanNet, 7011, { rate: 200, size: 1200 });
    for (let hop = 0; hop < 2; hop += 1) {
      await plain.expectProgress();
      expectWhole(await bed.migrate(proven));
      await plain.expectProgress();
      await tagged.expectProgress();
    }
    await plain.expectWhole();
    await tagged.expectWhole();
    const after = await counters(bed);
    for (const name of ['rx_packets_phy', 'tx_packets_phy', 'rx_vport_unicast_packets', 'tx0_packets']) {
      expect(after.get(name), name).toBeGreaterThan((before.get(name) ?? 0) + 100);
    }
    for (const name of ['rx_out_of_buffer', 'tx_queue_dropped', 'ch_eq_rearm', 'tx0_recover']) {
      expect(after.get(name) ?? 0, name).toBe(0);
    }
    expect(after.get('rx1_packets'), 'the second channel').toBeGreaterThan(0);
  });

  it('is not lost, changed or reordered with MTU 9000', async () => {
    await bed.agent.check('ip link set eth0 mtu 9000 && ip link set eth0.5 mtu 9000');
    await expectPings(bed, plainNet.peer, 5, '-s 8972 -M do');
    const plain = await Traffic.start(bed, network, plainNet, 7021);
    const tagged = await Traffic.start(bed, network, vlanNet, 7031, { rate: 100, size: 8900 });
    await plain.expectProgress();
    expectWhole(await bed.migrate(proven));
    await plain.expectProgress();
    await tagged.expectProgress();
    await plain.expectWhole();
    await tagged.expectWhole();
  });

  it('lacks no more than the blackout where frames are not kept', async () => {
    await bed.agent.check(
      'ip link set eth0 down; ip addr flush dev eth0; ip link set eth1 up; ' +
        `ip addr add ${plainNet.guest}/24 dev eth1; until ping -c 1 -W 1 ${plainNet.peer} >/dev/null; do :; done`,
    );
    const perSecond = 1000;
    const udp = await Flow.udp(bed, bare, plainNet, 7041, perSecond);
    const { blackoutUs, ram } = await bed.migrate({ verify: { ram: true }, downtimeLimitMs: 5000 });
    expect(ram?.differing).toBe(0);
    await bed.agent.check('sleep 1');
    const { guest, peer } = await udp.end();
    const blackoutMs = (blackoutUs ?? 0) / 1000;
    // With an echo for a peer what goes missing is on its way back, a few at most.
    if (bare.peer === 'linux') expect(guest.hole).toBeGreaterThan((blackoutMs / 2) * (perSecond / 1000));
    expect(guest.hole).toBeLessThanOrEqual(blackoutMs * (perSecond / 1000) + 100);
    expect([guest.reordered, guest.duplicates, peer.reordered, peer.duplicates]).toEqual([0, 0, 0, 0]);
    if (bare.peer === 'linux') expect(peer.missing).toBe(0);
  });

  it('goes on at the destination after the driver was unbound and bound, without a warning in the guest', async () => {
    const before = await counters(bed, 'eth1');
    await bed.agent.check(
      `cd /sys/bus/pci/drivers/mlx5_core; echo ${slot()} >unbind; echo ${slot()} >bind; ` +
        `ip link set eth1 down; ip addr flush dev eth1; ip link set eth0 up; ip addr add ${plainNet.guest}/24 dev eth0`,
    );
    await bed.agent.check(`until ping -c 1 -W 1 ${plainNet.peer} >/dev/null; do :; done`);
    await expectPings(bed, plainNet.peer, 20);
    expect((await counters(bed)).get('rx_packets_phy')).toBeGreaterThan(0);
    expect((await counters(bed, 'eth1')).get('rx_packets_phy')).toBeGreaterThanOrEqual(
      before.get('rx_packets_phy') ?? 0,
    );
    expect(await warnings(bed)).toEqual([]);
  });

  it('obeys an operator: link down and up, and one send that fails, after which the driver recovers', async () => {
    const carrier = (): Promise<string> => bed.agent.check('cat /sys/class/net/eth0/carrier');
    await ask(bed, 'setLink', 'up=false');
    await expect.poll(carrier, { timeout: 20_000 }).toBe('0');
    await ask(bed, 'setLink', 'up=true');
    await expect.poll(carrier, { timeout: 20_000 }).toBe('1');
    expect(await warnings(bed)).toEqual([]);
    expect(await ask(bed, 'injectSendError')).toEqual({});
    await bed.agent.check(`ping -c 3 -i 0.2 -W 1 ${plainNet.peer}; true`);
    expect(await bed.agent.check('dmesg | grep -c "Error cqe"')).toBe('1');
    await bed.agent.check(`until ping -c 1 -W 1 ${plainNet.peer} >/dev/null; do :; done`);
    await expectPings(bed, plainNet.peer);
    expect(await bed.agent.check("ethtool -S eth0 | awk '/tx_recover:/ {print $2}'")).toBe('1');
  });
});
