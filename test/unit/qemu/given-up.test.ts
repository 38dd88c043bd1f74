/** A migration that is given up in the middle of a step: what was begun must not go on behind the rollback. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { migrationState } from '../../../src/migration/state.ts';
import { closeFd, MappedMemory, memfdCreate, mmapProt } from '../../../src/posix/index.ts';
import { connectAll, disconnectAll } from '../../../src/qemu/switchover/connect.ts';
import { fenced } from '../../../src/qemu/switchover/fence.ts';
import { migrate } from '../../../src/qemu/switchover/migrate.ts';
import { type MigrateOptions, MigrationFailed } from '../../../src/qemu/switchover/options.ts';
import { rejectionOf } from '../../thrown.ts';
import { type FakePeer, FakeWorld } from './fake-world.ts';

let world: FakeWorld;
let cancel: AbortController;

beforeEach(async () => {
  world = new FakeWorld();
  cancel = new AbortController();
  await world.start();
});
afterEach(() => world.stop());

const settlingMs = 50;

/** Answers these requests one after the other, each a moment later, as a server does. Cancels while it is on its way to `state`. */
function slowDown(peer: FakePeer, state?: number): void {
  let last: Promise<unknown> = Promise.resolve();
  const slow = <A extends unknown[], T>(work: (...args: A) => Promise<T>) => {
    return (...args: A): Promise<T> => {
      const answer = last.then(() => delay(1)).then(() => work.apply(peer, args));
      last = answer.catch(() => undefined);
      return answer;
    };
  };
  const setState = slow(peer.setState);
  peer.setState = (to) => {
    if (to === state) setImmediate(() => cancel.abort());
    return setState(to);
  };
  peer.startLogging = slow(peer.startLogging);
  peer.stopLogging = slow(peer.stopLogging);
  peer.hold = slow(peer.hold);
  peer.park = slow(peer.park);
}

/** Does something when `line` comes to stand in the journal. */
function whenAsked(line: string, action: () => unknown): void {
  const { journal } = world;
  const push = journal.push.bind(journal);
  journal.push = (...lines) => {
    if (lines.includes(line)) setImmediate(action);
    return push(...lines);
  };
}

function cancelAt(line: string): void {
  whenAsked(line, () => cancel.abort());
}

/** Migrates, is cancelled, and waits for what may still come. */
async function cancelled(more: Partial<MigrateOptions> = {}): Promise<void> {
  const migration = migrate({ ...world.options(), signal: cancel.signal, ...more });
  await expect(migration).rejects.toMatchObject({ outcome: 'source', code: 'VC_CANCELLED' });
  expect(world.sourceStatus).toBe('running');
  await delay(settlingMs);
}

describe('a step that nobody waits for any more', () => {
  it('does not stop the device again that is saved once more for a comparison', async () => {
    slowDown(world.source, migrationState.STOP);
    await cancelled({ verify: { state: true } });
    expect(world.source.current).toBe(migrationState.RUNNING);
  });

  it('does not begin the log and PRE_COPY of a source that was given back', async () => {
    slowDown(world.source);
    slowDown(world.destination, migrationState.RESUMING);
    await cancelled();
    expect(world.source.current).toBe(migrationState.RUNNING);
    expect(world.journal).not.toContain('source.startLogging');
  });

  it('does not begin the PRE_COPY of a device when what was asked of another has failed', async () => {
    const other = world.addDevice().source;
    other.failing = { method: 'startLogging', after: 0 };
    slowDown(world.source);
    await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'source' });
    await delay(settlingMs);
    expect([world.source.current, other.current]).toEqual([migrationState.RUNNING, migrationState.RUNNING]);
    expect(world.journal.filter((line) => line.startsWith('source.')).at(-1)).toBe('source.park off');
  });

  it('does not borrow the Bus Master bit of a guest that runs', async () => {
    world.source.config.writeUInt16LE(0x0002, 4);
    cancelAt('source QEMU: i /w 0xcf8');
    await cancelled();
    const after = world.journal.slice(world.journal.indexOf('source QEMU: migrate_cancel'));
    expect(after.filter((line) => line.startsWith('source QEMU: o '))).toEqual([]);
    expect(world.source.config.readUInt16LE(4)).toBe(0x0002);
  });

  it('gives a borrowed bit back first', async () => {
    world.source.config.writeUInt16LE(0x0002, 4);
    cancelAt('source QEMU: o /h 0xcfc 0x6');
    await cancelled();
    expect(world.source.config.readUInt16LE(4)).toBe(0x0002);
    const back = world.journal.lastIndexOf('source QEMU: o /w 0xcf8 0x80000094');
    expect(back).toBeGreaterThan(world.journal.indexOf('source QEMU: o /h 0xcfc 0x6'));
    expect(back).toBeLessThan(world.journal.indexOf('source QEMU: migrate_cancel'));
  });
});

