import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import { type StateRecord, StateRefused } from '../../../src/device/index.ts';
import { mutateState, Random } from '../../fuzz/mlx5/mutate.ts';
import { bench } from './setup.ts';
import { type Action, anyAction, travel, Workload } from './workload.ts';

/** A place where one of the twins migrates: with or without precopy before, at rest or in the middle of things. */
const move = fc.record({
  do: fc.constantFrom('migrate' as const, 'migrate' as const, 'precopy' as const),
  busy: fc.boolean(),
});
const moved: fc.Arbitrary<readonly Action[]> = fc.array(
  fc.oneof({ weight: 4, arbitrary: anyAction }, { weight: 1, arbitrary: move }),
  { minLength: 5, maxLength: 40, size: 'max' },
);

/** The life of a guest that stays where it is. */
function stays(actions: readonly Action[]): Workload {
  const workload = new Workload();
  for (const action of actions) {
    if (action.do === 'migrate') workload.stay(action.busy);
    else if (action.do !== 'precopy') workload.run([action]);
  }
  return workload;
}

/**
 * What guest and network have seen once all is quiet; time stamps aside, and whether one channel was served before another:
 * a migration may cut a moderation's wait short.
 */
function seen(workload: Workload) {
  workload.settle();
  const { driver, sent } = workload;
  const { vport, ieee, qCounter } = driver.stats();
  // Text compares many times faster than bytes.
  const hex = (bytes: Buffer) => bytes.toString('hex');
  const queueOf = (bytes: Buffer) => bytes.readUInt32BE(0x30);
  const cqe = (bytes: Buffer) => Buffer.concat([bytes.subarray(0, 0x30), bytes.subarray(0x38)]);
  return {
    sent: sent.map(hex),
    received: driver.received
      .map(({ frame, cqe: entry, channel }) => ({ frame: hex(frame), channel, cqe: hex(cqe(entry)) }))
      .sort((a, b) => a.channel - b.channel),
    completions: driver.completions
      .map(cqe)
      .sort((a, b) => queueOf(a) - queueOf(b))
      .map(hex),
    links: driver.events.filter(({ type }) => type === 9).map(({ subType }) => subType),
    counters: [vport, ieee, qCounter].map(hex),
    queues: driver.channels.map(({ tx, rx }) => [tx.pc, rx.pi, tx.cq.ci, rx.cq.ci]),
  };
}

describe('a device that migrates at any moment', () => {
  it('gives its guest and its network the same as one that does not', () => {
    let migrations = 0;
    fc.assert(
      fc.property(moved, (actions) => {
        const migrant = new Workload();
        migrant.run(actions);
        migrations += migrant.migrations;
        expect(seen(migrant)).toEqual(seen(stays(actions)));
      }),
      { numRuns: 8 },
    );
    expect(migrations).toBeGreaterThan(5);
  });

  it.each([
    ['a receive queue a WQE further', 'rq', 'ci', (value: number) => value + 1],
    ['a completion queue an entry back', 'cq', 'pi', (value: number) => value - 1],
    ['a counter that starts again', 'q_counter', 'outOfBuffer', () => 0],
  ] as const)('would differ with %s', (_what, kind, field, change) => {
    const actions: readonly Action[] = [
      { do: 'burst', count: 80 },
      { do: 'migrate', busy: false },
      { do: 'receive', cast: 'unicast', ip: 4, udp: true, size: 9, vid: -1, flow: 1 },
    ];
    const migrant = new Workload();
    migrant.onTheWay = (records) =>
      records.map((record) => {
        if (record.section !== 'progress' || !('value' in record)) return record;
        const progress = record.value as Record<string, Record<string, number>[]>;
        const entries = progress[kind]?.map((entry) => {
          const value = entry[field] ?? 0;
          return value === 0 ? entry : { ...entry, [field]: change(value) };
        });
        return { section: record.section, value: { ...progress, [kind]: entries } };
      });
    migrant.run(actions);
    expect(seen(migrant)).not.toEqual(seen(stays(actions)));
  });
});

/** A state as text; the clock goes on through resets. */
function withoutClock(records: Iterable<StateRecord>): string {
  return JSON.stringify([...records], (name, value) => (name === 'cycles' ? 0 : value));
}

describe('a hostile state', () => {
  it('is loaded as a whole or refused with nothing left of it', () => {
    const workload = new Workload();
    workload.run(fc.sample(anyAction, { numRuns: 20, seed: 3 }));
    workload.host.mayInitiate = false;
    workload.device.quiesce();
    const records = [...workload.device.migration.save()].map(travel);
    const { device, host } = bench(workload.device.core.vectors);
    host.mayInitiate = false;
    device.quiesce();
    const empty = withoutClock(device.migration.save());
    let refused = 0;
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const spoiled = mutateState(new Random(seed), records).map(travel);
        device.reset('client');
        device.migration.beginLoad(stateVersions.current);
        try {
          for (const record of spoiled) device.migration.load(record);
          device.migration.endLoad();
        } catch (error) {
          if (!(error instanceof StateRefused)) throw error;
          refused++;
          return withoutClock(device.migration.save()) === empty;
        }
        // What was loaded can be saved and loaded again.
        const again = [...device.migration.save()].map(travel);
        device.reset('client');
        device.migration.beginLoad(stateVersions.current);
        for (const record of again) device.migration.load(record);
        device.migration.endLoad();
        expect([...device.migration.save()].map(travel)).toEqual(again);
        return true;
      }),
      { numRuns: 100 },
    );
    expect(refused).toBeGreaterThan(50);
    expect(refused).toBeLessThan(100);
  });
});
