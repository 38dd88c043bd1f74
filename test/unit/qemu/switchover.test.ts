/** The switchover against a played world: order, and what every single refusal leads to. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { errno } from '../../../src/errors.ts';
import { migrationState } from '../../../src/migration/state.ts';
import { migrate } from '../../../src/qemu/switchover/migrate.ts';
import { type MigrateOptions, MigrationFailed } from '../../../src/qemu/switchover/options.ts';
import type { Progress } from '../../../src/report/types.ts';
import { FakeWorld, inEcam, type PeerMethod, tableAddress } from './fake-world.ts';

let world: FakeWorld;
beforeEach(async () => {
  world = new FakeWorld();
  await world.start();
});
afterEach(() => world.stop());

/** Position in the journal of the first (or last) such line, whatever its details. */
function at(text: string, last = false): number {
  const matches = (line: string): boolean => line === text || line.startsWith(`${text} `);
  const index = last ? world.journal.findLastIndex(matches) : world.journal.findIndex(matches);
  expect(index, `"${text}" in the journal`).toBeGreaterThanOrEqual(0);
  return index;
}

function expectOrder(...lines: readonly number[]): void {
  expect([...lines].sort((a, b) => a - b)).toEqual(lines);
}

describe('a migration without faults', () => {
  it('does everything in the one order that is right', async () => {
    const report = await migrate(world.options());
    expect(report.outcome).toBe('migrated');
    expect(report.error).toBeNull();
    const stopCopy = `source.setState ${migrationState.STOP_COPY}`;
    // Autostart is off and the dirty log on before RAM moves; the head of the stream has been accepted.
    expectOrder(
      at('destination QEMU: migrate-incoming'),
      at('destination QEMU: stop'),
      at('destination.hold on'),
      at(`destination.setState ${migrationState.RESUMING}`),
      at('source.startLogging'),
      at('destination.write'),
      at('source QEMU: migrate'),
    );
    expectOrder(
      at('source.park on'),
      at('source.barrier', true),
      at('source.hold on'),
      at(`source.setState ${migrationState.PRE_COPY_P2P}`),
      at(stopCopy),
      at('source.markDirty'),
      at('source QEMU: migrate-continue'),
      at('destination QEMU: cont'),
      at('destination.hold off'),
      at('destination.fireVectors'),
      at('destination.park off'),
    );
    // QEMU's last pass waits for the pages, the state moves beside it, and who loads it has been woken before.
    expectOrder(at('source.markDirty'), at('source.read', true), at('destination.write', true));
    expectOrder(at('source.rest'), at('destination.state', true), at('destination.write', true));
    expectOrder(
      at('destination.write', true),
      at(`destination.setState ${migrationState.STOP}`),
      at(`destination.setState ${migrationState.RUNNING}`),
      at('destination QEMU: cont'),
    );
    // Nothing wakes the source up again.
    expect(world.journal).not.toContain('source QEMU: cont');
    expect(world.journal).not.toContain('source.hold off');
  });

  it('parks nothing where there is no port, and wakes nothing up', async () => {
    world.source.hasNet = false;
    world.destination.hasNet = false;
    await migrate(world.options());
    expect(world.journal.filter((line) => line.includes('.park'))).toEqual([]);
  });

  it('moves every change of state when the switchover is near, and what there is much of before', async () => {
    const between = (): string[] => world.journal.slice(at('source.quiet on'), at('source.rest'));
    world.precopyMs = 200;
    await migrate(world.options());
    expect(between()).toContain('source.precopyInfo');
    expect(between()).not.toContain('source.read');
    await world.stop();
    world = new FakeWorld();
    await world.start();
    world.precopyMs = 60_000;
    world.source.dirtyBytes = 100;
    const cancel = new AbortController();
    const failed = migrate({ ...world.options(), signal: cancel.signal });
    const sinceQuiet = (): string[] => world.journal.slice(world.journal.indexOf('source.quiet on'));
    await expect
      .poll(sinceQuiet, { timeout: 5000 })
      .toEqual(expect.arrayContaining(['source.quiet on', 'source.read']));
    cancel.abort();
    await expect(failed).rejects.toMatchObject({ outcome: 'source' });
  });

  it.each([
    { source: -60_000, destination: 0 },
    { source: 60_000, destination: -60_000 },
    { source: 0, destination: -3_600_000 },
  ])("is measured by our clock where those of the QEMUs are other machines': %o", async (clocks) => {
    Object.assign(world.clockMs, clocks);
    const report = await migrate({ ...world.options(), verify: { config: true } });
    expect(report.blackoutUs).toBeGreaterThanOrEqual(0);
    expect(report.blackoutUs).toBeLessThan(20_000_000);
    for (const { startUs, endUs } of report.timeline) {
      expect(startUs).toBeGreaterThan(-20_000_000);
      expect(endUs).toBeLessThan(20_000_000);
    }
  });

  it('is not held back for good by what was measured in a busy moment', async () => {
    const { source } = world;
    const barrier = source.barrier.bind(source);
    const busyMs = 100;
    let rehearsals = 0;
    source.barrier = async () => {
      rehearsals += 1;
      if (rehearsals <= 16) await delay(busyMs);
      return barrier();
    };
    world.precopyMs = 60_000;
    let held = false;
    const onProgress = ({ sample }: Progress): void => {
      held ||= sample?.held === true;
      if (held && sample?.held === false) world.switchOver();
    };
    const report = await migrate({
      ...world.options(),
      downtimeLimitMs: 4 * busyMs,
      maxSeconds: 15,
      onProgress,
    });
    expect(report.outcome).toBe('migrated');
  });

  it('counts no rounds of RAM while a first pass is under way, which may take many of an idle guest', async () => {
    const { source } = world;
    const maxRounds = 10;
    const asked = source.precopyInfo.bind(source);
    let firstPass = true;
    source.precopyInfo = async () => ({ ...(await asked()), initialBytes: firstPass ? 100 : 0 });
    world.precopyMs = 60_000;
    const onProgress = ({ sample }: Progress): void => {
      if (sample === undefined) return;
      world.rounds += 5;
      if (sample.round > 3 * maxRounds) firstPass = false;
      if (!sample.held) world.switchOver();
    };
    const report = await migrate({ ...world.options(), maxRounds, onProgress });
    expect(report.outcome).toBe('migrated');
    expect(report.rounds).toBeGreaterThan(3 * maxRounds);
  });

  it('counts the blackout from when QEMU stopped the guest, however late it tells', async () => {
    world.stopsAheadMs = 50;
    const report = await migrate(world.options());
    expect(report.blackoutUs).toBeGreaterThan(50_000);
  });

  it('does not count rounds of RAM that pass before QEMU has heard how much it may leave for the blackout', async () => {
    const maxRounds = 10;
    world.precopyMs = 60_000;
    const onProgress = ({ sample }: Progress): void => {
      if (sample === undefined) return;
      // As a busy machine's: a few milliseconds each, and looks far apart.
      world.rounds += maxRounds;
      if (sample.round > 5 * maxRounds) world.switchOver();
    };
    const report = await migrate({ ...world.options(), maxRounds, onProgress });
    expect(report.outcome).toBe('migrated');
    expect(report.rounds).toBeGreaterThan(5 * maxRounds);
  });

  it('gives up when a guest has been too busy for as many rounds as were looked at', async () => {
    world.precopyMs = 60_000;
    let looks = 0;
    const onProgress = ({ sample }: Progress): void => {
      if (sample === undefined) return;
      world.rounds += 3;
      looks += 1;
    };
    const failed = migrate({ ...world.options(), maxRounds: 5, onProgress });
    await expect(failed).rejects.toMatchObject({ code: 'VC_NOT_CONVERGED' });
    expect(looks).toBe(6);
  });

  it('has told the destination all registers before the blackout', async () => {
    const report = await migrate(world.options());
    expect(report.devices[0]?.replayPath).toBe('early');
    const blackout = world.journal.slice(at('source.park on'));
    const told = (line: string): boolean => /^destination(\.dma|\.info| QEMU: o )/.test(line);
    expect(blackout.filter(told)).toEqual([]);
    const early = world.journal.slice(0, at('source QEMU: migrate')).filter(told);
    // Addresses with decoding off, then decoding; the table before MSI-X is enabled.
    const expected = ['o /h 0xcfc 0x4', 'o /w 0xcfc 0xfe000000', 'o /h 0xcfc 0x6', 'o /h 0xcfe 0x8003'];
    const lines = expected.map((line) => early.indexOf(`destination QEMU: ${line}`));
    expectOrder(...lines.slice(0, 3), early.indexOf('destination.dma write'), ...lines.slice(3));
    expect(lines).not.toContain(-1);
  });

  it('replays in the blackout what the guest has changed since, by DMA when there is an ECAM window', async () => {
    const report = await migrate({ ...world.options(), onPhase: changeLate });
    expect(report.devices[0]).toMatchObject({ replayPath: 'ecam', replayedRegisters: 1 });
    expectOrder(
      at('source QEMU: migrate-continue'),
      at('destination.dma read,write', true),
      at(`destination.setState ${migrationState.RUNNING}`),
      at('destination QEMU: cont'),
    );
    const blackout = world.journal.slice(at('source.park on'));
    expect(blackout.filter((line) => line.startsWith('destination QEMU: o '))).toEqual([]);
  });

  it('tells what the guest changes in precopy before the blackout, too', async () => {
    world.precopyMs = 200;
    const report = await migrate({
      ...world.options(),
      onPhase: (phase) => {
        if (phase === 'precopy') changeInterruptLine();
      },
    });
    expect(report.devices[0]?.replayPath).toBe('early');
    expect(world.journal).toContain('destination QEMU: o /b 0xcfc 0xb');
  });
});

