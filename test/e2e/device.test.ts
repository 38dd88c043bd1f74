import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { launchVm } from '../../src/qemu/launch.ts';
import type { Testbed, TestbedOptions } from '../../src/qemu/testbed.ts';
import { startTestbed } from './testbeds.ts';

const bootMs = 120_000;
const mebibyte = 1 << 20;
let bed: Testbed | undefined;

async function closeBed(): Promise<void> {
  await bed?.close();
  bed = undefined;
}

async function boot(options: TestbedOptions): Promise<Testbed> {
  bed = await startTestbed(options);
  await bed.agent.waitReady({ timeoutMs: bootMs });
  return bed;
}

const ramtest = (arguments_: string): string => `ramtest ${arguments_}`;

/** A machine in which the guest's vfio-pci can take a device over. */
const behindIommu: TestbedOptions['vm'] = {
  machineOptions: ['kernel-irqchip=split'],
  args: ['-device', 'intel-iommu,caching-mode=on,intremap=on'],
  append: 'intel_iommu=on iommu=strict',
};

/** Every check of the guest's own program, by name, must be ok. */
async function checkRam(testbed: Testbed, arguments_: string): Promise<string> {
  const { status, stdout } = await testbed.agent.run(ramtest(arguments_), { timeoutMs: bootMs });
  expect(stdout, `ramtest ${arguments_}`).not.toMatch(/^not ok/m);
  expect({ status, stdout }).toMatchObject({ status: 0, stdout: expect.stringMatching(/^ok /m) });
  return stdout;
}

describe('devices in one guest under a stock QEMU', () => {
  let testbed: Testbed;
  beforeAll(async () => {
    testbed = await boot({
      devices: [
        { id: 'dev0', model: 'ram', addr: '5' },
        { id: 'dev1', model: 'ram', set: { megabytes: 64 }, addr: '6' },
        { id: 'dev2', model: 'timer', set: { dma: false }, addr: '7' },
      ],
    });
  });
  afterAll(closeBed);

  it('shows the guest what the model says it is', async () => {
    const shown = await testbed.agent.check('pcitool 0000:00:05.0 show');
    expect(shown).toContain('1b36:11e1');
    const sysfs = await testbed.agent.check(
      'cd /sys/bus/pci/devices/0000:00:05.0; cat vendor device class; stat -c %s resource0 resource2; cat reset_method',
    );
    expect(sysfs.split('\n')).toEqual(['0x1b36', '0x11e1', '0x058000', '8192', '16777216', 'flr']);
  });

  it('moves what is larger than the guest can give in one piece', async () => {
    const large = '--device 0000:00:06.0';
    await checkRam(testbed, `${large} --mode msix --size ${4 * mebibyte} --rounds 2`);
    await checkRam(testbed, `${large} --mode poll --size ${32 * mebibyte} --rounds 1`);
    const { status, stdout } = await testbed.agent.run(ramtest(`${large} --size ${32 * mebibyte + 1}`));
    expect({ status, stdout }).toMatchObject({
      status: 1,
      stdout: expect.stringContaining('not ok dma-size: 33554433, the device has room for 33554432'),
    });
  });

  it('answers through a timer model with INTx and storage that the guest maps', async () => {
    const shown = await testbed.agent.check('pcitool 0000:00:07.0 show');
    expect(shown).toContain('dead:beef');
    await testbed.agent.check('pcitool 0000:00:07.0 enable');
    // The first page is mapped into the guest, the second one is trapped.
    for (const offset of ['0x10', '0x1010']) {
      await testbed.agent.check(`pcitool 0000:00:07.0 write 1 ${offset} 4 0x12345678`);
      expect(await testbed.agent.check(`pcitool 0000:00:07.0 read 1 ${offset} 4`)).toContain('12345678');
    }
  });

  it('does DMA both ways and interrupts by MSI-X, before and after a function reset and a reboot', async () => {
    await checkRam(testbed, '--device 0000:00:05.0 --mode msix');
    await testbed.agent.check('echo 1 >/sys/bus/pci/devices/0000:00:05.0/reset');
    await checkRam(testbed, '--device 0000:00:05.0 --mode poll');
    await testbed.agent.reboot({ timeoutMs: bootMs });
    await checkRam(testbed, '--device 0000:00:05.0 --mode msix');
  });

  it('serves the next QEMU after one was killed, and gives everything of the first back', async () => {
    const server = testbed.current.servers.get('dev0');
    if (!server) throw new Error('there is no server');
    const guestMaps = (): number =>
      readFileSync(`/proc/${server.pid}/maps`, 'utf8').match(/memory-backend-memfd/g)?.length ?? 0;
    expect(guestMaps()).toBeGreaterThan(0);
    await testbed.current.vm.kill('SIGKILL');
    await expect.poll(guestMaps, { timeout: 10_000 }).toBe(0);
    const vm = await launchVm(
      { devices: [{ id: 'dev0', socket: server.socket, addr: '5' }] },
      { name: 'next' },
    );
    try {
      await vm.agent().waitReady({ timeoutMs: bootMs });
      const { status, stdout } = await vm.agent().run(ramtest('--mode poll'), { timeoutMs: bootMs });
      expect({ status, stdout }).toMatchObject({ status: 0 });
    } finally {
      await vm.close();
    }
  });
});

