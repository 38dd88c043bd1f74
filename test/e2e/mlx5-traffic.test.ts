import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Flow, type UdpReport } from '../../qemu-scripts/flows.ts';
import { type Network, plainNet, vlanNet } from '../../qemu-scripts/network.ts';
import { endAll, Traffic } from '../../qemu-scripts/traffic.ts';
import { canUseTaps } from '../../src/net/testnet.ts';
import type { Testbed } from '../../src/qemu/index.ts';
import { locateKernel } from '../../src/setup/index.ts';
import {
  ask,
  background,
  boot,
  card,
  closeAll,
  counters,
  expectAbout,
  expectPings,
  expectWhole,
  makeNetwork,
  proven,
  slot,
  warnings,
} from './mlx5-world.ts';
import { echoObject } from './xdp-object.ts';

const taps = canUseTaps();
/** RSS key of "Verifying the RSS hash calculation" (Microsoft). */
const publishedKey = '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa';

/** Ends it; nothing may have been lost, changed or reordered. */
async function expectNoFault(bed: Testbed, network: Network, ...traffic: Traffic[]): Promise<void> {
  const faults = await endAll(traffic);
  expect(faults, await network.losses(bed)).toEqual([]);
}

/** The guest's processors stand still, and the network goes on. */
async function stopGuest(bed: Testbed, ms: number): Promise<void> {
  const { qmp } = bed.current.vm;
  await qmp.execute('stop');
  await new Promise((resolve) => setTimeout(resolve, ms));
  await qmp.execute('cont');
}

/** Sets the card up with its plain address, and both ends so that they need no ARP, whose frames nobody could foresee. */
async function attach(bed: Testbed, network: Network): Promise<void> {
  await bed.agent.check(
    `ip link set eth0 up; ip addr replace ${plainNet.guest}/24 dev eth0; ` +
      `until ping -c 1 -W 1 ${plainNet.peer} >/dev/null; do :; done; ` +
      `ip neigh change ${plainNet.peer} dev eth0 nud permanent`,
  );
  const mac = await bed.agent.check('cat /sys/class/net/eth0/address');
  const entry = [plainNet.guest, 'lladdr', mac, 'dev', 'br0', 'nud', 'permanent'];
  await network.testNet?.run('ip', 'neigh', 'replace', ...entry);
}

/** Frames that the switch holds back for the card. */
const heldBack = (network: Network): number =>
  network.stats().ports.find(({ identity, state }) => identity === 'nic0' && state === 'active')?.queued ?? 0;