describe('a destination that has been told all', () => {
  const loading = 300;

  it('is told to start while it loads, and its devices are let go when it runs', async () => {
    world.loadMs = loading;
    const report = await migrate(world.options());
    expect(report.outcome).toBe('migrated');
    expectOrder(
      at(`destination.setState ${migrationState.RUNNING}`),
      at('destination QEMU: cont'),
      at('destination loaded'),
      at('destination.hold off'),
    );
    expect(report.timeline.map(({ part }) => part)).toEqual(expect.arrayContaining(['final-ram', 'resume']));
    expect(report.blackoutUs).toBeGreaterThan(0);
  });

  it('is not told so early when something is compared, or is left to be told', async () => {
    world.loadMs = 50;
    await migrate({ ...world.options(), verify: { config: true } });
    expectOrder(at('destination loaded'), at('destination QEMU: cont'));
    await world.stop();
    world = new FakeWorld();
    await world.start();
    world.loadMs = 50;
    await migrate({ ...world.options(), onPhase: changeLate });
    expectOrder(at('destination loaded'), at('destination QEMU: cont'));
  });

  it('whose server dies while it loads does not start: the source goes on', async () => {
    world.loadMs = 60_000;
    const failed = migrate(world.options());
    await expect.poll(() => world.journal).toContain('destination QEMU: cont');
    world.destination.die(new Error('killed'));
    await expect(failed).rejects.toMatchObject({ outcome: 'source', code: 'VC_PEER_LOST' });
    expectOrder(at('destination QEMU: cont'), at('destination QEMU: stop', true), at('source.hold off'));
    expect(world.journal).not.toContain('destination loaded');
    expect(world.sourceStatus).toBe('running');
    expect(world.journal).not.toContain('destination.hold off');
  });

  it.each([false, true])('is called back by a cancel while it loads (RAM is stuck: %s)', async (stuck) => {
    world.loadMs = 60_000;
    world.stuck = stuck;
    const cancel = new AbortController();
    const timeouts = { command: 5000, final: 60_000, rollback: 5000 };
    const failed = migrate({ ...world.options(), timeouts, signal: cancel.signal });
    await expect.poll(() => world.journal).toContain('destination QEMU: cont');
    cancel.abort();
    await expect(failed).rejects.toMatchObject({ outcome: 'source', code: 'VC_CANCELLED' });
    expectOrder(at('destination QEMU: cont'), at('destination QEMU: stop', true), at('source.hold off'));
    expect(world.sourceStatus).toBe('running');
  });

  it('is not taken back when it runs already, whatever dies then', async () => {
    world.loadMs = loading;
    world.silentEvents = true;
    const failed = migrate(world.options());
    await expect.poll(() => world.journal).toContain('destination loaded');
    // The news of its start come with the answer to what would take it back.
    world.source.die(new Error('not needed any more'));
    world.destination.die(new Error('killed'));
    expect((await failed).outcome).toBe('migrated');
    expectOrder(
      at('destination QEMU: stop', true),
      at('destination QEMU: cont', true),
      at('destination.hold off'),
    );
    expect(world.destinationStatus).toBe('running');
    expect(world.journal).not.toContain('source QEMU: cont');
  });

  it('gets the guest when the source QEMU dies with nothing left to send', async () => {
    world.loadMs = loading;
    const migrated = migrate(world.options());
    await expect.poll(() => world.journal).toContain('destination QEMU: cont');
    await world.kill('source');
    expect((await migrated).outcome).toBe('migrated');
    expect(world.journal.filter((line) => line === 'destination QEMU: stop')).toHaveLength(1);
  });

  it('that dies with the source takes the guest with it', async () => {
    world.loadMs = 60_000;
    const failed = migrate(world.options());
    await expect.poll(() => world.journal).toContain('destination QEMU: cont');
    await Promise.all([world.kill('source'), world.kill('destination')]);
    await expect(failed).rejects.toMatchObject({ outcome: 'lost' });
  });

  it('that falls silent is not called off: nobody knows whether it will run', async () => {
    world.loadMs = 60_000;
    const failed = migrate({
      ...world.options(),
      timeouts: { command: 1000, final: 1000, rollback: 1000 },
      onPhase: (phase) => {
        // The `stop` of the set-up has been answered by then.
        if (phase === 'final') world.silent.add('destination stop');
        if (phase === 'precopy') world.silent.delete('destination stop');
      },
    });
    const hint = expect.stringMatching(/recover --force.*never start both/);
    await expect(failed).rejects.toMatchObject({ outcome: 'unknown', hint, report: { error: { hint } } });
    expect(world.sourceStatus).not.toBe('running');
  });
});

