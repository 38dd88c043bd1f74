/** Guests with a vIOMMU: one that lets devices reach memory as it is migrates, one that translates is refused. */
import { afterEach, describe, expect, it } from 'vitest';
import { plainNet } from '../../qemu-scripts/network.ts';
import { MigrationFailed, type VmDescription } from '../../src/qemu/index.ts';
import {
  boot,
  churnCount,
  closeAll,
  everything,
  expectChurn,
  expectWorkload,
  patient,
  ramId,
  startChurn,
  startWorkload,
} from './migration-world.ts';
import * as mlx5 from './mlx5-world.ts';

afterEach(async () => {
  await closeAll();
  await mlx5.closeAll();
});

/** What Linux says of the translation that it has chosen for devices. */
const domainType = 'dmesg | grep -i "iommu: Default domain type"';
const passthrough = 'intel_iommu=on iommu=pt';
const translation = 'intel_iommu=on iommu.passthrough=0 iommu.strict=1';
const remapping: Partial<VmDescription> = {
  platformDevices: ['intel-iommu,intremap=on,caching-mode=on'],
  machineOptions: ['kernel-irqchip=split'],
};

describe('a guest with a vIOMMU that passes devices through', () => {
  it('migrates with a device that writes its memory', async () => {
    const bed = await boot({
      vm: { platformDevices: ['intel-iommu'], append: `mem=192M ${passthrough}` },
    });
    expect(await bed.agent.check(domainType)).toContain('Passthrough');
    await startChurn(bed, 100);
    await startWorkload(bed);
    const count = await churnCount(bed);
    const report = await bed.migrate({ verify: everything, ...patient });
    expect(report.ram).toMatchObject({ differing: 0, pages: 65_536 });
    expect(report.devices[0]).toMatchObject({ stateEqual: true, msixTableEqual: true, markedPages: 100 });
    await expectChurn(bed, count);
    await expectWorkload(bed);
    expect(await bed.agent.check('ramtest --mode poll')).not.toContain('not ok');
  });

  it('migrates with a network card in use, interrupts remapped', async () => {
    const network = await mlx5.makeNetwork();
    const bed = await mlx5.boot({
      devices: [mlx5.card(network)],
      vm: { ...remapping, append: passthrough },
    });
    expect(await bed.agent.check(domainType)).toContain('Passthrough');
    await mlx5.expectPings(bed, plainNet.peer);
    mlx5.expectWhole(await bed.migrate(mlx5.proven));
    await mlx5.expectPings(bed, plainNet.peer);
    expect(await mlx5.warnings(bed)).toEqual([]);
  });
});

describe('a guest whose vIOMMU translates', () => {
  it('is refused before anything starts, with its device set up and in use', async () => {
    const bed = await boot({ vm: { ...remapping, append: `mem=192M ${translation}` } });
    expect(await bed.agent.check(domainType)).toContain('Translated');
    await bed.agent.check(`pcitool ${ramId} enable`);
    await startWorkload(bed);
    const error = await bed.migrate(patient).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(MigrationFailed);
    if (!(error instanceof MigrationFailed)) return;
    expect(error).toMatchObject({ code: 'VC_VIOMMU', outcome: 'source' });
    expect(error.message).toContain('a translating vIOMMU (intel-iommu) is in front of device dev0');
    expect(error.hint).toContain('iommu=pt');
    expect(error.report.phases.map(({ phase }) => phase)).toEqual(['connect', 'check', 'rollback']);
    await expectWorkload(bed);
  });
});
