/** What is left of a migration whose orchestrator is no more, and how it is put right. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeRecovery } from '../../../src/cli/recover.ts';
import { CompanionError } from '../../../src/errors.ts';
import { migrationState } from '../../../src/migration/state.ts';
import { migrate } from '../../../src/qemu/switchover/migrate.ts';
import { type RecoverOptions, type Recovery, recover } from '../../../src/qemu/switchover/recover.ts';
import type { Phase } from '../../../src/report/types.ts';
import { FakeWorld } from './fake-world.ts';

let world: FakeWorld;
beforeEach(async () => {
  world = new FakeWorld();
  await world.start();
});
/** Ends the migrations that were left: they keep the process quiet, and other tests run in it. */
let endLeft: (() => Promise<void>) | undefined;
afterEach(async () => {
  await endLeft?.();
  endLeft = undefined;
  await world.stop();
});

/** Begins a migration that does nothing more from `phase` on. */
async function leaveAt(phase: Phase): Promise<void> {
  await new Promise<void>((reached) => {
    const cancel = new AbortController();
    let go: () => void = () => undefined;
    const left = new Promise<void>((resolve) => {
      go = resolve;
    });
    const onPhase = (at: Phase): Promise<void> | void => {
      if (at !== phase) return;
      reached();
      return left;
    };
    const migration = migrate({ ...world.options(), onPhase, signal: cancel.signal }).catch(() => undefined);
    endLeft = async () => {
      cancel.abort();
      go();
      await migration;
    };
  });
}

function recoverSource(more: Partial<RecoverOptions> = {}): Promise<Recovery> {
  const { source, timeouts = {} } = world.options();
  return recover({
    qmp: source.qmp,
    devices: [{ id: 'dev0', socket: 'source' }],
    timeouts,
    connectDevice: async () => world.source,
    ...more,
  });
}