describe('a guest that has Bus Master off', () => {
  it('gets it for a moment in the blackout, and its MSI-X table arrives', async () => {
    world.source.config.writeUInt16LE(0x0002, 4);
    const report = await migrate(world.options());
    expect(report.devices[0]).toMatchObject({ replayPath: 'ecam', markedPages: 10 });
    const marked = at('source.markDirty', true);
    expectOrder(at('source QEMU: o /h 0xcfc 0x6'), marked, at('source QEMU: o /h 0xcfc 0x2', true));
    // The table is written behind the identity that is read first.
    expectOrder(marked, at('source QEMU: migrate-continue'), at('destination.dma', true));
    expect(world.journal.at(at('destination.dma', true))).toMatch(/dma read,write/);
    expect(world.source.config.readUInt16LE(4)).toBe(0x0002);
  });
});

function changeInterruptLine(): void {
  world.source.config.writeUInt8(0x0b, 0x3c);
}

function changeLate(phase: string): void {
  if (phase === 'pre-switchover') changeInterruptLine();
}

describe('many dirty pages', () => {
  const many = 5000;
  beforeEach(() => {
    world.precopyMs = 500;
    world.source.dirtyPages = many;
  });

  it('are carried beside the last pass of RAM, and put into place before the guest starts', async () => {
    world.loadMs = 50;
    const report = await migrate(world.options());
    expect(report.devices[0]).toMatchObject({ markedPages: 0, carriedPages: many });
    expectOrder(
      at('source.pages.open'),
      at('source.pages.look'),
      at('destination.pages.touch'),
      at(`source.markDirty keep ${many}`),
      at('source QEMU: migrate-continue'),
      at('destination loaded'),
      at(`destination.pages.place ${many}`),
      at('destination QEMU: cont'),
    );
    expectOrder(at('source.markDirty'), at('source.pages.carry'), at('destination loaded'));
    expect(world.journal.filter((line) => line.includes('pages.carry'))).toHaveLength(1);
    const parts = report.timeline.map(({ part }) => part);
    expect(parts).toEqual(expect.arrayContaining(['carry', 'place']));
  });

  it('are marked when there are fewer, when it is asked for, and by servers that carry none', async () => {
    const marked = async (set: () => object): Promise<void> => {
      await world.stop();
      world = new FakeWorld();
      await world.start();
      world.precopyMs = 300;
      world.source.dirtyPages = many;
      const report = await migrate({ ...world.options(), ...set() });
      expect(report.devices[0]).toMatchObject({ markedPages: world.source.dirtyPages, carriedPages: 0 });
      expect(world.journal).not.toContain('source.pages.carry');
    };
    await marked(() => {
      world.source.dirtyPages = 100;
      return {};
    });
    await marked(() => ({ carryPages: false }));
    await marked(() => {
      world.destination.failing = { method: 'pages.open', after: 0 };
      return {};
    });
    // The CPUs stop before any page has been touched.
    await marked(() => {
      world.source.pages.look = () => new Promise(() => undefined);
      return {};
    });
  });

  it.each<['source' | 'destination', PeerMethod]>([
    ['source', 'pages.carry'],
    ['destination', 'pages.place'],
    ['source', 'pages.look'],
    ['destination', 'pages.touch'],
  ])('%s server refuses %s: the guest stays at the source', async (side, method) => {
    world[side].failing = { method, after: 0 };
    await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'source' });
    expect(world.sourceStatus).toBe('running');
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('of which some are not carried end the migration', async () => {
    world.source.carries = many - 1;
    await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'source', code: 'VC_MARKING' });
    expect(world.journal).not.toContain('destination QEMU: cont');
  });
});

