/** What a migration leaves behind for people and machines. Plain data; microseconds and bytes are numbers. */

/** The parts of the blackout that are always told apart. */
export const blackoutParts = [
  'detect',
  'quiesce',
  'marking',
  'msix-read',
  'continue',
  'final-ram',
  'state',
  'carry',
  'place',
  'replay',
  'verify',
  'resume',
] as const;
export type BlackoutPart = (typeof blackoutParts)[number];

export interface TimelineSpan {
  readonly part: BlackoutPart;
  /** The device it was for, when not for all. */
  readonly device?: string;
  /** Microseconds since the vCPUs stopped at the source. */
  readonly startUs: number;
  readonly endUs: number;
  /** "512 pages". */
  readonly note?: string;
}

export interface DeviceProgress {
  readonly id: string;
  readonly initialBytes: number;
  readonly dirtyBytes: number;
  /** State bytes sent so far. */
  readonly sentBytes: number;
  /** Pages that would have to be marked now. */
  readonly dirtyPages: number;
}

/** One look at a migration under way. */
export interface PrecopySample {
  readonly elapsedMs: number;
  readonly round: number;
  readonly ramRemaining: number;
  readonly ramTotal: number;
  readonly ramTransferred: number;
  /** Pages a second that the guest dirties, as QEMU estimates. */
  readonly dirtyPagesRate: number;
  readonly devices: readonly DeviceProgress[];
  /** What the blackout would last now, by estimate. */
  readonly estimateMs: number;
  readonly deviceEstimateMs: number;
  /** QEMU is kept from switching over. */
  readonly held: boolean;
}

export const phases = [
  'connect',
  'check',
  'setup',
  'precopy',
  'pre-switchover',
  'final',
  'replay',
  'resume',
  'done',
  'rollback',
] as const;
export type Phase = (typeof phases)[number];

export interface Progress {
  readonly phase: Phase;
  readonly elapsedMs: number;
  readonly sample?: PrecopySample;
}

/** Where the guest is when all is over. `ended`: it had shut down by itself at the source, and nothing is lost. */
export type Outcome = 'migrated' | 'source' | 'ended' | 'lost' | 'unknown';

export interface DeviceReport {
  readonly id: string;
  readonly model: string;
  readonly stateBytes: number;
  readonly finalBytes: number;
  readonly markedPages: number;
  readonly markingUs: number;
  /** Pages that its servers carried to the destination instead. */
  readonly carriedPages: number;
  readonly replayedRegisters: number;
  /** How configuration registers were reached at the destination. */
  readonly replayPath: 'ecam' | 'ports' | 'early' | 'none';
  /** Null: not asked for, or not come to. False: it was, and the device could not be reached for it. */
  readonly configCompared: boolean | null;
  readonly configDifferences: readonly string[];
  readonly msixTableEqual: boolean | null;
  readonly stateEqual: boolean | null;
}

export interface RamReport {
  readonly pages: number;
  readonly differing: number;
  readonly milliseconds: number;
  readonly first: readonly { readonly region: string; readonly offset: number }[];
}

export interface MigrationReport {
  readonly outcome: Outcome;
  readonly startedAt: string;
  readonly totalMs: number;
  /** vCPUs stopped at the source to running at the destination, by the QEMUs' own time stamps; of one on another machine, by when those were heard of. Null: never both. */
  readonly blackoutUs: number | null;
  readonly downtimeLimitMs: number;
  readonly rounds: number;
  readonly ramBytes: number;
  readonly timeline: readonly TimelineSpan[];
  readonly samples: readonly PrecopySample[];
  readonly phases: readonly { readonly phase: Phase; readonly atMs: number }[];
  readonly devices: readonly DeviceReport[];
  readonly ram: RamReport | null;
  readonly qemu: { readonly source: string; readonly destination: string };
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly hint?: string;
    readonly phase: Phase;
  } | null;
  readonly warnings: readonly string[];
}
