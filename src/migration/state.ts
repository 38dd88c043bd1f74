/**
 * States and flags of the migration protocol v2 (Linux `vfio.h`: `enum vfio_device_mig_state`,
 * `VFIO_MIGRATION_*`, `VFIO_PRECOPY_INFO_*`; QEMU `docs/interop/vfio-user.rst` uses the same values).
 */
export const migrationState = {
  ERROR: 0,
  STOP: 1,
  RUNNING: 2,
  STOP_COPY: 3,
  RESUMING: 4,
  RUNNING_P2P: 5,
  PRE_COPY: 6,
  PRE_COPY_P2P: 7,
} as const;

export type MigrationStateName = keyof typeof migrationState;
export type MigrationState = (typeof migrationState)[MigrationStateName];

/** Every state, by value. */
export const migrationStates: readonly MigrationState[] = [0, 1, 2, 3, 4, 5, 6, 7];

const names = new Map<number, string>(Object.entries(migrationState).map(([name, value]) => [value, name]));

/** "PRE_COPY_P2P", or the number when it is no state. */
export function stateName(state: number): string {
  return names.get(state) ?? `state ${state}`;
}

export function isMigrationState(value: number): value is MigrationState {
  return Number.isInteger(value) && value >= 0 && value < migrationStates.length;
}

/** `VFIO_MIGRATION_*` flag bits, as DEVICE_FEATURE_MIGRATION reports them. */
export const migrationFlags = { STOP_COPY: 1, P2P: 2, PRE_COPY: 4 } as const;

/** What a device can do; STOP_COPY always. The four combinations are all that vfio.h defines. */
export interface FeatureSet {
  readonly p2p: boolean;
  readonly preCopy: boolean;
}

/** The four legal feature sets. */
export const featureSets: readonly FeatureSet[] = [
  { p2p: false, preCopy: false },
  { p2p: true, preCopy: false },
  { p2p: false, preCopy: true },
  { p2p: true, preCopy: true },
];

/** `VFIO_MIGRATION_*` bits of a feature set. */
export function flagsOf(features: FeatureSet): number {
  return (
    migrationFlags.STOP_COPY |
    (features.p2p ? migrationFlags.P2P : 0) |
    (features.preCopy ? migrationFlags.PRE_COPY : 0)
  );
}

/** `VFIO_PRECOPY_INFO_REINIT`: new initial data is in the stream; initial bytes start over. */
export const precopyInfoFlags = { REINIT: 1 } as const;
