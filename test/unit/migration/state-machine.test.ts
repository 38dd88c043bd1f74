import { describe, expect, it } from 'vitest';
import { errno, RequestError } from '../../../src/errors.ts';
import { type ArcName, arcTable, pathBetween } from '../../../src/migration/arcs.ts';
import {
  type FeatureSet,
  featureSets,
  type MigrationState,
  migrationStates,
  migrationState as s,
  stateName,
} from '../../../src/migration/state.ts';
import { type ArcHandlers, StateMachine } from '../../../src/migration/state-machine.ts';

function machine(features: FeatureSet, on: (arc: ArcName) => void = () => {}) {
  const walked: string[] = [];
  const log: string[] = [];
  const handlers = Object.fromEntries(
    (Object.keys(arcTable) as ArcName[]).map((arc) => [
      arc,
      () => {
        walked.push(arc);
        on(arc);
      },
    ]),
  ) as ArcHandlers;
  const fsm = new StateMachine({
    features,
    handlers,
    onReset: () => log.push('reset'),
    onError: (error) => log.push(`error ${(error as Error).message}`),
  });
  return { fsm, walked, log };
}

/** A machine that was brought to `state`; undefined when the features don't have it. */
function at(features: FeatureSet, state: MigrationState) {
  const made = machine(features);
  if (state === s.ERROR) made.fsm.fail(new Error('made'));
  else if (pathBetween(features, s.RUNNING, state) === undefined) return undefined;
  else made.fsm.request(state);
  made.walked.length = 0;
  return made;
}

describe.each(featureSets)('features p2p=$p2p preCopy=$preCopy', (features) => {
  it('walks allowed requests arc by arc and refuses all others with EINVAL, state unchanged', () => {
    let refused = 0;
    let allowed = 0;
    for (const from of migrationStates) {
      for (const to of migrationStates) {
        const made = at(features, from);
        if (made === undefined) continue;
        const path = pathBetween(features, from, to);
        if (path === undefined) {
          refused++;
          expect(() => made.fsm.request(to), `${stateName(from)} to ${stateName(to)}`).toThrow(
            expect.objectContaining({ errno: errno.EINVAL }),
          );
          expect(made.fsm.state).toBe(from);
          expect(made.walked).toEqual([]);
        } else {
          allowed++;
          made.fsm.request(to);
          expect(made.fsm.state).toBe(to);
          expect(made.walked).toEqual(path);
        }
      }
    }
    expect(refused).toBeGreaterThan(8);
    expect(allowed).toBeGreaterThanOrEqual(16);
  });

  it('resets to RUNNING from every state', () => {
    for (const state of migrationStates) {
      const made = at(features, state);
      if (made === undefined) continue;
      made.fsm.reset();
      expect(made.fsm.state).toBe(s.RUNNING);
      expect(made.log.at(-1)).toBe('reset');
    }
  });

  it('stays at the last state reached when an arc fails, or goes to ERROR from RESUMING', () => {
    for (const from of migrationStates) {
      for (const to of migrationStates) {
        const path = pathBetween(features, from, to) ?? [];
        path.forEach((bad, index) => {
          let armed = false;
          const made = machine(features, (arc) => {
            if (armed && arc === bad) throw new RequestError(errno.EBUSY, 'no');
          });
          made.fsm.request(from);
          armed = true;
          expect(() => made.fsm.request(to)).toThrow('no');
          const before = index === 0 ? from : arcTable[path[index - 1] as ArcName][1];
          const expected = before === s.RESUMING ? s.ERROR : before;
          expect(stateName(made.fsm.state), `${bad} to ${stateName(to)}`).toBe(stateName(expected));
          expect(made.log).toEqual(expected === s.ERROR ? ['error no'] : []);
        });
      }
    }
  });
});

describe('requests inside an arc', () => {
  const features = { p2p: true, preCopy: true };

  it('are refused with EBUSY and leave the walk alone', () => {
    const errors: unknown[] = [];
    const made = machine(features, () => {
      try {
        made.fsm.request(s.RESUMING);
      } catch (error) {
        errors.push(error);
      }
    });
    made.fsm.request(s.STOP);
    expect(made.fsm.state).toBe(s.STOP);
    expect(errors).toEqual(Array.from({ length: 2 }, () => expect.objectContaining({ errno: errno.EBUSY })));
  });

  it('a reset waits for the arc, ends the walk, and the state is RUNNING', () => {
    const made = machine(features, (arc) => {
      if (arc !== 'RUNNING_P2P_STOP') return;
      made.fsm.reset();
      expect(made.log).toEqual([]);
    });
    expect(() => made.fsm.request(s.STOP_COPY)).toThrow('was reset');
    expect(made.fsm.state).toBe(s.RUNNING);
    expect(made.walked).toEqual(['RUNNING_RUNNING_P2P', 'RUNNING_P2P_STOP']);
    expect(made.log).toEqual(['reset']);
    made.fsm.request(s.RUNNING_P2P);
    expect(made.fsm.state).toBe(s.RUNNING_P2P);
  });

  it('a reset in an arc that fails is not lost', () => {
    const made = machine(features, () => {
      made.fsm.reset();
      throw new Error('no');
    });
    expect(() => made.fsm.request(s.STOP)).toThrow('no');
    expect(made.log).toEqual(['reset']);
    expect(made.fsm.state).toBe(s.RUNNING);
  });
});

it('values that are no states are refused', () => {
  const { fsm } = machine({ p2p: true, preCopy: true });
  for (const value of [8, -1, 1.5, Number.NaN, 2 ** 32]) {
    expect(() => fsm.request(value)).toThrow('not a migration state');
  }
});
