/** The rehearsal of a blackout: it reaches all of it, and no real party. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connectAll, disconnectAll } from '../../../src/qemu/switchover/connect.ts';
import { rehearse } from '../../../src/qemu/switchover/rehearse.ts';
import type { Run } from '../../../src/qemu/switchover/run.ts';
import { FakeWorld } from './fake-world.ts';

let world: FakeWorld;
let run: Run;
beforeEach(async () => {
  world = new FakeWorld();
  await world.start();
  run = await connectAll(world.options());
  for (const device of run.devices) device.sourceInfo = await device.source.info();
});
afterEach(async () => {
  await disconnectAll(run);
  await world.stop();
});

describe('a rehearsal', () => {
  it('asks nothing of anybody and leaves the migration as it was', async () => {
    const before = [...world.journal];
    const devices = JSON.stringify(run.devices.map(({ source: _s, destination: _d, ...rest }) => rest));
    await rehearse(run);
    expect(world.journal).toEqual(before);
    expect(JSON.stringify(run.devices.map(({ source: _s, destination: _d, ...rest }) => rest))).toBe(devices);
    expect(run.timeline.spans()).toEqual([]);
    expect(run.progressed).toMatchObject({
      stopped: false,
      continued: false,
      contSent: false,
      committed: false,
    });
  });

  it.each([0x0000, 0x0002, 0x0407])(
    'goes through to its end with a command register of 0x%s',
    async (value) => {
      for (const { sourceInfo } of run.devices) sourceInfo.config.writeUInt16LE(value, 4);
      await expect(rehearse(run)).resolves.toBe(40);
    },
  );

  it('goes no further once the blackout has come, or the migration is given up', async () => {
    run.progressed.stopped = true;
    expect(await rehearse(run)).toBe(0);
    run.progressed.stopped = false;
    run.fail(new Error('given up'));
    expect(await rehearse(run)).toBe(0);
  });
});