describe('a destination whose ECAM window is gone', () => {
  it('is told the registers through the ports, and 0xCF8 is put back', async () => {
    world.destination.ecamThere = false;
    const report = await migrate({ ...world.options(), onPhase: changeLate });
    expect(report.devices[0]?.replayPath).toBe('ports');
    const lines = world.journal.filter((line) => line.startsWith('destination QEMU: o '));
    // What changed; then the guest's own 0xCF8 again.
    expect(lines).toContain('destination QEMU: o /b 0xcfc 0xb');
    expect(lines.at(-1)).toBe('destination QEMU: o /w 0xcf8 0x80000094');
    expectOrder(at('destination QEMU: o /w 0xcf8 0x80000094', true), at('destination QEMU: cont'));
  });
});

describe('a fault before the commit point', () => {
  const inBlackout = 30;
  const faults: [side: 'source' | 'destination', method: PeerMethod, after: number][] = [
    ['source', 'info', 0],
    ['source', 'startLogging', 0],
    ['source', 'setState', 0],
    ['source', 'read', 0],
    ['source', 'dirtyEstimate', 0],
    ['source', 'rest', 0],
    ['source', 'halt', 0],
    ['source', 'barrier', 0],
    ['source', 'hold', 0],
    ['source', 'park', 0],
    ['source', 'markDirty', 0],
    ['source', 'dma', inBlackout],
    ['destination', 'info', 0],
    ['destination', 'hold', 0],
    ['destination', 'setState', 0],
    ['destination', 'setState', 1],
    ['destination', 'setState', 2],
    ['destination', 'write', 0],
    ['destination', 'write', 1],
    ['destination', 'dma', inBlackout],
  ];

  it.each(faults)(
    '%s server refuses %s (from call %d on): the guest stays at the source',
    async (side, method, after) => {
      world[side].failing = { method, after };
      const error = await migrate(world.options()).catch((reason: unknown) => reason);
      // A refusal that was never asked for (the probes of the rehearsal are optional) is no fault.
      if (!(error instanceof MigrationFailed)) {
        expect(error).toMatchObject({ outcome: 'migrated' });
        expect(method).toBe('dma');
        return;
      }
      expect(error.outcome).toBe('source');
      expect(world.sourceStatus).toBe('running');
      expect(world.journal).not.toContain('destination QEMU: cont');
      if (world.journal.includes('source.startLogging')) {
        expect(at('source.hold off')).toBeGreaterThan(0);
        if (method !== 'setState') expect(world.source.current).toBe(migrationState.RUNNING);
      }
    },
  );

  it.each([
    ['migrate', 'VC_QMP_REFUSED'],
    ['migrate-continue', 'VC_QMP_REFUSED'],
    ['migrate-set-capabilities', 'VC_SETTING'],
  ])('source QEMU refuses %s', async (command, code) => {
    world.refused.add(`source ${command}`);
    await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'source', code });
    expect(world.sourceStatus).toBe('running');
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('a source QEMU that answers migrate-continue when it has sent all only: the destination is told before', async () => {
    world.unanswered.add('source migrate-continue');
    // So late that it has been told before, however busy this machine is.
    world.loadMs = 400;
    const report = await migrate(world.options());
    expect(report.outcome).toBe('migrated');
    expectOrder(at('source QEMU: migrate-continue'), at('destination QEMU: cont'), at('destination loaded'));
    expect(report.timeline.map(({ part }) => part)).toContain('continue');
  });

  it.each([false, true])(
    'a last pass of RAM that gets stuck, with QEMU’s main loop in it (something to be compared: %s)',
    async (state) => {
      world.stuck = true;
      const timeouts = { command: 5000, final: 300, rollback: 5000 };
      await expect(migrate({ ...world.options(), verify: { state }, timeouts })).rejects.toMatchObject({
        outcome: 'source',
        code: 'VC_DEADLINE',
        message: expect.stringMatching(
          /^the last pass of RAM: nothing within 300 ms; the guest runs at the source/,
        ),
      });
      expect(world.sourceStatus).toBe('running');
      expectOrder(at('source.hold off'), at('source QEMU: yank'), at('destination QEMU: quit'));
    },
  );

  it('a way that takes nothing of RAM while the guest runs: that is what is said', async () => {
    world.precopyMs = 60_000;
    const now = performance.now.bind(performance);
    let later = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => now() + later);
    const onProgress = ({ sample }: Progress): void => {
      if (sample !== undefined) later = 20_000;
    };
    try {
      await expect(migrate({ ...world.options(), maxSeconds: 10, onProgress })).rejects.toMatchObject({
        outcome: 'source',
        code: 'VC_NOT_CONVERGED',
        message: expect.stringMatching(/^not converged after 10 s: nothing of RAM has been sent for 20 s/),
        hint: expect.stringContaining('is the way to the destination cut'),
      });
    } finally {
      vi.restoreAllMocks();
    }
  });

  describe('a connection for RAM that does not come about', () => {
    const uri = 'tcp:192.0.2.1:4444';
    beforeEach(() => {
      world.unconnected = true;
    });

    it('is given up', async () => {
      const timeouts = { connect: 500, command: 5000, rollback: 60_000 };
      await expect(migrate({ ...world.options(), uri, timeouts })).rejects.toMatchObject({
        outcome: 'source',
        code: 'VC_URI',
        message: expect.stringMatching(/^the source QEMU has not reached tcp:192.0.2.1:4444 within 500 ms/),
        report: { warnings: expect.arrayContaining([expect.stringContaining('still tries to connect')]) },
      });
    });

    it('is no reason to wait after a cancel, or not to know where the guest is', async () => {
      const timeouts = { connect: 60_000, command: 5000, rollback: 120_000 };
      const cancel = new AbortController();
      const onPhase = (phase: string): void => {
        if (phase === 'precopy') setTimeout(() => cancel.abort(), 50);
      };
      const failed = migrate({ ...world.options(), uri, timeouts, onPhase, signal: cancel.signal });
      await expect(failed).rejects.toMatchObject({ outcome: 'source', code: 'VC_CANCELLED' });
    });
  });

  it('destination QEMU refuses cont: the source goes on, the destination is ended', async () => {
    world.refused.add('destination cont');
    await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'source' });
    expectOrder(at('destination QEMU: cont'), at('source.hold off'), at('destination QEMU: quit'));
    // By itself when its migration was cancelled in time, else by `cont`.
    expect(world.sourceStatus).toBe('running');
  });

  it('cancel at any phase', async () => {
    for (const when of ['check', 'precopy', 'pre-switchover', 'final', 'replay', 'resume'] as const) {
      await world.stop();
      world = new FakeWorld();
      await world.start();
      const cancel = new AbortController();
      const onPhase = (phase: string): void => {
        if (phase === when) cancel.abort();
      };
      const failed = migrate({ ...world.options(), signal: cancel.signal, onPhase });
      await expect(failed, when).rejects.toMatchObject({ outcome: 'source', code: 'VC_CANCELLED' });
      expect(world.sourceStatus, when).toBe('running');
    }
  });
});

