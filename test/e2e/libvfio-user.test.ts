import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { launchVm, type Testbed } from '../../src/qemu/index.ts';
import { libraryVariable } from '../../src/setup/libvfio-user.ts';
import { librariesHere } from '../protocol/libvfio-user-server.ts';
import {
  boot,
  churnCount,
  closeAll,
  everything,
  expectChurn,
  expectWorkload,
  patient,
  startChurn,
  startWorkload,
} from './migration-world.ts';

const bootMs = 120_000;
const device = { id: 'dev0', model: 'ram', args: ['--transport', 'libvfio-user'] } as const;

afterEach(closeAll);

async function checkRam(bed: Testbed, mode: string): Promise<void> {
  const { status, stdout } = await bed.agent.run(`ramtest --mode ${mode}`, { timeoutMs: bootMs });
  expect({ status, stdout }).toMatchObject({ status: 0, stdout: expect.stringMatching(/^ok /m) });
  expect(stdout).not.toMatch(/^not ok/m);
}

function serverLog(bed: Testbed): string {
  return bed.current.servers.get('dev0')?.log() ?? '';
}

const libraries = librariesHere();

it('has a library to test with (make libvfio-user)', () => {
  expect(libraries.length).toBeGreaterThan(0);
});

describe.each(libraries)('libvfio-user $generation serves a stock QEMU', ({ path, generation }) => {
  const before = process.env[libraryVariable];
  beforeAll(() => {
    process.env[libraryVariable] = path;
  });
  afterAll(() => {
    if (before === undefined) delete process.env[libraryVariable];
    else process.env[libraryVariable] = before;
  });

  it('with DMA both ways and MSI-X, before and after a function reset', async () => {
    const bed = await boot({ devices: [{ ...device, addr: '5' }] });
    expect(serverLog(bed)).toContain(`serving through ${path} (generation ${generation})`);
    await checkRam(bed, 'msix');
    await bed.agent.check('echo 1 >/sys/bus/pci/devices/0000:00:05.0/reset');
    await checkRam(bed, 'poll');
    expect(serverLog(bed)).not.toMatch(/ERROR|short read/);
  });

  it('with INTx on an old machine', async () => {
    const bed = await boot({
      vm: { machine: 'pc' },
      devices: [{ ...device, set: { interrupt: 'intx' }, addr: '5' }],
    });
    await checkRam(bed, 'intx');
  });

  it('and the next QEMU after one was killed', async () => {
    const bed = await boot({ devices: [{ ...device, addr: '5' }] });
    await checkRam(bed, 'poll');
    const server = bed.current.servers.get('dev0');
    if (!server) throw new Error('there is no server');
    await bed.current.vm.kill('SIGKILL');
    await expect.poll(() => server.log(), { timeout: 10_000 }).toContain('client gone');
    const vm = await launchVm(
      { devices: [{ id: 'dev0', socket: server.socket, addr: '5' }] },
      { name: 'next' },
    );
    try {
      await vm.agent().waitReady({ timeoutMs: bootMs });
      const { status, stdout } = await vm.agent().run('ramtest --mode msix', { timeoutMs: bootMs });
      expect({ status, stdout }).toMatchObject({ status: 0 });
    } finally {
      await vm.close();
    }
  });

  it('through live migrations, to itself, to the native server and back', async () => {
    const bed = await boot({ devices: [device] });
    await startChurn(bed, 300);
    await startWorkload(bed);
    for (const transport of ['libvfio-user', 'native', 'libvfio-user']) {
      const count = await churnCount(bed);
      const destination = await bed.prepare({ dev0: { args: ['--transport', transport] } });
      const report = await bed.migrate({ destination, verify: everything, ...patient });
      expect(report.ram).toMatchObject({ differing: 0 });
      expect(report.devices[0]).toMatchObject({ stateEqual: true, msixTableEqual: true, markedPages: 300 });
      await expectChurn(bed, count);
    }
    await expectWorkload(bed);
  });
});
