import { type FeatureSet, type MigrationState, migrationState as s } from './state.ts';

/**
 * The state machine as data: which arcs a device implements, and how a longer walk is made of them
 * (Linux `vfio.h`, text above `enum vfio_device_mig_state`; `vfio_mig_get_next_state`).
 *
 * The walk is derived, not tabled: a shortest path over the arcs of the feature set, under one rule about
 * the saving group (PRE_COPY, PRE_COPY_P2P, STOP_COPY), whose members share a read session:
 *  - between two members the path stays inside the group, so that the session goes on; when there is no
 *    such path (STOP_COPY to PRE_COPY) the request is refused;
 *  - otherwise no member is an interior step, so that no session opens and closes by the way.
 */
export type ArcName = keyof typeof arcTable;

type Arc = readonly [from: MigrationState, to: MigrationState];

/** Every arc that any feature set has. Named as its two states: each needs a handler of that name. */
export const arcTable = {
  RESUMING_STOP: [s.RESUMING, s.STOP],
  STOP_RESUMING: [s.STOP, s.RESUMING],
  STOP_STOP_COPY: [s.STOP, s.STOP_COPY],
  STOP_COPY_STOP: [s.STOP_COPY, s.STOP],

  RUNNING_STOP: [s.RUNNING, s.STOP],
  STOP_RUNNING: [s.STOP, s.RUNNING],

  RUNNING_RUNNING_P2P: [s.RUNNING, s.RUNNING_P2P],
  RUNNING_P2P_RUNNING: [s.RUNNING_P2P, s.RUNNING],
  RUNNING_P2P_STOP: [s.RUNNING_P2P, s.STOP],
  STOP_RUNNING_P2P: [s.STOP, s.RUNNING_P2P],

  RUNNING_PRE_COPY: [s.RUNNING, s.PRE_COPY],
  PRE_COPY_RUNNING: [s.PRE_COPY, s.RUNNING],
  PRE_COPY_STOP_COPY: [s.PRE_COPY, s.STOP_COPY],

  PRE_COPY_PRE_COPY_P2P: [s.PRE_COPY, s.PRE_COPY_P2P],
  PRE_COPY_P2P_PRE_COPY: [s.PRE_COPY_P2P, s.PRE_COPY],
  RUNNING_P2P_PRE_COPY_P2P: [s.RUNNING_P2P, s.PRE_COPY_P2P],
  PRE_COPY_P2P_RUNNING_P2P: [s.PRE_COPY_P2P, s.RUNNING_P2P],
  PRE_COPY_P2P_STOP_COPY: [s.PRE_COPY_P2P, s.STOP_COPY],
} as const satisfies Record<string, Arc>;

const always: readonly ArcName[] = ['RESUMING_STOP', 'STOP_RESUMING', 'STOP_STOP_COPY', 'STOP_COPY_STOP'];
const withoutP2p: readonly ArcName[] = ['RUNNING_STOP', 'STOP_RUNNING'];
const withP2p: readonly ArcName[] = [
  'RUNNING_RUNNING_P2P',
  'RUNNING_P2P_RUNNING',
  'RUNNING_P2P_STOP',
  'STOP_RUNNING_P2P',
];
const withPreCopy: readonly ArcName[] = ['RUNNING_PRE_COPY', 'PRE_COPY_RUNNING'];
const preCopyWithoutP2p: readonly ArcName[] = ['PRE_COPY_STOP_COPY'];
const preCopyWithP2p: readonly ArcName[] = [
  'PRE_COPY_PRE_COPY_P2P',
  'PRE_COPY_P2P_PRE_COPY',
  'RUNNING_P2P_PRE_COPY_P2P',
  'PRE_COPY_P2P_RUNNING_P2P',
  'PRE_COPY_P2P_STOP_COPY',
];

const savingGroup: ReadonlySet<MigrationState> = new Set([s.PRE_COPY, s.PRE_COPY_P2P, s.STOP_COPY]);

/** Whether a read session is open in `state`. */
export function isSaving(state: MigrationState): boolean {
  return savingGroup.has(state);
}

/** The arcs that a device with `features` has. */
export function arcsOf(features: FeatureSet): readonly ArcName[] {
  return [
    ...always,
    ...(features.p2p ? withP2p : withoutP2p),
    ...(features.preCopy ? withPreCopy : []),
    ...(features.preCopy ? (features.p2p ? preCopyWithP2p : preCopyWithoutP2p) : []),
  ];
}

/**
 * The arcs that lead from one state to another, in order; empty when they are the same state, undefined
 * when the request is forbidden: a state that the features don't have, ERROR as source or target, or
 * STOP_COPY back to precopy.
 */
export function pathBetween(
  features: FeatureSet,
  from: MigrationState,
  to: MigrationState,
): readonly ArcName[] | undefined {
  const arcs = arcsOf(features);
  const exists = (state: MigrationState) => arcs.some((name) => arcTable[name].includes(state as never));
  if (!exists(from) || !exists(to)) return undefined;
  const insideGroup = isSaving(from) && isSaving(to);
  const reached = new Map<MigrationState, readonly ArcName[]>([[from, []]]);
  // A Map iterates over what is added meanwhile, in order: breadth first.
  for (const [at, path] of reached) {
    if (at === to) return path;
    if (at !== from && isSaving(at) && !insideGroup) continue;
    for (const name of arcs) {
      const [source, target] = arcTable[name];
      if (source !== at || reached.has(target) || (insideGroup && !isSaving(target))) continue;
      reached.set(target, [...path, name]);
    }
  }
  return undefined;
}
