import type { Logger } from '../../log.ts';
import type { QmpAddress } from '../qmp.ts';
import type { MigrateOptions, Timeouts } from '../switchover/options.ts';

/** A vfio-user device of one VM. */
export interface SideDevice {
  /** qdev id of the `vfio-user-pci` device. */
  readonly id: string;
  /** Migration socket of its server. */
  readonly socket: string;
}

/** What saving and restoring have in common. */
interface SideOptions {
  /** The QEMU's QMP socket, which nobody else may be using. */
  readonly qmp: QmpAddress;
  /** Every vfio-user device of the VM; one that is left out would be lost, so that is refused. */
  readonly devices: readonly SideDevice[];
  /** The saved VM. */
  readonly folder: string;
  readonly signal?: AbortSignal;
  readonly log?: Logger;
  /** Deadlines, ms. `final` is that of RAM: of each moment in which nothing of it is written, and of its load beside what its size takes. */
  readonly timeouts?: Partial<Timeouts>;
  /** How to reach a device server; default by the vfio-user client. */
  readonly connectDevice?: MigrateOptions['connectDevice'];
}

export interface SaveOptions extends SideOptions {
  /** The guest goes on where it is when it has been saved. Default: it stands still, as after a migration, and its QEMU can be ended. */
  readonly resume?: boolean;
  /** Called at the start of each phase; the work waits for it. For tests that inject faults. */
  readonly onPhase?: (phase: SavePhase) => Promise<void> | void;
}

export interface RestoreOptions extends SideOptions {
  /** The guest stays paused. Default: it runs if it ran when it was saved. */
  readonly paused?: boolean;
  /** Registers are read back from QEMU, and devices saved again, and both compared with what was saved, before the guest runs. */
  readonly verify?: boolean;
  readonly onPhase?: (phase: RestorePhase) => Promise<void> | void;
}

export type SavePhase = 'check' | 'stop' | 'rest' | 'write' | 'resume' | 'done';
export type RestorePhase = 'check' | 'load' | 'replay' | 'verify' | 'resume' | 'done';

/** What was saved. */
export interface SaveReport {
  readonly folder: string;
  readonly totalMs: number;
  /** Bytes of the file that RAM is in. */
  readonly ramBytes: number;
  readonly devices: readonly { readonly id: string; readonly model: string; readonly stateBytes: number }[];
  /** The guest ran when it was saved, and will when it is restored. */
  readonly wasRunning: boolean;
  /** It goes on where it is. */
  readonly resumed: boolean;
}

/** What was restored. */
export interface RestoreReport {
  readonly folder: string;
  readonly savedAt: string;
  readonly totalMs: number;
  readonly running: boolean;
  /** What was asked to be compared and could not be. */
  readonly warnings: readonly string[];
  readonly devices: readonly {
    readonly id: string;
    readonly model: string;
    readonly stateBytes: number;
    readonly replayedRegisters: number;
    /** Null: not compared. What differs ends the restore. */
    readonly configEqual: boolean | null;
    readonly msixTableEqual: boolean | null;
    readonly stateEqual: boolean | null;
  }[];
}
