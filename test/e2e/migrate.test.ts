import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { DevicePeer } from '../../src/qemu/device-peer.ts';
import type { Testbed, TestbedMigration } from '../../src/qemu/index.ts';
import { MigrationFailed } from '../../src/qemu/index.ts';
import { connectPeer } from '../../src/qemu/vfio-user-peer.ts';
import { rejectionOf } from '../thrown.ts';
import {
  alive,
  boot,
  bootNothing,
  churnCount,
  closeGuest,
  endOfTest,
  everything,
  expectChurn,
  expectWorkload,
  patient,
  ramId,
  ringAddress,
  sharedGuest,
  startChurn,
  startWorkload,
} from './migration-world.ts';

afterEach(endOfTest);
afterAll(closeGuest);

/** Migrates and expects that to fail; returns the error. */
const failing = (bed: Testbed, options: TestbedMigration): Promise<MigrationFailed> =>
  rejectionOf(MigrationFailed, bed.migrate(options));

/** TLS credentials of a key that both ends know. */
function credentials({ folder }: Testbed, endpoint: 'client' | 'server', key: string): object {
  const dir = mkdtempSync(join(folder, 'psk-'));
  writeFileSync(join(dir, 'keys.psk'), `qemu:${key.repeat(64)}\n`, { mode: 0o600 });
  return { 'qom-type': 'tls-creds-psk', id: 'tls0', dir, endpoint };
}

describe('a guest whose device writes its memory', () => {
  // Eighteen seconds a migration on a machine with ten times too much to do.
  it('arrives whole, there and back ten times', { timeout: 400_000 }, async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 300);
    await startWorkload(bed);
    for (let hop = 0; hop < 10; hop += 1) {
      const count = await churnCount(bed);
      const report = await bed.migrate({ verify: everything, ...patient });
      expect(report.ram).toMatchObject({ differing: 0, pages: 65_536 });
      expect(report.devices[0]).toMatchObject({
        stateEqual: true,
        msixTableEqual: true,
        configDifferences: [],
        markedPages: 300,
      });
      expect(report.blackoutUs).toBeGreaterThan(0);
      await expectChurn(bed, count);
    }
    await expectWorkload(bed);
  });

  it('would not without marking: the RAM proof says so, and the guest goes on at the source', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 300);
    await startWorkload(bed);
    const before = bed.current;
    const error = await failing(bed, { verify: { ram: true }, markDirtyPages: false, ...patient });
    expect(error).toMatchObject({ code: 'VC_RAM_DIFFERS', outcome: 'source' });
    expect(error.report.ram?.differing).toBeGreaterThan(0);
    expect(bed.current).toBe(before);
    await expectChurn(bed, await churnCount(bed));
    await expectWorkload(bed);
    // The same guest can still be migrated, rightly.
    const report = await bed.migrate({ verify: everything, ...patient });
    expect(report.ram?.differing).toBe(0);
    await expectWorkload(bed);
  });

  it('is marked although the guest has switched Bus Master off meanwhile', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 200);
    const report = await bed.migrate({
      verify: everything,
      ...patient,
      onPhase: async (phase) => {
        if (phase !== 'precopy') return;
        await expectChurn(bed, await churnCount(bed));
        await bed.agent.check(`pcitool ${ramId} config-write 4 2 2`);
      },
    });
    expect(report.devices[0]?.markedPages).toBeGreaterThan(0);
    expect(report.ram?.differing).toBe(0);
    expect(await bed.agent.check(`pcitool ${ramId} config-read 4 2`)).toMatch(/^(0x)?0*2$/);
    // Port 0xCF8 was borrowed on both sides; the guest's own accesses still work, and so does the device.
    await bed.agent.check(`pcitool ${ramId} enable`);
    await expectChurn(bed, await churnCount(bed));
  });
});

describe('a device that writes thousands of pages', () => {
  const pages = 6000;

  /** A device server whose pages are carried to the destination and not put into place there. */
  async function forgetful(path: string): Promise<DevicePeer> {
    const peer = await connectPeer(path);
    const place = async (count: number) => ({ pages: count, microseconds: 0 });
    return Object.assign(peer, { pages: { ...peer.pages, place } });
  }

  it('has them carried by its servers, without which the RAM proof fails', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, pages, 5);
    await startWorkload(bed);
    await expectChurn(bed, (await churnCount(bed)) + pages, 60_000);
    const options = { verify: { ram: true }, ...patient };
    const error = await failing(bed, { ...options, connectDevice: forgetful });
    expect(error).toMatchObject({ code: 'VC_RAM_DIFFERS', outcome: 'source' });
    expect(error.report.devices[0]?.carriedPages).toBeGreaterThan(0);
    await expectWorkload(bed);
    const count = await churnCount(bed);
    const report = await bed.migrate({ verify: everything, ...patient });
    expect(report.ram).toMatchObject({ differing: 0, pages: 65_536 });
    const [device] = report.devices;
    expect(device?.carriedPages).toBeGreaterThan(pages / 2);
    expect((device?.carriedPages ?? 0) + (device?.markedPages ?? 0)).toBe(pages);
    await expectChurn(bed, count);
    await expectWorkload(bed);
  });
});

