/** Two devices of one VM: what has to be waited for, and what is done to both. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { errno } from '../../../src/errors.ts';
import { migrationState } from '../../../src/migration/state.ts';
import { migrate } from '../../../src/qemu/switchover/migrate.ts';
import type { MigrateOptions } from '../../../src/qemu/switchover/options.ts';
import { type FakeDevice, FakeWorld, tableAddress } from './fake-world.ts';

let world: FakeWorld;
let devices: readonly FakeDevice[];
beforeEach(async () => {
  world = new FakeWorld();
  world.addDevice();
  devices = world.devices;
  await world.start();
});
afterEach(() => world.stop());

function at(line: string): number {
  const index = world.journal.indexOf(line);
  expect(index, `"${line}" in the journal`).toBeGreaterThanOrEqual(0);
  return index;
}

/** Two devices of which one thing is taken for the other's. */
function crossed(what: 'source' | 'destination' | 'id'): MigrateOptions {
  const options = world.options();
  const [a, b] = options.devices;
  if (a === undefined || b === undefined) throw new Error('two devices');
  return {
    ...options,
    devices: [
      { ...a, [what]: b[what] },
      { ...b, [what]: a[what] },
    ],
  };
}

describe('two devices', () => {
  it.each([0, 1])('are both in P2P before one is stopped, also when number %d is slow', async (slow) => {
    const slowMs = 30;
    const device = devices[slow];
    if (device !== undefined) device.source.restMs = slowMs;
    const report = await migrate(world.options());
    expect(report.devices.map(({ id, replayPath }) => [id, replayPath])).toEqual([
      ['dev0', 'early'],
      ['dev1', 'early'],
    ]);
    // They may write into each other until then.
    const resting = devices.map(({ source }) => at(`${source.name}.setState ${migrationState.PRE_COPY_P2P}`));
    const halting = devices.map(({ source }) => at(`${source.name}.halt`));
    expect(Math.max(...resting)).toBeLessThan(Math.min(...halting));
  });

  it('are both let go at the destination, after its start', async () => {
    await migrate(world.options());
    for (const { destination, source } of devices) {
      for (const what of ['hold off', 'fireVectors', 'park off'])
        expect(at(`${destination.name}.${what}`)).toBeGreaterThan(at('destination QEMU: cont'));
      expect(source.current).toBe(migrationState.STOP_COPY);
    }
  });

  it.each(['source', 'destination', 'id'] as const)(
    'are refused while the guest runs when servers are taken for each other: %s',
    async (what) => {
      const [, second] = devices;
      const barOffset = 0x10;
      second?.source.config.writeUInt32LE(tableAddress + 0x1000, barOffset);
      const side = what === 'destination' ? 'destination' : 'source';
      const other = new RegExp(`^the server at ${side}\\S* is not that of device dev\\d at the ${side}`);
      await expect(migrate(crossed(what))).rejects.toMatchObject({
        code: 'VC_DEVICES',
        outcome: 'source',
        message: expect.stringMatching(other),
      });
      expect(world.journal).not.toContain('source QEMU: migrate');
      if (side === 'source')
        expect(world.journal.filter((line) => /hold|setState|QEMU: (stop|quit)/.test(line))).toEqual([]);
    },
  );

  it('are not refused because the guest moves their addresses just now', async () => {
    const { source } = world;
    const asked = source.info.bind(source);
    let moved = false;
    source.info = async () => {
      const info = await asked();
      if (moved) return info;
      moved = true;
      const bars = info.bars.map((bar) => ({ ...bar, address: tableAddress + 0x10_0000 }));
      return { ...info, bars };
    };
    await migrate(world.options());
    expect(moved).toBe(true);
  });

  it('both go on at the source when one of them can not be stopped', async () => {
    const [, second] = devices;
    if (second !== undefined) second.source.failing = { method: 'halt', after: 0 };
    await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'source' });
    expect(devices.map(({ source }) => [source.current, source.held])).toEqual([
      [migrationState.RUNNING, false],
      [migrationState.RUNNING, false],
    ]);
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('of which the guest has switched Bus Master off get their own command registers back', async () => {
    const commandRegister = 4;
    const values = [0x0002, 0x0402];
    for (const [index, { source }] of devices.entries())
      source.config.writeUInt16LE(values[index] ?? 0, commandRegister);
    const report = await migrate(world.options());
    expect(report.devices.map(({ markedPages }) => markedPages)).toEqual([10, 10]);
    expect(devices.map(({ source }) => source.config.readUInt16LE(commandRegister))).toEqual(values);
  });
});

describe('two devices behind bridges', () => {
  beforeEach(() => {
    for (const [index, device] of devices.entries())
      device.behind = { source: index + 1, destination: index + 1 };
    for (const { destination } of devices) {
      const dma = destination.dma.bind(destination);
      // As QEMU: only what the guest lets do DMA can do some.
      destination.dma = async (operations) =>
        (destination.config.readUInt16LE(4) & 4) !== 0
          ? dma(operations)
          : operations.map(() => ({ errno: errno.ENODEV }));
    }
  });

  it('arrive, each told its registers when the guest has arrived', async () => {
    const report = await migrate(world.options());
    expect(report.devices.map(({ replayPath }) => replayPath)).toEqual(['ecam', 'ecam']);
  });

  it.each([true, false])(
    'are refused in the blackout when servers are taken for each other (q35: %s)',
    async (q35) => {
      if (!q35) for (const { destination } of devices) destination.ecamThere = false;
      await expect(migrate(crossed('destination'))).rejects.toMatchObject({
        code: 'VC_DEVICES',
        outcome: 'source',
        message: expect.stringMatching(
          /^the server at destination\S* is not that of device dev\d at the destination/,
        ),
      });
      expect(world.sourceStatus).toBe('running');
    },
  );

  it("are refused when they sit behind each other's bridge at the destination, before anything is touched", async () => {
    for (const [index, { behind }] of devices.entries()) if (behind) behind.destination = 2 - index;
    await expect(migrate(world.options())).rejects.toMatchObject({
      code: 'VC_MACHINES_DIFFER',
      outcome: 'source',
      message: expect.stringMatching(
        /^device dev0 sits in slot 5.0 behind 1.0 at the source and 5.0 behind 2.0 at the destination/,
      ),
    });
    expect(world.journal.filter((line) => /hold|setState|QEMU: (stop|quit)/.test(line))).toEqual([]);
  });
});

it('two devices whose addresses the guest has not assigned are told apart all the same', async () => {
  const barOffset = 0x10;
  for (const { source } of devices) source.config.writeUInt32LE(0, barOffset);
  await expect(migrate(crossed('destination'))).rejects.toMatchObject({ code: 'VC_DEVICES' });
  expect(world.journal).not.toContain('source QEMU: migrate');
});