describe('a device under a stock QEMU', () => {
  afterEach(closeBed);

  it('interrupts by INTx on an old machine without PCIe', async () => {
    const testbed = await boot({
      vm: { machine: 'pc' },
      devices: [{ id: 'dev0', model: 'ram', set: { interrupt: 'intx' }, addr: '5' }],
    });
    await checkRam(testbed, '--mode intx');
  });

  it('reaches memory above 4 GiB, and sits behind a root port', async () => {
    const testbed = await boot({
      vm: { memoryMiB: 3072, rootPorts: ['port0'] },
      devices: [{ id: 'dev0', model: 'ram', bus: 'port0' }],
    });
    await checkRam(testbed, '--mode msix --above 0x100000000');
  });

  it('works with translated addresses through the guest’s own vfio-pci, with MSI-X and with MSI', async () => {
    const testbed = await boot({
      vm: behindIommu,
      devices: [
        { id: 'dev0', model: 'ram', addr: '5' },
        { id: 'dev1', model: 'ram', set: { interrupt: 'msi' }, addr: '6' },
      ],
    });
    await checkRam(testbed, '--device 0000:00:05.0 --mode vfio');
    await checkRam(testbed, '--device 0000:00:06.0 --mode msi');
    // What is mapped when the guest reboots must not be there for the next system, which maps other memory at the same addresses.
    const endless = ramtest('--device 0000:00:05.0 --mode vfio --rounds 1000000');
    await testbed.agent.check(
      `(${endless} >/tmp/endless 2>&1 &); until grep -q dma-0 /tmp/endless; do sleep 0.1; done; pidof ramtest`,
    );
    await testbed.agent.reboot({ timeoutMs: bootMs });
    await checkRam(testbed, '--device 0000:00:05.0 --mode vfio --size 65536');
  });

  it('does DMA by message where guest memory is not shared, two devices at once', async ({ skip }) => {
    const testbed = await boot({
      vm: {
        machineOptions: ['memory-backend=private'],
        args: ['-object', 'memory-backend-ram,id=private,size=256M'],
      },
      devices: [
        { id: 'dev0', model: 'ram', addr: '5' },
        { id: 'dev1', model: 'ram', addr: '6' },
      ],
    });
    const { major, minor } = testbed.current.vm.qmp.version;
    skip(major < 11, `QEMU ${major}.${minor} lays DMA messages out differently; docs/decisions/0008`);
    for (const { pid } of testbed.current.servers.values())
      expect(readFileSync(`/proc/${pid}/maps`, 'utf8')).not.toContain('memory-backend');
    const both = ['5', '6'].map((slot) => `ramtest --device 0000:00:0${slot}.0 --mode msix --size 65536`);
    const { status, stdout } = await testbed.agent.run(
      `${both.join(' & ')}; one=$?; wait $!; [ $one$? = 00 ]`,
      {
        timeoutMs: bootMs,
      },
    );
    expect(stdout).not.toMatch(/^not ok/m);
    expect(stdout.match(/^ok dma-7-vector-3/gm)).toHaveLength(2);
    expect(status).toBe(0);
  });
});

it('a QEMU is told that a device is another one’s, and keeps its guest', async ({ onTestFinished }) => {
  onTestFinished(closeBed);
  bed = await startTestbed({
    devices: [{ id: 'dev0', model: 'ram' }],
    vm: { boot: 'none', memoryMiB: 128, rootPorts: ['rp0'] },
  });
  const { vm, servers } = bed.current;
  const path = servers.get('dev0')?.socket ?? '';
  const again = { driver: 'vfio-user-pci', id: 'again', bus: 'rp0', socket: { type: 'unix', path } };
  await expect(vm.qmp.execute('device_add', again)).rejects.toMatchObject({
    description: expect.stringMatching(/Device or resource busy/),
  });
  expect(await vm.qmp.execute('query-status')).toMatchObject({ status: 'running' });
});
