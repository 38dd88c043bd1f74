import { describe, expect, it } from 'vitest';
import { arcsOf, arcTable, isSaving, pathBetween } from '../../../src/migration/arcs.ts';
import {
  type FeatureSet,
  featureSets,
  flagsOf,
  type MigrationState,
  migrationStates,
  migrationState as s,
  stateName,
} from '../../../src/migration/state.ts';

// Independent data: the arcs that a driver implements and the table of `vfio_mig_get_next_state`, as in the kernel's
// vfio_main.c; not derived from our arcs.
const arcText = {
  always: 'RESUMING>STOP STOP>RESUMING STOP>STOP_COPY STOP_COPY>STOP',
  withoutP2p: 'RUNNING>STOP STOP>RUNNING',
  p2p: 'RUNNING>RUNNING_P2P RUNNING_P2P>RUNNING RUNNING_P2P>STOP STOP>RUNNING_P2P',
  preCopyWithoutP2p: 'RUNNING>PRE_COPY PRE_COPY>RUNNING PRE_COPY>STOP_COPY',
  preCopyWithP2p:
    'RUNNING>PRE_COPY PRE_COPY>RUNNING PRE_COPY>PRE_COPY_P2P PRE_COPY_P2P>PRE_COPY RUNNING_P2P>PRE_COPY_P2P PRE_COPY_P2P>RUNNING_P2P PRE_COPY_P2P>STOP_COPY',
};
const columns = [s.STOP, s.RUNNING, s.STOP_COPY, s.RESUMING, s.RUNNING_P2P, s.PRE_COPY, s.PRE_COPY_P2P];
const [ST, RU, SC, RE, RP, PC, PP, E] = [1, 2, 3, 4, 5, 6, 7, 0] as const;
const fullTable = new Map<number, readonly MigrationState[]>([
  [s.STOP, [ST, RP, SC, RE, RP, RP, RP]],
  [s.RUNNING, [RP, RU, RP, RP, RP, PC, RP]],
  [s.PRE_COPY, [RU, RU, PP, RU, RU, PC, PP]],
  [s.PRE_COPY_P2P, [RP, RP, SC, RP, RP, PC, PP]],
  [s.STOP_COPY, [ST, ST, SC, ST, ST, E, E]],
  [s.RESUMING, [ST, ST, ST, RE, ST, ST, ST]],
  [s.RUNNING_P2P, [ST, RU, ST, ST, RP, RU, PP]],
  [s.ERROR, [E, E, E, E, E, E, E]],
]);

function supported(features: FeatureSet, state: MigrationState): boolean {
  if (state === s.ERROR) return false;
  if (state === s.RUNNING_P2P) return features.p2p;
  if (state === s.PRE_COPY) return features.preCopy;
  if (state === s.PRE_COPY_P2P) return features.preCopy && features.p2p;
  return true;
}

/** The kernel's way: look up, and again from each state that is not supported. */
function tableStep(features: FeatureSet, from: MigrationState, to: MigrationState): MigrationState {
  if (!supported(features, from) || !supported(features, to)) return s.ERROR;
  let at = from;
  do at = fullTable.get(at)?.[columns.indexOf(to as never)] ?? s.ERROR;
  while (at !== s.ERROR && !supported(features, at));
  return at;
}

function givenArcs(features: FeatureSet): string[] {
  const preCopy = features.p2p ? arcText.preCopyWithP2p : arcText.preCopyWithoutP2p;
  return [arcText.always, features.p2p ? arcText.p2p : arcText.withoutP2p, features.preCopy ? preCopy : '']
    .join(' ')
    .trim()
    .split(' ')
    .sort();
}

/** The first step of our walk, as `vfio_mig_get_next_state` tells it; ERROR when there is none. */
function firstStep(features: FeatureSet, from: MigrationState, to: MigrationState): MigrationState {
  const path = pathBetween(features, from, to);
  if (path === undefined) return s.ERROR;
  const [first] = path;
  return first === undefined ? to : arcTable[first][1];
}

/** All shortest paths that obey the rule about the saving group, by brute force. */
function shortestPaths(features: FeatureSet, from: MigrationState, to: MigrationState): MigrationState[][] {
  const arcs = givenArcs(features).map((arc) => arc.split('>').map((name) => s[name as keyof typeof s]));
  const inside = isSaving(from) && isSaving(to);
  let paths: MigrationState[][] = [[from]];
  for (let length = 0; length < 8; length++) {
    const found = paths.filter((path) => path.at(-1) === to);
    if (found.length > 0) return found;
    paths = paths.flatMap((path) => {
      const at = path.at(-1) ?? s.ERROR;
      if (path.length > 1 && isSaving(at) && !inside) return [];
      return arcs
        .filter(([source, target]) => source === at && target !== undefined && !path.includes(target))
        .filter(([, target]) => !inside || isSaving(target as MigrationState))
        .map(([, target]) => [...path, target as MigrationState]);
    });
  }
  return [];
}

const pairs = migrationStates.flatMap((from) => migrationStates.map((to) => [from, to] as const));

describe.each(featureSets)('features p2p=$p2p preCopy=$preCopy', (features) => {
  it('has the arcs of the kernel', () => {
    const ours = arcsOf(features).map((name) => arcTable[name].map(stateName).join('>'));
    expect([...ours].sort()).toEqual(givenArcs(features));
  });

  it('takes the first step of the kernel, for every pair of states', () => {
    for (const [from, to] of pairs) {
      if (to === s.ERROR) expect(pathBetween(features, from, to)).toBeUndefined();
      else {
        expect(stateName(firstStep(features, from, to)), `${stateName(from)} to ${stateName(to)}`).toBe(
          stateName(tableStep(features, from, to)),
        );
      }
    }
  });

  it('walks the only shortest path, for every pair of states', () => {
    for (const [from, to] of pairs) {
      const walked = pathBetween(features, from, to)?.map((name) => arcTable[name][1]);
      const possible = from === s.ERROR || to === s.ERROR ? [] : shortestPaths(features, from, to);
      const reachable = supported(features, from) && supported(features, to) ? possible : [];
      expect(reachable.length, `${stateName(from)} to ${stateName(to)}`).toBeLessThanOrEqual(1);
      expect(walked && [from, ...walked]).toEqual(reachable[0]);
    }
  });

  it('has the flags of vfio.h', () => {
    expect(flagsOf(features)).toBe(1 + (features.p2p ? 2 : 0) + (features.preCopy ? 4 : 0));
  });
});

it('the checks above can fail: a path through a saving state is not taken for equal', () => {
  const features = { p2p: true, preCopy: true };
  expect(pathBetween(features, s.RUNNING, s.STOP_COPY)).not.toContain('RUNNING_PRE_COPY');
  expect(tableStep(features, s.STOP_COPY, s.PRE_COPY)).toBe(s.ERROR);
  expect(tableStep({ p2p: false, preCopy: true }, s.PRE_COPY, s.STOP_COPY)).toBe(s.STOP_COPY);
});