describe(`traffic through a migration, ${taps.ok ? 'Linux as peer' : `without TCP (${taps.reason})`}`, () => {
  let network: Network;
  let bare: Network;
  let bed: Testbed;

  beforeAll(async () => {
    network = await makeNetwork();
    bare = await makeNetwork({ parkLimit: 1 });
    // Two cards in one guest; the second one's switch keeps nothing while it moves.
    bed = await boot({ devices: [card(network), card(bare, 1)], vm: { cpus: 2, memoryMiB: 512 } });
  });

  afterAll(closeAll);

  it('is not lost, changed or reordered: plain and VLAN, MTU 1500, two channels, there and back', async () => {
    expect(await bed.agent.check('ethtool -l eth0 | tail -1')).toMatch(/Combined:\s+2/);
    // What the driver takes by itself.
    expect(await bed.agent.check('ethtool -g eth0 | grep ^RX: | tail -1')).toMatch(/RX:\s+1024/);
    // The key that the driver draws may put all flows into one ring; with this one the datagrams of the nets part.
    await bed.agent.check(`ethtool -X eth0 hkey ${publishedKey.match(/../g)?.join(':')}`);
    const before = await counters(bed);
    const plain = await Traffic.start(bed, network, plainNet, 7001);
    const tagged = await Traffic.start(bed, network, vlanNet, 7010, { size: 1200 });
    for (let hop = 0; hop < 2; hop += 1) {
      await plain.progress();
      expectWhole(await bed.migrate(proven));
      await plain.progress();
      await tagged.progress();
    }
    // Far more than the rings hold: what there is no buffer for stays in the network until there is one.
    await stopGuest(bed, 3000);
    // An echo for a peer has nothing to say while the guest has not.
    if (network.peer === 'linux') expect(heldBack(network)).toBeGreaterThan(0);
    await plain.progress();
    await tagged.progress();
    await expectNoFault(bed, network, plain, tagged);
    const after = await counters(bed);
    for (const name of ['rx_packets_phy', 'tx_packets_phy', 'rx_vport_unicast_packets', 'tx0_packets']) {
      expect(after.get(name), name).toBeGreaterThan((before.get(name) ?? 0) + 100);
    }
    for (const name of ['rx_out_of_buffer', 'tx_queue_dropped', 'ch_eq_rearm', 'tx0_recover']) {
      expect(after.get(name) ?? 0, name).toBe(0);
    }
    // As many as 1,000 a second must have brought until now, on either ring; an echo sends what the guest has had time for.
    const least = network.peer === 'linux' ? 3000 : 100;
    for (const name of ['rx0_packets', 'rx1_packets']) expect(after.get(name), name).toBeGreaterThan(least);
  });

  it('is not lost, changed or reordered with MTU 9000', async () => {
    await bed.agent.check('ip link set eth0 mtu 9000 && ip link set eth0.5 mtu 9000');
    await expectPings(bed, plainNet.peer, 5, '-s 8972 -M do');
    const plain = await Traffic.start(bed, network, plainNet, 7021);
    const tagged = await Traffic.start(bed, network, vlanNet, 7031, { size: 3000 });
    await plain.progress();
    expectWhole(await bed.migrate(proven));
    await plain.progress();
    await tagged.progress();
    await expectNoFault(bed, network, plain, tagged);
  });

  it('lacks no more than the blackout where frames are not kept', async () => {
    await bed.agent.check(
      'ip link set eth0 down; ip addr flush dev eth0; ip link set eth1 up; ' +
        `ip addr add ${plainNet.guest}/24 dev eth1; until ping -c 1 -W 1 ${plainNet.peer} >/dev/null; do :; done`,
    );
    const perSecond = 1000;
    const udp = await Flow.udp(bed, bare, plainNet, 7041, { rate: perSecond });
    const { blackoutUs, ram } = await bed.migrate({ verify: { ram: true }, downtimeLimitMs: 5000 });
    expect(ram?.differing).toBe(0);
    await bed.agent.check('sleep 1');
    const { guest, peer } = await udp.end();
    const blackoutMs = (blackoutUs ?? 0) / 1000;
    // Until the switch knows, on a machine that has other things to do.
    const busyMs = 200;
    // With an echo for a peer what goes missing is on its way back, a few at most.
    if (bare.peer === 'linux') expect(guest.hole).toBeGreaterThan((blackoutMs / 2) * (perSecond / 1000));
    expect(guest.hole).toBeLessThanOrEqual(blackoutMs * (perSecond / 1000) + busyMs);
    expect([guest.reordered, guest.duplicates, peer.reordered, peer.duplicates]).toEqual([0, 0, 0, 0]);
    if (bare.peer === 'linux') expect(peer.missing).toBe(0);
  });

  it('counts on at the destination, and when the driver was unbound and bound there; without a warning', async () => {
    const count = 300;
    const size = 100;
    const frame = 14 + 20 + 8 + size;
    await bed.agent.check('ip link set eth1 down; ip addr flush dev eth1');
    await attach(bed, network);
    const before = await counters(bed);
    await bed.agent.check(
      `(ping -c ${count} -i 0.01 -W 5 -s ${size} ${plainNet.peer}; echo ended) >/run/counted 2>&1 &`,
    );
    expectWhole(await bed.migrate(proven));
    await bed.agent.check('until grep -q ended /run/counted; do sleep 0.1; done', { timeoutMs: 60_000 });
    expect(await bed.agent.check('cat /run/counted')).toContain(` ${count} received`);
    const after = await counters(bed);
    const grown = (name: string): number => (after.get(name) ?? 0) - (before.get(name) ?? 0);
    for (const direction of ['rx', 'tx']) {
      expect(before.get(`${direction}_vport_unicast_packets`), direction).toBeGreaterThan(1000);
      const { frames, bytes } = background;
      expectAbout(grown(`${direction}_vport_unicast_packets`), count, frames, direction);
      expectAbout(grown(`${direction}_vport_unicast_bytes`), count * frame, bytes, direction);
      // What the driver counts in the guest's memory agrees with what the device counts.
      const casts = ['unicast', 'multicast', 'broadcast'];
      const sum = (of: string): number =>
        casts.reduce((total, cast) => total + grown(`${direction}_vport_${cast}_${of}`), 0);
      expectAbout(grown(`${direction}_packets`), sum('packets'), frames, direction);
      expectAbout(grown(`${direction}_bytes`), sum('bytes'), bytes, direction);
      expect(grown(`${direction}_packets_phy`), direction).toBeGreaterThanOrEqual(sum('packets') - frames);
    }

    const driver = '/sys/bus/pci/drivers/mlx5_core';
    await bed.agent.check(`echo ${slot()} >${driver}/unbind; echo ${slot()} >${driver}/bind`);
    await attach(bed, network);
    const bound = await counters(bed);
    for (const name of [
      'rx_vport_unicast_packets',
      'tx_vport_unicast_packets',
      'rx_packets_phy',
      'tx_bytes_phy',
    ])
      expect(bound.get(name), `${name}: the device's own`).toBeGreaterThanOrEqual(after.get(name) ?? 0);
    for (const name of ['rx_packets', 'tx_packets', 'rx_bytes', 'tx_bytes'])
      expect(bound.get(name), `${name}: the driver's, which starts anew`).toBeLessThan(100_000);
    await expectPings(bed, plainNet.peer, 20);
    const last = await counters(bed);
    for (const name of ['rx_vport_unicast_packets', 'tx_vport_unicast_packets'])
      expectAbout(last.get(name) ?? 0, (bound.get(name) ?? 0) + 20, background.frames, name);
    expect(await warnings(bed)).toEqual([]);
  });

  it.skipIf(!taps.ok)('comes back by XDP_TX, all of it', async () => {
    const object = echoObject().toString('base64');
    await bed.agent.check(
      `ip link set eth0 mtu 1500; echo ${object} | base64 -d >/run/echo.o && ` +
        'ip link set dev eth0 xdpdrv obj /run/echo.o sec xdp',
    );
    const program = join(dirname((await locateKernel()).initrd), 'programs/traffic');
    const file = network.path('xdp.json');
    const args = ['udp', '7400', plainNet.guest, '7400', '--rate', '500', '--size', '200', '--report', file];
    const peer = await network.spawn('xdp', program, ...args);
    const report = () => JSON.parse(readFileSync(file, 'utf8')) as UdpReport;
    const expectMore = async (): Promise<void> => {
      const before = report().received;
      await expect.poll(() => report().received, { timeout: 20_000 }).toBeGreaterThan(before + 200);
    };
    await expect.poll(() => report().received, { timeout: 20_000 }).toBeGreaterThan(100);
    expectWhole(await bed.migrate(proven));
    await expectMore();
    peer.signal('SIGTERM');
    await peer.exited;
    expect(report(), await network.losses(bed)).toMatchObject({ missing: 0, reordered: 0, duplicates: 0 });
    expect(report().received).toBe(report().sent);
    const counted = await counters(bed);
    expect(counted.get('rx_xdp_tx_xmit')).toBeGreaterThanOrEqual(report().received);
    await bed.agent.check('ip link set dev eth0 xdpdrv off');
    await expectPings(bed, plainNet.peer);
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
