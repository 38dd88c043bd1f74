import { execaNode } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { launchVm, type Testbed } from '../../src/qemu/index.ts';
import { serveDevice } from '../../src/qemu/serve-device.ts';
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

  it('with DMA both ways and MSI-X, before and after a function reset, and the next QEMU after one was killed', async () => {
    const bed = await boot({ devices: [{ ...device, addr: '5' }] });
    expect(serverLog(bed)).toContain(`serving through ${path} (generation ${generation})`);
    await checkRam(bed, 'msix');
    await bed.agent.check('echo 1 >/sys/bus/pci/devices/0000:00:05.0/reset');
    await checkRam(bed, 'poll');
    expect(serverLog(bed)).not.toMatch(/ERROR|short read/);
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

  it('with INTx on an old machine', async () => {
    const bed = await boot({
      vm: { machine: 'pc' },
      devices: [{ ...device, set: { interrupt: 'intx' }, addr: '5' }],
    });
    await checkRam(bed, 'intx');
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

  it('one process for each device: an abort of the library ends one, which says whose it was', async () => {
    const args = ['--transport', 'libvfio-user'];
    const [broken, other] = [
      await serveDevice({ model: 'ram', name: 'broken', args }),
      await serveDevice({ model: 'ram', name: 'other', args }),
    ];
    try {
      // What abort(3) does in a failed assertion.
      await broken.kill('SIGABRT');
      await expect.poll(() => broken.log(), { timeout: 10_000 }).toContain('has died without closing');
      expect(broken.log()).toContain(`the process that served ram on ${broken.socket}`);
      expect(broken.log()).toContain(path);
      expect(other.exit).toBeUndefined();
      // One that ends as it should says nothing of the kind.
      await other.kill('SIGTERM');
      expect(other.log()).not.toContain('has died');
    } finally {
      await broken.close();
      await other.close();
    }
  });
});

describe('a libvfio-user that can’t be used', () => {
  const program = process.env.VFIO_COMPANION_CLI ?? 'dist/src/cli/main.js';
  const { sharedObjects } = process.report.getReport() as unknown as { sharedObjects: string[] };
  const libc = sharedObjects.find((object) => object.includes('libc.so')) ?? '';
  const serve = (env: Readonly<Record<string, string>>) =>
    execaNode(program, ['serve', 'ram', '--transport', 'libvfio-user', '--socket', '/tmp/never.sock'], {
      env,
      reject: false,
      timeout: 60_000,
    });

  it.each([
    {
      what: 'is not there',
      path: '/nowhere/libvfio-user.so',
      message: /\/nowhere\/libvfio-user\.so: cannot be loaded/,
    },
    { what: 'is no library', path: '/etc/passwd', message: /\/etc\/passwd: cannot be loaded/ },
    { what: 'is another one', path: libc, message: /has no symbol vfu_/ },
  ])('is named when it $what', async ({ path, message }) => {
    const { exitCode, stderr } = await serve({ [libraryVariable]: path });
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(message);
    expect(stderr).toContain(libraryVariable);
  });

  it('is asked for when there is none', async () => {
    const { exitCode, stderr } = await serve({ [libraryVariable]: '', VFIO_COMPANION_CACHE: '/nowhere' });
    expect(exitCode).toBe(1);
    expect(stderr).toContain('make libvfio-user');
  });
});