describe('machines, buses and transports', () => {
  it.each<[string, Parameters<typeof boot>[0], TestbedMigration]>([
    ['pc', { vm: { machine: 'pc' } }, {}],
    ['a root port', { vm: { rootPorts: ['rp0'] }, devices: [{ id: 'dev0', model: 'ram', bus: 'rp0' }] }, {}],
    ['xbzrle', undefined, { capabilities: { xbzrle: true } }],
    // How RAM goes and what the device can do have nothing to do with each other: one guest shows both.
    [
      'tcp and multifd, a device without P2P and PRE_COPY',
      { transport: 'tcp', devices: [{ id: 'dev0', model: 'ram', args: ['--no-p2p', '--no-precopy'] }] },
      { capabilities: { multifd: true }, parameters: { 'multifd-channels': 2 } },
    ],
  ])('migrates with %s', async (_name, options, migration) => {
    const bed = options === undefined ? await sharedGuest() : await boot(options);
    await startChurn(bed, 100);
    const report = await bed.migrate({ verify: everything, ...patient, ...migration });
    expect(report.ram?.differing).toBe(0);
    await expectChurn(bed, await churnCount(bed));
    expect(await bed.agent.check('ramtest --mode poll')).not.toContain('not ok');
  });

  it('migrates devices of one VM with MSI-X, INTx and MSI', async () => {
    const interrupts = ['msix', 'intx', 'msi'] as const;
    const ringBytes = 1 << 20;
    const slots = interrupts.map((_, index) => `0000:00:0${5 + index}.0`);
    const bed = await boot({
      devices: interrupts.map((interrupt, index) => ({
        id: `dev${index}`,
        model: 'ram',
        addr: String(5 + index),
        set: { interrupt },
      })),
    });
    // Seldom: three devices that write all the time would leave the guest little of a small machine.
    for (const [index, slot] of slots.entries())
      await startChurn(bed, 100, 2000, slot, ringAddress + index * ringBytes);
    await startWorkload(bed);
    const report = await bed.migrate({ verify: everything, ...patient });
    for (const device of report.devices)
      expect(device).toMatchObject({ stateEqual: true, configDifferences: [], markedPages: 100 });
    expect(report.devices.map(({ msixTableEqual }) => msixTableEqual)).toEqual([true, null, null]);
    expect(report.ram?.differing).toBe(0);
    for (const slot of slots) {
      await expectChurn(bed, await churnCount(bed, slot), undefined, slot);
      expect(await bed.agent.check(`ramtest --device ${slot} --mode poll`)).not.toContain('not ok');
    }
    await expectWorkload(bed);
  });

  it('migrates while the firmware runs and BARs may be unassigned', async () => {
    const bed = await bootNothing();
    for (let hop = 0; hop < 3; hop += 1) {
      const report = await bed.migrate({ verify: everything, ...patient });
      expect(report.ram?.differing).toBe(0);
    }
  });

  it('migrates by TLS, and not to a QEMU that has another key', async () => {
    const bed = await bootNothing();
    const encrypted = async (key: string): Promise<TestbedMigration> => {
      const destination = await bed.prepare();
      await destination.vm.qmp.execute('object-add', credentials(bed, 'server', key));
      return { verify: everything, ...patient, destination, parameters: { 'tls-creds': 'tls0' } };
    };
    await bed.current.vm.qmp.execute('object-add', credentials(bed, 'client', 'a'));
    const failed = await failing(bed, await encrypted('b'));
    expect(failed).toMatchObject({
      outcome: 'source',
      message: expect.stringContaining('TLS handshake failed'),
    });
    const report = await bed.migrate(await encrypted('a'));
    expect(report).toMatchObject({ outcome: 'migrated', ram: { differing: 0 } });
  });

  it('migrates through a reboot of the guest', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 100);
    await bed.current.vm.qmp.execute('system_reset');
    const report = await bed.migrate({ verify: everything, ...patient });
    expect(report.ram?.differing).toBe(0);
    await bed.agent.waitReady({ timeoutMs: 120_000 });
    expect(await bed.agent.check('ramtest --mode poll')).not.toContain('not ok');
  });
});