describe('borrowed bits of several devices', () => {
  it('are all back before the guest runs, when it is given up while they are given back', async () => {
    const names = [world.source, world.addDevice().source, world.addDevice().source];
    for (const { config } of names) config.writeUInt16LE(0x0002, 4);
    cancelAt('source QEMU: o /h 0xcfc 0x2');
    await cancelled();
    const back = world.journal.lastIndexOf('source QEMU: o /w 0xcf8 0x80000094');
    expect(back).toBeGreaterThan(world.journal.lastIndexOf('source QEMU: o /h 0xcfc 0x2'));
    expect(back).toBeLessThan(world.journal.indexOf('source QEMU: migrate_cancel'));
  });
});

describe('the RAM proof', () => {
  const size = 256 * 1024 * 1024;
  let fd: number;
  let memory: MappedMemory;
  beforeEach(() => {
    fd = memfdCreate('memory-backend-memfd', size);
    memory = MappedMemory.map(fd, 0, size, mmapProt.READ | mmapProt.WRITE);
  });
  afterEach(() => {
    memory.unmap();
    closeFd(fd);
  });

  it('lets a signal through that comes while it compares', async () => {
    const { source, destination } = world.options();
    const interrupted = (): void => cancel.abort();
    let looks = 0;
    process.once('SIGUSR2', interrupted);
    try {
      await cancelled({
        verify: { ram: true },
        destination: { ...destination, pid: process.pid },
        source: {
          ...source,
          // Looked at before anything is touched, and when the comparison begins.
          get pid() {
            looks += 1;
            if (looks === 2) process.kill(process.pid, 'SIGUSR2');
            return process.pid;
          },
        },
      });
    } finally {
      process.off('SIGUSR2', interrupted);
    }
    expect(looks).toBe(2);
    expect(world.journal).not.toContain('destination QEMU: cont');
  });

  it('that can not be had is refused before anything is touched', async () => {
    const { source, destination } = world.options();
    for (const wanted of [
      {},
      { source: { ...source, pid: process.pid }, destination: { ...destination, pid: 1 } },
    ]) {
      const failed = migrate({ ...world.options(), ...wanted, verify: { ram: true } });
      await expect(failed).rejects.toMatchObject({ outcome: 'source', code: 'VC_RAM_PROOF' });
    }
    expect(world.journal.filter((line) => /setState|hold|QEMU: (migrate|quit)$/.test(line))).toEqual([]);
  });
});

describe('a destination that', () => {
  it('is killed, which shows a moment later, is dead: the source goes on', async () => {
    world.silent.add('destination cont');
    const { destination } = world.options();
    const kill = async (): Promise<void> => void setTimeout(() => void world.kill('destination'), 20);
    const timeouts = { command: 1000 };
    const failed = migrate({ ...world.options(), timeouts, destination: { ...destination, kill } });
    await expect(failed).rejects.toMatchObject({ outcome: 'source' });
    expect(world.sourceStatus).toBe('running');
  });

  it('can not be reached any more is not taken for dead: it may run the guest', async () => {
    world.silent.add('destination cont');
    const failed = migrate(world.options());
    await expect.poll(() => world.journal).toContain('destination QEMU: cont');
    world.cutOff('destination');
    await expect(failed).rejects.toMatchObject({ outcome: 'unknown' });
    expect(world.sourceStatus).not.toBe('running');
  });

  it.each([
    { loads: true, outcome: 'migrated' },
    { loads: false, outcome: 'source' },
  ])('is slow to answer cont is asked what has come of it: %o', async ({ loads, outcome }) => {
    if (!loads) world.loadMs = 60_000;
    const timeouts = { command: 2000, final: 60_000, rollback: 2000 };
    const onPhase = (phase: string): void => {
      if (phase === 'resume') world.stall('destination', 2500);
    };
    const { outcome: end } = await migrate({ ...world.options(), timeouts, onPhase }).catch(
      (error: MigrationFailed) => error,
    );
    expect(end).toBe(outcome);
    expect(world.sourceStatus).toBe(loads ? 'postmigrate' : 'running');
  });

  /** Fails in precopy, with a destination that answers nothing from then on. */
  function fallSilent(phase: string): void {
    if (phase !== 'precopy') return;
    world.source.failing = { method: 'rest', after: 0 };
    for (const command of ['quit', 'query-status']) world.silent.add(`destination ${command}`);
  }

  it('does not answer is killed where that can be done', async () => {
    let killed = false;
    const { destination } = world.options();
    const kill = async (): Promise<void> => {
      killed = true;
    };
    const failed = migrate({
      ...world.options(),
      destination: { ...destination, kill },
      onPhase: fallSilent,
    });
    await expect(failed).rejects.toMatchObject({ outcome: 'source' });
    expect(killed).toBe(true);
  });

  it('can not be ended at all is named', async () => {
    const failed = migrate({ ...world.options(), onPhase: fallSilent });
    await expect(failed).rejects.toMatchObject({
      outcome: 'source',
      report: { warnings: [expect.stringContaining('could not be ended')] },
    });
  });
});

