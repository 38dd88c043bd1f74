import { CompanionError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { MigrationReport, Outcome, Phase, Progress } from '../../report/types.ts';
import type { DevicePeer, PeerTimeouts } from '../device-peer.ts';
import type { QmpAddress } from '../qmp.ts';

export interface MigratedDevice {
  /** qdev id of the `vfio-user-pci` device; the same at both QEMUs. */
  readonly id: string;
  /** Migration sockets of the two device servers. */
  readonly source: string;
  readonly destination: string;
}

/** A QEMU that takes part: its QMP socket, which nobody else may be using. */
export interface MigrationEnd {
  readonly qmp: QmpAddress;
  /** Needed for the RAM proof where it can't be found out from the socket. */
  readonly pid?: number;
  /**
   * Ends this QEMU for good. Used on the destination when it is unclear whether it has started to run; without
   * it such a migration ends with outcome "unknown".
   */
  readonly kill?: () => Promise<unknown>;
}

export interface MigrateOptions {
  readonly source: MigrationEnd;
  readonly destination: MigrationEnd;
  /** Where RAM travels: "unix:/path" or "tcp:host:port". */
  readonly uri: string;
  /** Where the destination listens, when that is written differently ("tcp:0.0.0.0:4444"); default `uri`. */
  readonly listenUri?: string | undefined;
  /** Every vfio-user device of the VM; one that is left out would be lost, so that is refused. */
  readonly devices: readonly MigratedDevice[];
  /** Longest blackout to aim at, ms; default 300. */
  readonly downtimeLimitMs?: number;
  /** Give up converging after so many seconds (default 300) or RAM rounds (default 60). */
  readonly maxSeconds?: number;
  readonly maxRounds?: number;
  /** `downtime-limit` that QEMU starts with, ms; default 10. Low, so that its own last pass is short. */
  readonly firstRamLimitMs?: number;
  /** Capabilities for both QEMUs, as `{ multifd: true, xbzrle: true }`. */
  readonly capabilities?: Readonly<Record<string, boolean>>;
  /** Parameters for both QEMUs, as `{ 'multifd-channels': 4 }`. */
  readonly parameters?: Readonly<Record<string, unknown>>;
  /** Bytes a second for RAM; default: as QEMU is set. */
  readonly maxBandwidth?: number | undefined;
  /** What is compared before the guest resumes; each lengthens the blackout. */
  readonly verify?: { readonly ram?: boolean; readonly state?: boolean; readonly config?: boolean };
  /** Marking of the pages that devices wrote. Off only to show that the RAM proof notices. */
  readonly markDirtyPages?: boolean;
  /** Whether many such pages may be carried by the servers instead, where memory can be shared; default true. */
  readonly carryPages?: boolean;
  /** Cancels, up to the commit point. */
  readonly signal?: AbortSignal;
  readonly log?: Logger;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Called at the start of each phase; the migration waits for it. For tests that inject faults. */
  readonly onPhase?: (phase: Phase) => Promise<void> | void;
  /** Deadlines, ms. */
  readonly timeouts?: Partial<Timeouts>;
  /** How to reach a device server; default by the vfio-user client. */
  readonly connectDevice?: (path: string, timeouts: PeerTimeouts) => Promise<DevicePeer>;
}

export interface Timeouts {
  /** Connecting to each party. */
  readonly connect: number;
  /** A monitor command or a request to a device server. */
  readonly command: number;
  /** From `migrate-continue` until the destination has loaded everything. Default: a minute more than the downtime limit. */
  readonly final: number;
  /** For the source to run again after a failure. */
  readonly rollback: number;
}

export const defaultTimeouts: Timeouts = {
  connect: 10_000,
  command: 10_000,
  final: 60_000,
  rollback: 15_000,
};

/** The way out of a failed migration. */
export function hintOf(cause: CompanionError, outcome: Outcome): string | undefined {
  return outcome === 'unknown' ? unknownHint : cause.hint;
}

const unknownHint =
  'ask the destination QEMU (query-status): if it runs the guest, `vfio-companion recover` it; if not, end it, then `vfio-companion recover --force` the source; never start both';

/**
 * A migration that did not do all it should. `outcome` says where the guest is; `report` holds what was
 * measured until then.
 */
export class MigrationFailed extends CompanionError {
  readonly outcome: Outcome;
  readonly report: MigrationReport;

  constructor(cause: CompanionError, outcome: Outcome, report: MigrationReport) {
    const where: Record<Outcome, string> = {
      migrated: 'the guest runs at the destination',
      source: 'the guest runs at the source',
      ended: 'nothing is lost, and there is no guest any more',
      lost: 'the guest is lost',
      unknown: 'where the guest runs is unknown',
    };
    super(cause.code, `${cause.message}; ${where[outcome]}`, {
      errno: cause.errno,
      cause,
      hint: hintOf(cause, outcome),
    });
    this.outcome = outcome;
    this.report = report;
  }
}
