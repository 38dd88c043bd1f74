import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { errno } from '../../../src/errors.ts';
import { migrationState } from '../../../src/migration/state.ts';
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
/** One that a driver writes and that does nothing by itself (PCI Local Bus 3.0, 6.2.4). */
const interruptLine = 0x3c;

function expectGoesOnAtSource(): void {
  expect(world.sourceStatus).toBe('running');
  expect(world.source.current).toBe(migrationState.RUNNING);
  expect(world.journal).not.toContain('destination QEMU: cont');
}

describe('--verify-config', () => {
  it('compares a device that its guest has switched on', async () => {
    const report = await migrate({ ...world.options(), verify: { config: true } });
    expect(report.devices[0]).toMatchObject({ configCompared: true, configDifferences: [] });
    expect(report.devices[0]?.msixTableEqual).toBe(true);
    expect(report.warnings).toEqual([]);
  });

  it.each([
    ['register', /differs at the destination: \w+: 0x0 became 0xb;/, true, 1],
    ['byte of the MSI-X table', /differs at the destination: MSI-X table;/, false, 0],
  ])('lets no guest start where one %s differs', async (which, message, msixTableEqual, differences) => {
    if (which === 'register') world.destination.shown.writeUInt8(0x0b, interruptLine);
    else world.destination.table.writeUInt8(1, world.destination.table.length - 1);
    await expect(migrate({ ...world.options(), verify: { config: true } })).rejects.toMatchObject({
      code: 'VC_CONFIG_DIFFERS',
      outcome: 'source',
      message: expect.stringMatching(message),
      report: { devices: [{ msixTableEqual, configDifferences: { length: differences } }] },
    });
    expectGoesOnAtSource();
  });

  it('takes what it can not read for a difference', async () => {
    const { destination } = world;
    const dma = destination.dma.bind(destination);
    const unreadable = { errno: errno.EIO };
    destination.dma = async (operations) => {
      const results = await dma(operations);
      return results.map((result, at) => {
        const operation = operations[at];
        return operation !== undefined && 'read' in operation && operation.read > 0 ? unreadable : result;
      });
    };
    await expect(migrate({ ...world.options(), verify: { config: true } })).rejects.toMatchObject({
      code: 'VC_CONFIG_DIFFERS',
      report: { devices: [{ msixTableEqual: false, configDifferences: ['unreadable'] }] },
    });
    expectGoesOnAtSource();
  });

  describe('on a machine without an ECAM window', () => {
    beforeEach(() => {
      world.hasEcam = false;
    });

    it('compares what the destination QEMU has, and leaves 0xCF8 as it was', async () => {
      const report = await migrate({ ...world.options(), verify: { config: true } });
      expect(report.devices[0]).toMatchObject({ configCompared: true, configDifferences: [] });
      const ports = world.journal.filter((line) => line.startsWith('destination QEMU: o '));
      expect(ports.at(-1)).toBe('destination QEMU: o /w 0xcf8 0x80000094');
    });

    it('lets no guest start where a register differs that the server has right', async () => {
      const { destination } = world;
      const onPhase = (phase: string): void => {
        // Its server's registers are those of the state that it has loaded.
        if (phase !== 'replay') return;
        const right = Buffer.from(destination.config);
        const info = destination.info.bind(destination);
        destination.info = async () => ({ ...(await info()), config: right });
        destination.config.writeUInt8(0x0b, interruptLine);
      };
      await expect(migrate({ ...world.options(), verify: { config: true }, onPhase })).rejects.toMatchObject({
        code: 'VC_CONFIG_DIFFERS',
        outcome: 'source',
      });
      expectGoesOnAtSource();
    });
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