it('a source that answers nothing while it is given the guest back goes on when it can be reached again', async () => {
  world.source.failing = { method: 'rest', after: 0 };
  const onPhase = (phase: string): void => {
    if (phase === 'rollback') world.stall('source', 5000);
  };
  const timeouts = { command: 1500, rollback: 1500 };
  const failed = migrate({ ...world.options(), timeouts, onPhase });
  await expect(failed).rejects.toMatchObject({ outcome: 'unknown' });
  expect(world.sourceStatus).toBe('finish-migrate');
  await expect.poll(() => world.sourceStatus, { timeout: 30_000 }).toBe('running');
});

it.each([true, false])(
  'tells how a device works again whose server is silent, unless it is gone: %s',
  async (gone) => {
    const { source } = world;
    source.rest = () => Promise.reject(new Error('no answer'));
    const onPhase = (phase: string): void => {
      if (phase !== 'rollback') return;
      source.setState = () => new Promise(() => undefined);
      if (gone) source.die(new Error('killed'));
    };
    const timeouts = { command: 1000 };
    const failed = migrate({ ...world.options(), timeouts, onPhase });
    const { warnings } = (await rejectionOf(MigrationFailed, failed)).report;
    expect(warnings).toContain('at the source: device dev0 does not work any more');
    expect(warnings.some((warning) => warning.includes('vfio-companion recover'))).toBe(!gone);
  },
);

it('does not take a destination for silent that has answered while this process stood still', async () => {
  const timeouts = { command: 3000, final: 3000 };
  whenAsked('destination QEMU: cont', () =>
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3500),
  );
  expect((await migrate({ ...world.options(), timeouts })).outcome).toBe('migrated');
});

it('does not say that the guest runs at a source that ends just when it goes on', async () => {
  world.source.failing = { method: 'rest', after: 0 };
  whenAsked('destination QEMU: quit', () => world.kill('source'));
  await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'lost' });
});

it('does not say so of a source that ends a moment later, for want of a device server that is gone', async () => {
  const { source } = world;
  const gone = new Error('the server is gone');
  source.rest = () => Promise.reject(gone);
  source.setState = () => Promise.reject(gone);
  const endsAfterMs = 200;
  whenAsked('destination QEMU: quit', () => setTimeout(() => void world.kill('source'), endsAfterMs));
  await expect(migrate(world.options())).rejects.toMatchObject({ outcome: 'lost' });
});

it('takes a limit of many weeks for one', async () => {
  const report = await migrate({ ...world.options(), maxSeconds: 3_000_000 });
  expect(report.outcome).toBe('migrated');
});

it('does not give up within a limit that is longer than its own patience', async () => {
  const { timeouts, ...options } = world.options();
  for (const [asked, expected] of [
    [undefined, 660_000],
    [1000, 1000],
  ] as const) {
    const { final: _, ...others } = timeouts ?? {};
    const patience = asked === undefined ? others : { ...others, final: asked };
    const run = await connectAll({ ...options, timeouts: patience, downtimeLimitMs: 600_000 });
    await disconnectAll(run);
    expect(run.timeouts.final).toBe(expected);
  }
});

it('lets go of the signal that would have cancelled it', async () => {
  const { signal } = cancel;
  const removed = vi.spyOn(signal, 'removeEventListener');
  const added = vi.spyOn(signal, 'addEventListener');
  await migrate({ ...world.options(), signal });
  expect(added).toHaveBeenCalledTimes(1);
  expect(removed).toHaveBeenCalledWith('abort', added.mock.calls[0]?.[1]);
});

describe('fenced', () => {
  const party = {
    name: 'somebody',
    ask: async (what: string): Promise<string> => `answer to ${what}`,
    close: async (): Promise<string> => 'closed',
    part: { ask: async (): Promise<string> => 'answer of a part' },
  };

  it('lets everything through until the signal, and then only what is free', async () => {
    const guarded = fenced(party, cancel.signal, ['close']);
    expect(await guarded.ask('this')).toBe('answer to this');
    expect(await guarded.part.ask()).toBe('answer of a part');
    cancel.abort(new Error('given up'));
    await expect(guarded.ask('that')).rejects.toThrow('given up');
    await expect(guarded.part.ask()).rejects.toThrow('given up');
    expect(await guarded.close()).toBe('closed');
    expect(guarded.name).toBe('somebody');
  });
});