describe('recover', () => {
  it('has a guest go on whose migration was left in the blackout, its device first', async () => {
    await leaveAt('pre-switchover');
    expect(world.sourceStatus).toBe('finish-migrate');
    const recovery = await recoverSource();
    expect(recovery).toMatchObject({
      before: 'finish-migrate',
      migration: 'pre-switchover',
      devices: [{ id: 'dev0', state: 'PRE_COPY' }],
    });
    expect(world.sourceStatus).toBe('running');
    expect(world.source.current).toBe(migrationState.RUNNING);
    // The first of each: the one that left it alone is still there in this process, and rolls back when QEMU cancels.
    const at = (line: string): number => world.journal.indexOf(line);
    const order = [
      `source.setState ${migrationState.RUNNING}`,
      'source.stopLogging',
      'source.hold off',
      'source.park off',
      'source QEMU: migrate_cancel',
    ].map(at);
    expect(order).not.toContain(-1);
    expect([...order].sort((a, b) => a - b)).toEqual(order);
  });

  it('leaves a VM alone that somebody had paused', async () => {
    world.sourceStatus = 'paused';
    expect(await recoverSource()).toMatchObject({ before: 'paused', migration: 'none' });
    expect(world.sourceStatus).toBe('paused');
    expect(world.journal).not.toContain('source QEMU: cont');
  });

  it('does not start a VM that had been paused before its migration was left in the blackout', async () => {
    world.sourceStatus = 'paused';
    await leaveAt('pre-switchover');
    expect(await recoverSource()).toMatchObject({ before: 'finish-migrate' });
    expect(world.sourceStatus).toBe('paused');
    expect(world.source.current).toBe(migrationState.RUNNING);
    expect(world.journal).not.toContain('source QEMU: cont');
  });

  it('starts a guest that waits, paused, where it has arrived, when it is told to', async () => {
    await leaveAt('resume');
    await expect.poll(() => world.sourceStatus).toBe('postmigrate');
    world.sourceStatus = 'paused';
    await expect(recoverSource()).rejects.toMatchObject({
      code: 'VC_RECOVER',
      message: expect.stringContaining('running elsewhere'),
      hint: expect.stringContaining('the one in state "postmigrate"'),
    });
    expect(world.sourceStatus).toBe('paused');
    await recoverSource({ force: true });
    expect(world.sourceStatus).toBe('running');
  });

  it('does not start a guest that has arrived, and been paused since, whatever it is told', async () => {
    await leaveAt('done');
    await expect.poll(() => world.sourceStatus).toBe('postmigrate');
    world.sourceStatus = 'paused';
    world.source.held = false;
    expect(await recoverSource({ force: true })).toMatchObject({ migration: 'completed', after: 'paused' });
    expect(world.sourceStatus).toBe('paused');
  });

  it.each(['prelaunch', 'suspended', 'io-error', 'guest-panicked', 'shutdown'])(
    'does not start a VM that is %s for reasons of its own',
    async (status) => {
      world.sourceStatus = status;
      const recovery = await recoverSource();
      expect(recovery).toMatchObject({ before: status, after: status });
      expect(describeRecovery(recovery)).toContain(`; it stays ${status}\n`);
      expect(world.journal).not.toContain('source QEMU: cont');
    },
  );

  it('fires the vectors of a device that was held, once it is let go, and of no other', async () => {
    world.source.held = true;
    const { devices } = await recoverSource();
    expect(devices).toMatchObject([{ held: true }]);
    const fired = world.journal.indexOf('source.fireVectors');
    expect(fired).toBeGreaterThan(world.journal.indexOf('source.hold off'));
    world.journal.length = 0;
    expect((await recoverSource()).devices).toMatchObject([{ held: false }]);
    expect(world.journal).not.toContain('source.fireVectors');
  });

  it('takes back settings that a migration had changed, and says so', async () => {
    world.parameters = { 'downtime-limit': 1, 'max-bandwidth': 64 * 1024 };
    world.capabilities = [
      { capability: 'pause-before-switchover', state: true },
      { capability: 'xbzrle', state: true },
    ];
    const { restored } = await recoverSource();
    expect(restored).toEqual({
      'downtime-limit': 300,
      'max-bandwidth': 128 * 1024 * 1024,
      'pause-before-switchover': false,
    });
    expect(world.journal).toContain('source QEMU: migrate-set-parameters');
    expect(world.journal).toContain('source QEMU: migrate-set-capabilities');
  });

  it('changes no setting of a VM that is well', async () => {
    const { restored, before } = await recoverSource();
    expect([before, restored]).toEqual(['running', {}]);
    expect(world.journal.filter((line) => line.includes('migrate-set'))).toEqual([]);
    expect(world.journal).not.toContain('source QEMU: cont');
  });

  it('does not start a guest that may be running elsewhere, unless it is told that it does not', async () => {
    await leaveAt('resume');
    await expect.poll(() => world.sourceStatus).toBe('postmigrate');
    const before = world.journal.length;
    await expect(recoverSource()).rejects.toMatchObject({
      code: 'VC_RECOVER',
      hint: expect.stringContaining('--force'),
    });
    const asked = world.journal.slice(before);
    expect(asked.filter((line) => !line.includes('query'))).toEqual([]);
    expect((await recoverSource({ force: true })).before).toBe('postmigrate');
    expect(world.sourceStatus).toBe('running');
  });

  it('refuses a VM that has no guest', async () => {
    world.sourceStatus = 'inmigrate';
    await expect(recoverSource({ force: true })).rejects.toMatchObject({ code: 'VC_RECOVER' });
    expect(world.journal.filter((line) => line.startsWith('source.'))).toEqual([]);
  });

  it('refuses a VM of which not every device is named, before it changes anything', async () => {
    await leaveAt('pre-switchover');
    world.addDevice();
    const before = world.journal.length;
    await expect(recoverSource()).rejects.toMatchObject({
      code: 'VC_DEVICES',
      message: expect.stringMatching(/^the VM has .* dev1$/),
    });
    expect(world.journal.slice(before).filter((line) => /set|hold|QEMU: (cont|migrate)/.test(line))).toEqual(
      [],
    );
  });

  it('lets every device go whatever is wrong with another, and no guest run then', async () => {
    await leaveAt('pre-switchover');
    const second = world.addDevice().source;
    for (const each of [world.source, second]) each.held = true;
    world.source.failing = { method: 'fireVectors', after: 0 };
    const failed = recoverSource({
      devices: ['source', second.name].map((socket, index) => ({ id: `dev${index}`, socket })),
      connectDevice: async (path) => (path === 'source' ? world.source : second),
    });
    await expect(failed).rejects.toMatchObject({
      code: 'VC_RECOVER',
      message: expect.stringMatching(/^device dev0: .*refuses fireVectors/),
    });
    expect([world.source.held, second.held]).toEqual([false, false]);
    expect(world.sourceStatus).toBe('finish-migrate');
  });

  it('ends a migration of a QEMU that tells no events', async () => {
    await leaveAt('precopy');
    world.eventless = true;
    expect(await recoverSource()).toMatchObject({ after: 'running' });
    expect(world.journal).toContain('source QEMU: migrate_cancel');
  });

  it('does not start a guest that was gone before its migration could be cancelled', async () => {
    await leaveAt('precopy');
    world.endsFirst = true;
    await expect(recoverSource()).rejects.toMatchObject({
      code: 'VC_RECOVER',
      message: expect.stringContaining('may be running at the destination'),
    });
    expect(world.sourceStatus).toBe('postmigrate');
  });

  it('tells of a VM that stays paused that it does', async () => {
    world.sourceStatus = 'paused';
    const recovery = await recoverSource();
    expect(recovery.after).toBe('paused');
    expect(describeRecovery(recovery)).toBe(
      'the VM was paused, its migration none; it stays paused\ndevice dev0 was RUNNING; it works\n',
    );
    world.sourceStatus = 'running';
    expect(describeRecovery(await recoverSource())).toContain('its migration none; it goes on\n');
  });

  it('tells of a QEMU that has never been told to migrate that there was no migration', async () => {
    world.neverMigrated = true;
    expect(describeRecovery(await recoverSource())).toContain(
      'the VM was running, its migration none; it goes on\n',
    );
  });

  it('says which device server can not be reached, and what a migration socket is', async () => {
    const connectDevice = () => Promise.reject(new CompanionError('VC_CONNECTION', 'write EPIPE'));
    await expect(recoverSource({ connectDevice })).rejects.toMatchObject({
      message: 'device dev0 (source): write EPIPE',
      hint: expect.stringContaining('--migration-socket'),
    });
  });

  it('tells the way out of ERROR, which a device does not leave by itself', async () => {
    world.source.current = migrationState.ERROR;
    world.source.failing = { method: 'setState', after: 0 };
    await expect(recoverSource()).rejects.toMatchObject({
      code: 'VC_RECOVER',
      message: expect.stringMatching(/^device dev0: state RUNNING: /),
      hint: expect.stringContaining('vfio-companion ask source reset'),
    });
  });

  it('says which device does not go on', async () => {
    world.source.failing = { method: 'hold', after: 0 };
    // It may be recovered at its destination.
    const message = /^device dev0: release: .*refuses hold; device dev0 does not work any more$/;
    await expect(recoverSource()).rejects.toThrow(message);
  });
});
