/** Slips of who calls: told with the way out, and before the destination is of no use any more. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ServedNetwork } from '../../../src/cli/network.ts';
import { silentLogger } from '../../../src/log.ts';
import { createReactor } from '../../../src/loop/index.ts';
import { Qmp } from '../../../src/qemu/qmp.ts';
import { migrate } from '../../../src/qemu/switchover/migrate.ts';
import type { MigrateOptions } from '../../../src/qemu/switchover/options.ts';
import { FakeWorld } from './fake-world.ts';

let world: FakeWorld;
beforeEach(async () => {
  world = new FakeWorld();
  await world.start();
});
afterEach(() => world.stop());

it.each<[string, Partial<MigrateOptions>, string, string]>([
  ['a path for a URI', { uri: 'ram.sock' }, 'RAM can\'t travel by "ram.sock"', 'unix:PATH'],
  ['such a URI to listen at', { listenUri: '0.0.0.0:4444' }, 'travel by "0.0.0.0:4444"', 'tcp:HOST:PORT'],
  [
    'a device that there is not',
    { devices: [{ id: 'dev7', source: 'source', destination: 'destination' }] },
    'no vfio-user-pci device dev7',
    'there is dev0',
  ],
])('%s is refused, and the destination goes on waiting', async (_what, wrong, message, hint) => {
  await expect(migrate({ ...world.options(), ...wrong })).rejects.toMatchObject({
    outcome: 'source',
    message: expect.stringContaining(message),
    hint: expect.stringContaining(hint),
  });
  expect(world.journal).not.toContain('destination QEMU: quit');
});

it('a source that waits for a migration itself may be the destination', async () => {
  world.sourceStatus = 'inmigrate';
  await expect(migrate(world.options())).rejects.toMatchObject({
    code: 'VC_SOURCE_STATE',
    hint: expect.stringContaining('the other way round'),
  });
});

it('a monitor where nobody listens is told how QEMU makes one', async () => {
  await expect(Qmp.connect('/nowhere/a.qmp')).rejects.toMatchObject({
    code: 'VC_QMP_LOST',
    hint: expect.stringContaining('server=on,wait=off'),
  });
});

it('a device without a network port has no link to set', () => {
  const reactor = createReactor();
  try {
    const network = new ServedNetwork({ reactor, log: silentLogger, held: false });
    expect(() => network.operations?.setLink?.({ up: false })).toThrow('no network port');
  } finally {
    reactor.close();
  }
});
