/** What a migration must leave as it found it: settings of the source QEMU, and a guest that somebody had paused. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { migrationState } from '../../../src/migration/state.ts';
import { Qmp } from '../../../src/qemu/qmp.ts';
import { connectAll, disconnectAll } from '../../../src/qemu/switchover/connect.ts';
import { anticipate } from '../../../src/qemu/switchover/final.ts';
import { migrate } from '../../../src/qemu/switchover/migrate.ts';
import { MigrationFailed } from '../../../src/qemu/switchover/options.ts';
import type { Progress } from '../../../src/report/types.ts';
import { rejectionOf } from '../../thrown.ts';
import { FakeWorld } from './fake-world.ts';

let world: FakeWorld;
beforeEach(async () => {
  world = new FakeWorld();
  await world.start();
});
afterEach(() => world.stop());

describe('the settings of a source that is given the guest back', () => {
  const settings = () => {
    const { parameters, capabilities } = world;
    return {
      ...parameters,
      ...Object.fromEntries(capabilities.map((each) => [each.capability, each.state])),
    };
  };

  it.each(['precopy', 'pre-switchover'] as const)('are the old ones after a cancel in %s', async (when) => {
    world.parameters['max-bandwidth'] = 12_345;
    world.capabilities = ['pause-before-switchover', 'events', 'xbzrle', 'multifd'].map((capability) => ({
      capability,
      state: capability === 'xbzrle',
    }));
    const before = settings();
    const cancel = new AbortController();
    let changed: Record<string, unknown> | undefined;
    const onPhase = (phase: string): void => {
      if (phase !== when) return;
      changed = settings();
      cancel.abort();
    };
    const { signal } = cancel;
    Object.assign(world.credentials, { source: { tls0: 'client' }, destination: { tls0: 'server' } });
    const parameters = { 'tls-creds': 'tls0', 'multifd-compression': 'zstd' };
    const asked = { capabilities: { multifd: true, xbzrle: false }, parameters, maxBandwidth: 99_999 };
    await expect(migrate({ ...world.options(), ...asked, signal, onPhase })).rejects.toMatchObject({
      outcome: 'source',
      code: 'VC_CANCELLED',
    });
    // All that is to be undone has been done.
    for (const [name, value] of Object.entries(before)) expect(changed?.[name], name).not.toBe(value);
    expect(settings()).toEqual(before);
    // QEMU takes no capabilities while it migrates.
    const { journal } = world;
    const cancelled = journal.indexOf('source QEMU: migrate_cancel');
    expect(cancelled).toBeGreaterThan(0);
    expect(journal.lastIndexOf('source QEMU: migrate-set-capabilities')).toBeGreaterThan(cancelled);
  });
});

describe('the settings of a destination that has the guest', () => {
  const asked = { capabilities: { multifd: true, xbzrle: false }, parameters: { 'max-bandwidth': 77_777 } };

  beforeEach(() => {
    world.capabilities = ['events', 'xbzrle', 'multifd'].map((capability) => ({
      capability,
      state: capability === 'xbzrle',
    }));
  });
  afterEach(() => vi.restoreAllMocks());

  it('are its own again, for its next migration knows nothing of this one', async () => {
    const capabilities = structuredClone(world.capabilities);
    const execute = vi.spyOn(Qmp.prototype, 'execute');
    await migrate({ ...world.options(), ...asked });
    const set = execute.mock.calls.filter(([command], call) => {
      const session = execute.mock.contexts[call];
      return (
        command.startsWith('migrate-set') && session instanceof Qmp && session.address.endsWith('destination')
      );
    });
    expect(set.slice(2)).toEqual([
      ['migrate-set-parameters', { 'max-bandwidth': 1 << 27 }],
      ['migrate-set-capabilities', { capabilities }],
    ]);
    const { journal } = world;
    expect(journal.lastIndexOf('destination QEMU: migrate-set-capabilities')).toBeGreaterThan(
      journal.indexOf('destination.hold off'),
    );
  });

  it('stay where it does not take others, and that is said', async () => {
    const onPhase = (phase: string): void => {
      if (phase === 'resume') world.refused.add('destination migrate-set-capabilities');
    };
    const report = await migrate({ ...world.options(), ...asked, onPhase });
    expect(report).toMatchObject({
      outcome: 'migrated',
      warnings: [expect.stringMatching(/^migration settings of the destination .* not restored.*refuses/)],
    });
  });
});

it('a source that is silent is not asked to take one setting after the other', async () => {
  world.source.failing = { method: 'rest', after: 0 };
  const onPhase = (phase: string): void => {
    if (phase !== 'rollback') return;
    for (const command of ['migrate-set-capabilities', 'migrate-set-parameters'])
      world.silent.add(`source ${command}`);
  };
  const timeouts = { command: 200, rollback: 200 };
  const { report } = await rejectionOf(MigrationFailed, migrate({ ...world.options(), timeouts, onPhase }));
  expect(report.warnings.filter((warning) => warning.includes('settings'))).toEqual([
    expect.stringMatching(/^migration settings .* not restored.*nothing within/),
  ]);
});

it('a source that does not take its former settings back is told of', async () => {
  world.source.failing = { method: 'rest', after: 0 };
  const onPhase = (phase: string): void => {
    if (phase === 'rollback') world.refused.add('source migrate-set-parameters');
  };
  await expect(migrate({ ...world.options(), onPhase })).rejects.toMatchObject({
    outcome: 'source',
    report: { warnings: [expect.stringMatching(/^migration settings .* not restored.*refuses/)] },
  });
});

it.each([{ maxBandwidth: 77_777 }, { parameters: { 'max-bandwidth': 77_777 } }])(
  'a source that was held back sends as fast again as was asked for: %o',
  async (asked) => {
    world.precopyMs = 60_000;
    world.source.leftBytes = 1e12;
    const onProgress = ({ sample }: Progress): void => {
      if (sample?.held === true) world.source.leftBytes = 100;
      else if (world.source.leftBytes === 100 && world.parameters['max-bandwidth'] === 77_777)
        world.switchOver();
    };
    const { samples } = await migrate({ ...world.options(), ...asked, onProgress });
    expect(samples.map(({ held }) => held)).toEqual(expect.arrayContaining([true, false]));
    expect(world.parameters['max-bandwidth']).toBe(77_777);
  },
);

describe('a guest that somebody had paused', () => {
  beforeEach(() => {
    world.sourceStatus = 'paused';
  });

  it.each([false, true])('is paused at the destination, its devices ready (compared: %s)', async (config) => {
    const report = await migrate({ ...world.options(), verify: { config } });
    expect(report).toMatchObject({ outcome: 'migrated', blackoutUs: null, warnings: [] });
    expect(world.destinationStatus).toBe('paused');
    expect(world.journal).not.toContain('destination QEMU: cont');
    const loaded = world.journal.indexOf('destination loaded');
    expect(loaded).toBeGreaterThan(0);
    expect(world.journal.indexOf('destination.hold off')).toBeGreaterThan(loaded);
    expect(world.journal).toContain('destination.fireVectors');
  });

  it.each([
    [true, [['cont']]],
    [false, []],
  ])('has its start prepared at the destination only if it ran: %s', async (ran, prepared) => {
    const run = await connectAll(world.options());
    try {
      run.wasRunning = ran;
      const asked = vi.spyOn(run.destination, 'anticipate');
      anticipate(run);
      expect(asked.mock.calls).toEqual(prepared);
    } finally {
      await disconnectAll(run);
    }
  });

  it.each(['precopy', 'pre-switchover', 'resume'] as const)(
    'is not started at the source by a rollback in %s',
    async (when) => {
      const cancel = new AbortController();
      const onPhase = (phase: string): void => {
        if (phase === when) cancel.abort();
      };
      await expect(migrate({ ...world.options(), signal: cancel.signal, onPhase })).rejects.toMatchObject({
        outcome: 'source',
        code: 'VC_CANCELLED',
      });
      expect(world.journal.filter((line) => line.endsWith('QEMU: cont'))).toEqual([]);
      // A QEMU that has sent all of its guest stays in that state until somebody starts it.
      expect(world.sourceStatus).toBe(when === 'resume' ? 'postmigrate' : 'paused');
      expect(world.source.current).toBe(migrationState.RUNNING);
    },
  );
});

describe('a guest that somebody pauses in precopy', () => {
  beforeEach(() => {
    world.precopyMs = 400;
  });

  /** Sets it after so many milliseconds of precopy. */
  const setAfter =
    (ms: number, running: boolean) =>
    (phase: string): void => {
      if (phase === 'precopy') setTimeout(() => world.setRunning(running), ms);
    };

  it.each([false, true])('arrives paused (compared: %s)', async (config) => {
    const options = { ...world.options(), verify: { config }, onPhase: setAfter(100, false) };
    const report = await migrate(options);
    expect(report).toMatchObject({ outcome: 'migrated', blackoutUs: null, warnings: [] });
    expect(world.destinationStatus).toBe('paused');
    expect(world.journal).toContain('destination.hold off');
    // It did not stand still for this migration from then on: what passed until the switchover is no part of the blackout.
    const { startUs = 0, endUs = 0 } = report.timeline.find(({ part }) => part === 'detect') ?? {};
    const atMs = (phase: string): number => report.phases.find((each) => each.phase === phase)?.atMs ?? NaN;
    expect((endUs - startUs) / 1000).toBeLessThan((atMs('pre-switchover') - atMs('precopy')) / 2);
  });

  it('just before it is stopped for the switchover arrives paused, too', async () => {
    world.precopyMs = 60_000;
    const onPhase = async (phase: string): Promise<void> => {
      if (phase !== 'precopy') return;
      // The looks at how far the migration has come take their time.
      world.source.dirtyEstimate = () => new Promise(() => undefined);
      const { journal } = world;
      const before = journal.length;
      world.setRunning(false);
      const asked = (): string[] => journal.slice(before);
      const isAsked = (): boolean => asked().includes('source QEMU: query-status');
      void vi.waitUntil(isAsked, { timeout: 15_000 }).then(() => world.switchOver());
    };
    const report = await migrate({ ...world.options(), verify: { config: true }, onPhase });
    expect(report).toMatchObject({ outcome: 'migrated', blackoutUs: null, warnings: [] });
    expect(world.destinationStatus).toBe('paused');
  });

  it.each([false, true])(
    'while both sides are checked is taken for what it is (running then: %s)',
    async (running) => {
      world.sourceStatus = running ? 'paused' : 'running';
      const { source } = world;
      const asked = source.migrationFlags.bind(source);
      source.migrationFlags = () => {
        world.setRunning(running);
        return asked();
      };
      await migrate({ ...world.options(), verify: { config: true } });
      expect(world.destinationStatus).toBe(running ? 'running' : 'paused');
    },
  );

  it('arrives paused, and is not waited for, also when that shows only then', async () => {
    // So late that it has been told to start before, however busy this machine is.
    world.loadMs = 400;
    const onPhase = (phase: string): void => {
      // Its destination is told to start when it has loaded; it loads a guest that was paused.
      if (phase === 'pre-switchover') world.setRunning(false);
    };
    const report = await migrate({ ...world.options(), onPhase });
    expect(report).toMatchObject({ outcome: 'migrated', blackoutUs: null, warnings: [] });
    expect(world.destinationStatus).toBe('paused');
  });

  it('stays paused when the migration fails', async () => {
    world.destination.failing = { method: 'setState', after: 1 };
    const failed = migrate({ ...world.options(), onPhase: setAfter(100, false) });
    await expect(failed).rejects.toMatchObject({ outcome: 'source' });
    expect(world.sourceStatus).toBe('paused');
    expect(world.journal).not.toContain('source QEMU: cont');
  });

  it.each([false, true])(
    'and one that is started then runs where it arrives (compared: %s)',
    async (config) => {
      world.sourceStatus = 'paused';
      const options = { ...world.options(), verify: { config }, onPhase: setAfter(100, true) };
      const report = await migrate(options);
      expect(report).toMatchObject({ outcome: 'migrated', warnings: [] });
      expect(world.destinationStatus).toBe('running');
    },
  );
});

describe('a guest that suspends itself', () => {
  const wayOut = { hint: expect.stringContaining('system_wakeup') };

  it('while it migrates stays where it is', async () => {
    const onPhase = (phase: string): void => {
      if (phase === 'precopy') world.suspend();
    };
    await expect(migrate({ ...world.options(), onPhase })).rejects.toMatchObject({
      code: 'VC_GUEST_SUSPENDED',
      outcome: 'source',
      ...wayOut,
    });
    expect(world.sourceStatus).toBe('suspended');
    // QEMU would abort.
    expect(world.journal).not.toContain('source QEMU: cont');
  });

  it('is not taken along', async () => {
    world.suspend();
    await expect(migrate(world.options())).rejects.toMatchObject({ code: 'VC_SOURCE_STATE', ...wayOut });
    expect(world.sourceStatus).toBe('suspended');
  });
});
