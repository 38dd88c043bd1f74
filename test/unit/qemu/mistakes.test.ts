/** Slips of who calls: told with the way out, and before the destination is of no use any more. */
import { spawn } from 'node:child_process';
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
  ['a folder that there is not', { uri: 'unix:/none/ram' }, 'there is no folder /none', 'another path'],
  ['a relative one', { uri: 'unix:none/ram' }, `no folder ${process.cwd()}/none`, 'another path'],
  ['one that is a file', { listenUri: 'unix:package.json/x' }, 'no folder', 'another path'],
  ['a long path', { uri: `unix:/${'x'.repeat(107)}` }, 'at most 107 bytes, this one 108', 'shorter'],
])('%s is refused, and the destination goes on waiting', async (_what, wrong, message, hint) => {
  const options = world.options();
  // It sees the same files as we do.
  const destination = { ...options.destination, pid: process.pid };
  await expect(migrate({ ...options, destination, ...wrong })).rejects.toMatchObject({
    outcome: 'source',
    message: expect.stringContaining(message),
    hint: expect.stringContaining(hint),
  });
  expect(world.journal).not.toContain('destination QEMU: quit');
});

it.each<[string, string, Partial<MigrateOptions>, string]>([
  ['a misspelt parameter', 'destination migrate-set-parameters', { parameters: { multfd: 4 } }, 'VC_SETTING'],
  [
    'a parameter of which only the source knows that it can not be',
    'source migrate-set-parameters',
    { parameters: { 'multifd-channels': 999 } },
    'VC_SETTING',
  ],
  [
    'capabilities that do not go together',
    'source migrate-set-capabilities',
    { capabilities: { xbzrle: true } },
    'VC_SETTING',
  ],
  ['an address that is none', 'destination migrate-incoming', { uri: 'tcp:127.0.0.1' }, 'VC_URI'],
])('%s leaves both QEMUs as they were, and the destination waiting', async (_what, refused, wrong, code) => {
  world.capabilities = ['pause-before-switchover', 'events', 'xbzrle'].map((capability) => ({
    capability,
    state: false,
  }));
  const before = structuredClone([world.parameters, world.capabilities]);
  world.refused.add(refused);
  await expect(migrate({ ...world.options(), ...wrong })).rejects.toMatchObject({
    code,
    outcome: 'source',
    message: expect.stringContaining(`${refused.replace(' ', ' refuses ')}`),
  });
  expect([world.parameters, world.capabilities]).toEqual(before);
  expect(
    world.journal.filter((line) => /setState|hold|startLogging|QEMU: (quit|stop|migrate)$/.test(line)),
  ).toEqual([]);
  const set = world.journal.filter((line) => line === 'destination QEMU: migrate-set-capabilities');
  expect(set).toHaveLength(2);
  // It can be used again.
  world.refused.clear();
  await expect(migrate(world.options())).resolves.toMatchObject({ outcome: 'migrated' });
});

it('a relative path that is another place for each QEMU is refused', async () => {
  const elsewhere = spawn('cat', { cwd: '/', stdio: ['pipe', 'ignore', 'ignore'] });
  try {
    const { source, destination, ...options } = world.options();
    const failed = migrate({
      ...options,
      source: { ...source, ...(elsewhere.pid === undefined ? {} : { pid: elsewhere.pid }) },
      destination: { ...destination, pid: process.pid },
      uri: 'unix:ram',
    });
    await expect(failed).rejects.toMatchObject({
      code: 'VC_URI',
      message: expect.stringContaining(`one runs in /, the other in ${process.cwd()}`),
    });
  } finally {
    elsewhere.stdin.end();
  }
});

it.each([
  [
    'another machine',
    { destination: 'pc-i440fx-11.1-machine' },
    'pc-q35-11.1 and the destination a pc-i440fx-11.1',
  ],
  ['a newer one', { destination: 'pc-q35-12.0-machine' }, 'pc-q35-11.1 and the destination a pc-q35-12.0'],
])('%s is refused, and the destination goes on waiting', async (_what, machines, message) => {
  world.machines = { source: 'pc-q35-11.1-machine', ...machines };
  await expect(migrate(world.options())).rejects.toMatchObject({
    code: 'VC_MACHINES_DIFFER',
    message: expect.stringContaining(message),
    hint: expect.stringContaining('-machine'),
  });
  expect(world.journal).not.toContain('destination QEMU: quit');
});

it('a machine with other processors is refused, and the destination goes on waiting', async () => {
  world.processors.destination = 4;
  await expect(migrate(world.options())).rejects.toMatchObject({
    code: 'VC_MACHINES_DIFFER',
    message: expect.stringContaining('1 and 4 processors'),
  });
  expect(world.journal).not.toContain('destination QEMU: quit');
});

it('a destination that could not listen is ended: it would listen nowhere else', async () => {
  world.refused.add('destination migrate-incoming');
  world.incomingStatus = 'setup';
  await expect(migrate(world.options())).rejects.toMatchObject({
    code: 'VC_URI',
    outcome: 'source',
    hint: expect.stringContaining('start another one'),
  });
  expect(world.journal).toContain('destination QEMU: quit');
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
