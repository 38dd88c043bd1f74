import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { migrate } from '../../../src/qemu/switchover/migrate.ts';
import { FakeWorld } from './fake-world.ts';

let world: FakeWorld;
beforeEach(async () => {
  world = new FakeWorld();
  await world.start();
});
afterEach(() => world.stop());

const commandRegister = 4;
const memoryOnly = 0x0002;

describe('--verify-config', () => {
  it('compares a device that its guest has switched on', async () => {
    const report = await migrate({ ...world.options(), verify: { config: true } });
    expect(report.devices[0]).toMatchObject({ configCompared: true, configDifferences: [] });
    expect(report.devices[0]?.msixTableEqual).toBe(true);
    expect(report.warnings).toEqual([]);
  });

  it('warns of a device with Bus Master off, which can not be compared', async () => {
    world.source.config.writeUInt16LE(memoryOnly, commandRegister);
    const report = await migrate({ ...world.options(), verify: { config: true } });
    expect(report.outcome).toBe('migrated');
    expect(report.devices[0]).toMatchObject({ configCompared: false, msixTableEqual: null });
    expect(report.warnings).toEqual([
      expect.stringMatching(/^device dev0: .* bus mastering .* could not be compared/),
    ]);
  });

  it('says nothing of it when it was not asked for', async () => {
    world.source.config.writeUInt16LE(memoryOnly, commandRegister);
    const report = await migrate({ ...world.options(), verify: { state: false } });
    expect(report.devices[0]?.configCompared).toBeNull();
    expect(report.warnings).toEqual([]);
  });
});
