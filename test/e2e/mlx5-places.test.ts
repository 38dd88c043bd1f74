import { afterEach, describe, expect, it } from 'vitest';
import { configureGuest, type Network, plainNet } from '../../qemu-scripts/network.ts';
import { canUseTaps } from '../../src/net/testnet.ts';
import { serveDevice, type Testbed } from '../../src/qemu/index.ts';
import { deviceArgument } from '../../src/qemu/vm-arguments.ts';
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

afterEach(closeAll);

const driver = '/sys/bus/pci/drivers/mlx5_core';

async function reboot(bed: Testbed): Promise<void> {
  await bed.agent.reboot({ timeoutMs: 120_000 });
  await configureGuest(bed);
}

/** Another card is plugged into `bus` by QMP, removed and found again by the guest, and unplugged. */
async function plugAndUnplug(bed: Testbed, network: Network, bus: string): Promise<void> {
  const served = await serveDevice({
    model: 'mlx5',
    name: 'hot',
    set: { mac: '52:54:00:00:02:00' },
    args: network.serveArguments('hot'),
  });
  const use = async (): Promise<void> => {
    await bed.agent.check(
      'until ip link show eth1 >/dev/null 2>&1; do sleep 0.1; done; ip link set eth1 up; ' +
        `ip addr add 10.77.0.3/24 dev eth1; until ping -c 1 -W 1 -I eth1 ${plainNet.peer} >/dev/null; do :; done`,
      { timeoutMs: 30_000 },
    );
    await expectPings(bed, plainNet.peer, 5, '-I eth1');
  };
  try {
    const { vm } = bed.current;
    const properties = JSON.parse(deviceArgument({ id: 'hot', socket: served.socket, bus })) as object;
    await vm.qmp.execute('device_add', properties);
    await use();
    await bed.agent.check(
      'echo 1 >$(readlink -f /sys/class/net/eth1/device)/remove; echo 1 >/sys/bus/pci/rescan',
    );
    await use();
    expect(await warnings(bed)).toEqual([]);
    const deleted = new Promise((resolve) => {
      vm.qmp.on('event', ({ name }) => {
        if (name === 'DEVICE_DELETED') resolve('unplugged');
      });
    });
    await vm.qmp.execute('device_del', { id: 'hot' });
    const outcome = await Promise.race([deleted, vm.exited.then(({ signal }) => signal)]);
    // The guest lets go; then QEMU (11.1.3) aborts in vfio_user_msix_teardown, whatever device with MSI-X it is.
    if (outcome === 'unplugged') expect(await bed.agent.check('ls /sys/class/net')).not.toContain('eth1');
    else {
      expect(outcome).toBe('SIGABRT');
      expect(vm.log()).toContain('memory_region_del_subregion: Assertion');
    }
    expect(served.exit).toBeUndefined();
  } finally {
    await served.close();
  }
}

describe('the network card', () => {
  it('behind a root port: reset by function, reboot, migration, hot-plug and unplug', async () => {
    const network = await makeNetwork();
    const bed = await boot({
      devices: [card(network, 0, { bus: 'port0' })],
      vm: { rootPorts: ['port0', 'port1'] },
    });
    await expectPings(bed, plainNet.peer);
    await bed.agent.check(
      'd=$(readlink -f /sys/class/net/eth0/device); n=$(basename $d); cat $d/reset_method | grep -q flr; ' +
        `echo $n >${driver}/unbind; echo 1 >$d/reset; echo $n >${driver}/bind`,
    );
    await configureGuest(bed);
    await expectPings(bed, plainNet.peer);
    expect(await warnings(bed)).toEqual([]);
    await bed.agent.check('echo 1 >/sys/class/net/eth0/device/reset');
    const log = (): Promise<string> => bed.agent.check('dmesg | grep -c "health recovery succeeded"; true');
    await expect.poll(log, { message: 'reset under its driver', timeout: 60_000 }).toBe('1');
    await configureGuest(bed);
    await expectPings(bed, plainNet.peer);
    await reboot(bed);
    await expectPings(bed, plainNet.peer);
    await bed.migrate(proven);
    await expectPings(bed, plainNet.peer);
    await plugAndUnplug(bed, network, 'port1');
  });

  it('with strictly translated addresses', async () => {
    const network = await makeNetwork();
    const bed = await boot({
      devices: [card(network)],
      vm: {
        machineOptions: ['kernel-irqchip=split'],
        platformDevices: ['intel-iommu,caching-mode=on,intremap=on'],
        append: 'intel_iommu=on iommu.passthrough=0 iommu.strict=1',
      },
    });
    expect(await bed.agent.check('cat /sys/class/net/eth0/device/iommu_group/type')).toBe('DMA');
    await expectPings(bed, plainNet.peer, 50);
    await bed.agent.check(`echo ${slot()} >${driver}/unbind`);
    expect(await warnings(bed)).toEqual([]);
  });

  it.skipIf(!canUseTaps().ok)(
    'as one of two in a bond: the active one is heard of after migrations, with a guest that says nothing',
    async () => {
      const network = await makeNetwork();
      const bed = await boot({ devices: [card(network), card(network, 1)], vm: { memoryMiB: 512 } }, false);
      await bed.agent.check(
        'sysctl -qw net.ipv6.conf.all.disable_ipv6=1; modprobe bonding max_bonds=0; ' +
          'ip link add bond0 type bond mode active-backup miimon 100; ' +
          'ip link set eth0 master bond0; ip link set eth1 master bond0; ip link set bond0 up; ' +
          `ip addr add ${plainNet.guest}/24 dev bond0; ` +
          `until ping -c 1 -W 1 ${plainNet.peer} >/dev/null; do :; done`,
      );
      // To an address that is not its own: it counts that and answers nothing, not even by ARP.
      const strange = '10.77.0.9';
      const mac = await bed.agent.check('cat /sys/class/net/bond0/address');
      const entry = [strange, 'lladdr', mac, 'dev', 'br0', 'nud', 'permanent'];
      await network.testNet?.run('ip', 'neigh', 'replace', ...entry);
      const talk = `exec 3>/dev/udp/${strange}/7000; while :; do echo >&3; sleep 0.05; done`;
      await network.spawn('talk', 'bash', '-c', talk);
      /** InAddrErrors. */
      const heard = async (): Promise<number> =>
        Number(await bed.agent.check("grep '^Ip: [0-9]' /proc/net/snmp | cut -d' ' -f6"));
      const expectMore = async (): Promise<void> => {
        const before = await heard();
        await expect.poll(heard, { timeout: 20_000 }).toBeGreaterThan(before + 20);
      };
      const active = () => bed.agent.check('cat /sys/class/net/bond0/bonding/active_slave');
      const first = await active();
      for (let hop = 0; hop < 2; hop += 1) {
        expectWhole(await bed.migrate(proven));
        await expectMore();
      }
      network.setLink(first === 'eth0' ? 'nic0' : 'nic1', false);
      await expect.poll(active, { timeout: 20_000 }).not.toBe(first);
      await expectMore();
      expectWhole(await bed.migrate(proven));
      await expectMore();
      expect(await warnings(bed)).toEqual([]);
    },
  );

  it('by messages alone, where guest memory is not shared', async () => {
    const network = await makeNetwork();
    const bed = await boot({ devices: [card(network)], vm: { memoryBackend: 'private' } });
    await expectPings(bed, plainNet.peer, 50);
    expect(await warnings(bed)).toEqual([]);
  });
});
