import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { configureGuest, type Network, plainNet, vlanNet } from '../../qemu-scripts/network.ts';
import { endAll, Traffic } from '../../qemu-scripts/traffic.ts';
import type { Testbed } from '../../src/qemu/index.ts';
import {
  boot,
  card,
  closeAll,
  expectPings,
  expectWhole,
  makeNetwork,
  proven,
  slot,
  warnings,
} from './mlx5-world.ts';

const driver = '/sys/bus/pci/drivers/mlx5_core';
const addressed =
  `ip link set eth0 up; ip addr replace ${plainNet.guest}/24 dev eth0; ` +
  `until ping -c 1 -W 1 ${plainNet.peer} >/dev/null; do :; done`;

describe('migration of the network card at a bad moment', () => {
  let network: Network;
  let bed: Testbed;
  let hops = 0;

  beforeAll(async () => {
    network = await makeNetwork();
    bed = await boot({ devices: [card(network)], vm: { cpus: 2 } });
  });

  afterAll(closeAll);

  async function hop(onPhase: (phase: string) => unknown = () => undefined): Promise<void> {
    expectWhole(await bed.migrate({ ...proven, onPhase: (phase) => void onPhase(phase) }));
    hops += 1;
  }

  /** Migrates while `action` is repeated in the guest without a pause, wherever in it that may be. */
  async function during(action: string): Promise<void> {
    await bed.agent.check(
      `rm -f /run/enough; (until [ -e /run/enough ]; do ${action}; done) >/run/loop.out 2>&1 & echo $! >/run/loop.pid`,
    );
    await hop();
    await bed.agent.check(
      'sleep 0.5; touch /run/enough; while kill -0 $(cat /run/loop.pid) 2>/dev/null; do sleep 0.05; done',
      { timeoutMs: 120_000 },
    );
    expect(await bed.agent.check('cat /run/loop.out')).toBe('');
  }

  it.each([
    [
      'while the driver probes and lets go',
      `echo ${slot()} >${driver}/unbind; echo ${slot()} >${driver}/bind`,
    ],
    ['while the module is unloaded and loaded', 'rmmod mlx5_core; modprobe mlx5_core'],
    ['while its driver is reloaded by devlink', `devlink dev reload pci/${slot()}`],
    ['while the interface goes down and up', 'ip link set eth0 down; ip link set eth0 up'],
    [
      'while rings and channels are changed',
      'ethtool -G eth0 rx 512 tx 512; ethtool -L eth0 combined 1; ethtool -G eth0 rx 2048 tx 2048; ethtool -L eth0 combined 2',
    ],
    [
      'with full transmit rings',
      `timeout 1 traffic udp 9 ${plainNet.peer} 9 --rate 1e6 --size 1400 --report /run/flood`,
    ],
  ])('%s', async (_name, action) => {
    await during(action);
    await bed.agent.check(addressed, { timeoutMs: 120_000 });
    await expectPings(bed, plainNet.peer, 20);
  });

  it('with the link down, which the guest learns when it comes back', async () => {
    const carrier = 'cat /sys/class/net/eth0/carrier';
    network.setLink('nic0', false);
    await expect.poll(() => bed.agent.check(carrier), { timeout: 20_000 }).toBe('0');
    await hop();
    network.setLink('nic0', true);
    await expect.poll(() => bed.agent.check(carrier), { timeout: 20_000 }).toBe('1');
    await expectPings(bed, plainNet.peer);
  });

  it('with no driver attached', async () => {
    await bed.agent.check(`echo ${slot()} >${driver}/unbind`);
    await hop();
    await bed.agent.check(`echo ${slot()} >${driver}/bind; ${addressed}`);
    await expectPings(bed, plainNet.peer);
  });

  it('again and again, there and back, with nothing lost of all its traffic and no warning in the guest', {
    timeout: 400_000,
  }, async () => {
    // The interface of the VLAN went with the driver.
    await configureGuest(bed);
    const plain = await Traffic.start(bed, network, plainNet, 7001);
    // Other guests share the processors with this one: mlx5-traffic has more.
    const tagged = await Traffic.start(bed, network, vlanNet, 7011, { rate: 200 });
    for (let more = 0; more < 4; more += 1) {
      // Twice the switch learns of the move when it is over, and the old place has gone.
      await hop(
        more % 2 === 0 ? undefined : (phase) => phase === 'pre-switchover' && network.starveSwitch(1000),
      );
      await plain.progress();
    }
    await tagged.progress();
    const faults = await endAll([plain, tagged]);
    expect(faults, await network.losses(bed)).toEqual([]);
    expect(await warnings(bed)).toEqual([]);
  });

  it('while the guest reboots', async () => {
    const since = await bed.agent.bootId();
    await hop((phase) => phase === 'precopy' && bed.agent.run('(sleep 0.1; reboot -f) >/dev/null 2>&1 &'));
    await bed.agent.waitReady({ since, timeoutMs: 120_000 });
    await configureGuest(bed);
    await expectPings(bed, plainNet.peer, 20);
    expect(await warnings(bed)).toEqual([]);
    expect(hops).toBeGreaterThan(11);
  });
});
