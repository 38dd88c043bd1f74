/** What a guest changes when its destination has been told everything: it has to arrive all the same. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { migrate } from '../../../src/qemu/switchover/migrate.ts';
import { FakeWorld } from './fake-world.ts';

let world: FakeWorld;
beforeEach(async () => {
  world = new FakeWorld();
  world.destination.takesWrites = true;
  await world.start();
});
afterEach(() => world.stop());

const commandAt = 4;
const decoding = 0x0006;
const intxDisable = 0x0400;

const changes: readonly [string, () => void][] = [
  ['its command register', () => world.source.config.writeUInt16LE(decoding | intxDisable, commandAt)],
  ['that it decodes addresses', () => world.source.config.writeUInt16LE(intxDisable, commandAt)],
  ['an entry of its MSI-X table', () => world.source.table.fill(0x44, 16, 28)],
  ['nothing', () => {}],
];

describe.each([
  ['by DMA', 'ecam'],
  ['through the ports', 'ports'],
])('a destination that is told %s', (_how, path) => {
  it.each(changes)(
    'has what the guest had when it stopped, that had just changed %s',
    async (what, change) => {
      world.hasEcam = path === 'ecam';
      const report = await migrate({
        ...world.options(),
        onPhase: (phase) => {
          if (phase === 'pre-switchover') change();
        },
      });
      const { source, destination } = world;
      expect(destination.config.readUInt16LE(commandAt)).toBe(source.config.readUInt16LE(commandAt));
      expect(destination.table.toString('hex')).toBe(source.table.toString('hex'));
      expect(report.devices[0]?.replayPath).toBe(what === 'nothing' ? 'early' : path);
    },
  );
});