describe('a guest that somebody else stops or starts in precopy', () => {
  it('arrives as it was left', async () => {
    const bed = await bootNothing();
    const tell = (command: string) => async (phase: string) => {
      if (phase === 'precopy') await bed.current.vm.qmp.execute(command);
    };
    const status = () => bed.current.vm.qmp.execute('query-status');
    const paused = await bed.migrate({ verify: everything, ...patient, onPhase: tell('stop') });
    expect(paused).toMatchObject({ ram: { differing: 0 }, blackoutUs: null });
    expect(await status()).toMatchObject({ status: 'paused' });
    const started = await bed.migrate({ ...patient, onPhase: tell('cont') });
    expect(started.blackoutUs).toBeGreaterThan(0);
    expect(await status()).toMatchObject({ status: 'running' });
  });
});

describe('a device with much memory of its own', () => {
  it('sends it while the guest runs, and QEMU is held until it has', async () => {
    const megabytes = 64;
    const bed = await boot({ devices: [{ id: 'dev0', model: 'ram', set: { megabytes } }] });
    await startWorkload(bed);
    expect(await bed.agent.check(`ramtest --mode poll --size ${2 << 20} --rounds 1`)).not.toContain('not ok');
    const report = await bed.migrate({ verify: everything, ...patient });
    const [device] = report.devices;
    expect(device?.stateBytes).toBeGreaterThan(1 << 20);
    expect(device?.finalBytes).toBeLessThan(256 << 10);
    expect(device?.stateEqual).toBe(true);
    expect(report.ram?.differing).toBe(0);
    await expectWorkload(bed);
  });
});

describe('a migration that must not happen', () => {
  it('is refused when the destination serves another model, with nothing touched', async () => {
    const bed = await bootNothing();
    const destination = await bed.prepare({ dev0: { model: 'hello' } });
    const error = await failing(bed, { destination });
    expect(error).toMatchObject({ code: 'VC_STATE_REFUSED', outcome: 'source' });
    expect(await bed.current.vm.qmp.execute('query-status')).toMatchObject({ status: 'running' });
  });

  it('is refused when the destination has another geometry, while the guest runs', async () => {
    const bed = await bootNothing();
    const destination = await bed.prepare({ dev0: { set: { megabytes: 32 } } });
    const error = await failing(bed, { destination });
    expect(error.outcome).toBe('source');
    expect(error.report.phases.map(({ phase }) => phase)).not.toContain('pre-switchover');
    expect(await bed.current.vm.qmp.execute('query-status')).toMatchObject({ status: 'running' });
  });

  it('is refused when a device would be left behind', async () => {
    const bed = await bootNothing({
      devices: [
        { id: 'dev0', model: 'ram' },
        { id: 'dev1', model: 'hello' },
      ],
    });
    const destination = await bed.prepare();
    const { devices } = await bed.migrateOptions(destination);
    const { migrate } = await import('../../src/qemu/index.ts');
    const options = { ...(await bed.migrateOptions(destination)), devices: devices.slice(0, 1) };
    await expect(migrate(options)).rejects.toThrow(/not to be migrated: dev1/);
  });

  it('is refused behind a translating vIOMMU', async () => {
    const bed = await boot({
      vm: {
        machineOptions: ['kernel-irqchip=split'],
        append: 'intel_iommu=on iommu.passthrough=0 iommu.strict=1',
        platformDevices: ['intel-iommu,caching-mode=on'],
      },
    });
    const error = await failing(bed, {});
    expect(error).toMatchObject({ code: 'VC_VIOMMU', outcome: 'source' });
    expect(await bed.current.vm.qmp.execute('query-status')).toMatchObject({ status: 'running' });
  });
});

describe('cancelling', () => {
  it('in any phase leaves the guest at the source, able to migrate later', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 100);
    await startWorkload(bed);
    for (const when of ['setup', 'precopy', 'pre-switchover', 'replay', 'resume'] as const) {
      const cancel = new AbortController();
      const destination = await bed.prepare();
      const error = await failing(bed, {
        destination,
        ...patient,
        signal: cancel.signal,
        onPhase: (phase) => {
          if (phase === when) cancel.abort();
        },
      });
      expect(error, when).toMatchObject({ code: 'VC_CANCELLED', outcome: 'source' });
      expect(alive(destination.vm.pid), when).toBe(false);
      await expectChurn(bed, await churnCount(bed));
      await expectWorkload(bed);
    }
    const report = await bed.migrate({ verify: everything, ...patient });
    expect(report.ram?.differing).toBe(0);
    await expectChurn(bed, await churnCount(bed));
    await expectWorkload(bed);
  });
});

describe('convergence', () => {
  it('gives up when the limit can not be met, and says what would be needed', async () => {
    const bed = await sharedGuest();
    await startChurn(bed, 300);
    await startWorkload(bed);
    const error = await failing(bed, { downtimeLimitMs: 3, maxSeconds: 2 });
    expect(error).toMatchObject({ code: 'VC_NOT_CONVERGED', outcome: 'source' });
    expect(error.hint).toMatch(/downtime limit of about \d+ ms/);
    expect(error.report.phases.map(({ phase }) => phase)).not.toContain('pre-switchover');
    await expectWorkload(bed);
  });
});