describe('what would do harm at the destination, or last too long', () => {
  /** Nothing of the guest has run there, and the source goes on. */
  async function expectStays(options: MigrateOptions, failure: object): Promise<void> {
    await expect(migrate(options)).rejects.toMatchObject({ outcome: 'source', ...failure });
    expect(world.sourceStatus).toBe('running');
    expect(world.source.current).toBe(migrationState.RUNNING);
    expect(world.journal).not.toContain('destination QEMU: cont');
  }

  it('a page that can not be shown to QEMU', async () => {
    world.source.markFails = 1;
    const message = expect.stringMatching(/^1 of 10 pages that device dev0 wrote can't be shown .*EFAULT/);
    await expectStays(world.options(), { code: 'VC_MARKING', message });
  });

  it('a register that the destination QEMU refuses in its ECAM window', async () => {
    world.destination.dmaErrno = (address) => (inEcam(address) ? errno.EIO : 0);
    const message = expect.stringMatching(/device dev0 at 00:05\.0 .* refuses write 1 \(EIO\)/);
    await expectStays({ ...world.options(), onPhase: changeLate }, { code: 'VC_REPLAY', message });
  });

  it('an MSI-X table that the destination QEMU refuses, where registers go by ports', async () => {
    world.destination.ecamThere = false;
    world.destination.dmaErrno = (address) => (address >= tableAddress ? errno.EIO : 0);
    const message = expect.stringMatching(/refuses its MSI-X table \(EIO\)/);
    await expectStays(world.options(), { code: 'VC_REPLAY', message });
  });

  it('more state than fits into the limit, which shows when the device has stopped', async () => {
    const message = expect.stringMatching(/^the blackout would last \d+ ms, the limit is 5000 ms/);
    const onPhase = (phase: string): void => {
      if (phase === 'pre-switchover') world.source.leftBytes = 1e12;
    };
    await expectStays({ ...world.options(), onPhase }, { code: 'VC_DOWNTIME', message });
    expect(world.journal).not.toContain('source QEMU: migrate-continue');
  });
});

describe('a clock that is set', () => {
  afterEach(() => vi.restoreAllMocks());

  it.each([-3600, 3600])('by %d s, after this process has started, changes no blackout', async (seconds) => {
    const now = Date.now;
    vi.spyOn(Date, 'now').mockImplementation(() => now() + seconds * 1000);
    const { outcome, timeline } = await migrate(world.options());
    expect(outcome).toBe('migrated');
    for (const { startUs, endUs } of timeline) {
      expect(Math.abs(startUs)).toBeLessThan(60e6);
      expect(Math.abs(endUs)).toBeLessThan(60e6);
    }
  });
});

describe('parties that die', () => {
  it('the source QEMU in precopy takes the guest with it', async () => {
    const options = {
      ...world.options(),
      onPhase: async (phase: string) => {
        if (phase === 'precopy') await world.kill('source');
      },
    };
    await expect(migrate(options)).rejects.toMatchObject({ outcome: 'lost' });
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it.each([
    ['guest-shutdown', 'ended', /^the guest has shut down by itself while it was migrated; nothing is lost/],
    ['guest-reset', 'ended', /^the guest has rebooted, .*nothing is lost/],
    // Somebody else has ended it.
    ['host-qmp-quit', 'lost', /source QEMU is gone|closed the connection/],
  ])('the source QEMU by %s in precopy: the guest is %s', async (reason, outcome, message) => {
    world.precopyMs = 60_000;
    let ended: Promise<void> | undefined;
    const onPhase = (phase: string): void => {
      if (phase === 'precopy') ended = world.endGuest(reason);
    };
    await expect(migrate({ ...world.options(), onPhase })).rejects.toMatchObject({
      outcome,
      message: expect.stringMatching(message),
      report: { outcome, error: { phase: 'precopy' } },
    });
    await ended;
    expect(at('destination QEMU: quit')).toBeGreaterThan(0);
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('the source QEMU after the destination has everything does no harm', async () => {
    const options = {
      ...world.options(),
      onPhase: async (phase: string) => {
        if (phase !== 'replay') return;
        await world.kill('source');
        world.source.die(new Error('killed'));
      },
    };
    expect((await migrate(options)).outcome).toBe('migrated');
  });

  it('a destination that dies upon cont can not have run: the source goes on', async () => {
    const options = {
      ...world.options(),
      onPhase: async (phase: string) => {
        if (phase === 'resume') await world.kill('destination');
      },
    };
    await expect(migrate(options)).rejects.toMatchObject({ outcome: 'source' });
    expect(world.sourceStatus).toBe('running');
  });

  it('a destination server after the commit point is reported, and nothing is taken back', async () => {
    world.destination.failing = { method: 'fireVectors', after: 0 };
    await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'migrated', code: 'VC_RELEASE' });
    expect(world.destinationStatus).toBe('running');
    expect(world.sourceStatus).toBe('postmigrate');
  });
});

describe('what is refused at once', () => {
  it('a source server that lacks operations', async () => {
    world.source.protocol = 1;
    await expect(migrate(world.options())).rejects.toMatchObject({ code: 'VC_PROTOCOL', outcome: 'source' });
    expect(world.journal.filter((line) => /setState|hold|QEMU: migrate$/.test(line))).toEqual([]);
  });

  it('a device whose destination does not know its version of the state', async () => {
    world.source.stateVersion = 2;
    await expect(migrate(world.options())).rejects.toMatchObject({
      code: 'VC_STATE_REFUSED',
      outcome: 'source',
      message: expect.stringContaining('state version 2; its destination knows 1'),
    });
    expect(world.journal.filter((line) => /setState|hold|QEMU: migrate$/.test(line))).toEqual([]);
  });

  it.each([
    ['EINVAL', errno.EINVAL, /^a translating vIOMMU \(intel-iommu\) is in front of device dev0/],
    ['ETIMEDOUT', errno.ETIMEDOUT, /^there is a vIOMMU \(intel-iommu\), .*can't be told .*ETIMEDOUT/],
    ['ECANCELED', errno.ECANCELED, /^there is a vIOMMU \(intel-iommu\), .*can't be told .*ECANCELED/],
  ])('a device behind a vIOMMU whose read of its own table ends in %s', async (_name, code, message) => {
    world.iommu = 'intel-iommu';
    world.source.readErrno = code;
    await expect(migrate(world.options())).rejects.toMatchObject({
      code: 'VC_VIOMMU',
      outcome: 'source',
      message: expect.stringMatching(message),
    });
  });

  it('a device whose two sockets are the other way round', async () => {
    const options = world.options();
    const devices = options.devices.map(({ id, source, destination }) => ({
      id,
      source: destination,
      destination: source,
    }));
    await expect(migrate({ ...options, devices })).rejects.toMatchObject({
      code: 'VC_DESTINATION_STATE',
      outcome: 'source',
      hint: expect.stringContaining('the other way round'),
    });
    expect(world.journal.filter((line) => /setState|hold|QEMU: migrate$/.test(line))).toEqual([]);
  });

  it('a capability that a QEMU does not have, as one that is misspelt', async () => {
    const failed = migrate({ ...world.options(), capabilities: { xbzrle: true, multfd: true } });
    await expect(failed).rejects.toMatchObject({
      code: 'VC_CAPABILITY',
      outcome: 'source',
      message: expect.stringMatching(/^the source QEMU has no migration capability multfd;/),
    });
    expect(world.journal.filter((line) => /setState|hold|QEMU: (migrate|quit)$/.test(line))).toEqual([]);
  });

  it.each([
    { source: 'client', message: 'the destination QEMU has no TLS credentials tls0' },
    { destination: 'server', message: 'the source QEMU has no TLS credentials tls0' },
    {
      ...{ source: 'server', destination: 'server' },
      message: "the TLS credentials tls0 of the source QEMU are a server's, and it will be the client",
    },
    {
      ...{ source: 'client', destination: 'client' },
      message: "the TLS credentials tls0 of the destination QEMU are a client's, and it will be the server",
    },
  ])('TLS, where $message', async ({ message, ...ends }) => {
    for (const [side, endpoint] of Object.entries(ends))
      world.credentials[side as keyof typeof ends].tls0 = endpoint;
    const failed = migrate({ ...world.options(), parameters: { 'tls-creds': 'tls0' } });
    await expect(failed).rejects.toMatchObject({
      ...{ code: 'VC_TLS', outcome: 'source', message: expect.stringContaining(message) },
      hint: expect.stringContaining('id=tls0,endpoint='),
    });
    expect(world.journal.filter((line) => /setState|hold|QEMU: (migrate|quit)$/.test(line))).toEqual([]);
  });

  it('TLS that was set at its QEMU only', async () => {
    world.parameters['tls-creds'] = 'tls0';
    world.destinationParameters['tls-creds'] = '';
    await expect(migrate(world.options())).rejects.toMatchObject({
      ...{
        code: 'VC_TLS',
        message: expect.stringMatching(/^only the source QEMU is set to migrate by TLS;/),
      },
    });
    await expect(migrate({ ...world.options(), parameters: { 'tls-creds': null } })).resolves.toBeDefined();
  });

  it('a second vfio-user device that nobody named, another model, a VM that does not wait', async () => {
    world.destinationStatus = 'running';
    await expect(migrate(world.options())).rejects.toMatchObject({
      code: 'VC_DESTINATION_STATE',
      outcome: 'source',
    });
    world.destinationStatus = 'inmigrate';
    const none = { ...world.options(), devices: [] };
    await expect(migrate(none)).rejects.toMatchObject({ code: 'VC_DEVICES' });
    expect(world.journal.filter((line) => /setState|hold|QEMU: migrate$/.test(line))).toEqual([]);
  });
});
