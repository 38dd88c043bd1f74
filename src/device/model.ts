import type { GuestMemory, MessageDma } from '../dma/types.ts';
import type { Logger } from '../log.ts';
import type { Timer, Watch } from '../loop/types.ts';
import type { DeviceMigration } from './migration.ts';
import type { BarIndex, PciDescription } from './pci-description.ts';

/** Why a device is reset; a model rarely cares. `flr` is a function level reset by the guest's driver. */
export type ResetKind = 'client' | 'flr' | 'power';

/**
 * A BAR's trapped accesses. `offset + count` is within the BAR; `count` is 1, 2, 4 or 8 for a
 * CPU's access, anything for a copy. Bytes travel in `Buffer`s at `at`, in guest byte order, so
 * that nothing is allocated or rounded.
 */
export interface BarHandler {
  /** Fills `count` bytes of `target` from `at` on. Must not wait for DMA by message; see `GuestMemory`. */
  read(offset: number, count: number, target: Buffer, at: number): void;
  /** Takes `count` bytes of `source` from `at` on. The guest has its answer already: what is thrown is only logged. */
  write(offset: number, count: number, source: Buffer, at: number): void;
}

/** The interrupts of a function. What is triggered while the device is stopped or held is kept and delivered later. */
export interface Interrupts {
  /** Which kind the guest has enabled. */
  readonly mode: 'none' | 'intx' | 'msi' | 'msix';
  /**
   * Sends MSI-X (or MSI) message `vector`, counted from 0; kept pending while it is masked or has no descriptor. With fewer MSI
   * messages granted than asked for, vectors wrap around.
   * @throws CompanionError VC_NO_VECTOR for one that the description does not have
   */
  trigger(vector: number): void;
  /**
   * Sets the level of INTx, which the status register shows. While the guest uses MSI or MSI-X or has INTx disabled nothing is sent; a
   * level that is still there when that ends is.
   */
  setIntx(asserted: boolean): void;
}

/** What the world offers to a device. The only way for a model to reach anything outside itself. */
export interface DeviceHost {
  readonly log: Logger;
  readonly dma: GuestMemory;
  /**
   * DMA by message to the client, whatever is mapped; waits for the replies. The client notes such writes as
   * its own, so they need no dirty log. Slower by far than `dma`: for what only the client can reach.
   */
  readonly messages: Pick<MessageDma, 'read' | 'write'>;
  readonly interrupts: Interrupts;
  readonly pci: {
    /** Bus Master Enable: without it a device must not start DMA or MSI. */
    readonly busMaster: boolean;
    readonly memorySpace: boolean;
  };
  /**
   * False from `quiesce()` to `resume()`, while the server is held for a migration, and when a reset waits for the
   * access under way to end: start nothing of yourself (no DMA, no interrupt, no frame). Register accesses are
   * answered all the same.
   */
  readonly mayInitiate: boolean;
  /**
   * The bytes behind a BAR that has `mappable` parts, as many as the BAR has, 1 GiB at most; shared with the client.
   * @throws RequestError EINVAL for a BAR without such parts
   */
  barMemory(bar: BarIndex): Uint8Array;
  /** Monotonic nanoseconds. */
  now(): number;
  /** A one-shot timer, not armed yet; its times are nanoseconds. */
  timer(callback: () => void): Timer;
  /** Has `callback` called whenever `fd` is ready for `interest` (`ready` bits). The descriptor stays the device's. */
  watch(fd: number, interest: number, callback: (readiness: number) => void): Watch;
  /** Runs `task` once the access under way has been answered: where work that needs DMA belongs. */
  defer(task: () => void): void;
}

/** A device: one instance of a model, as alive as a card in a slot. */
export interface Device {
  readonly bars: Partial<Record<BarIndex, BarHandler>>;
  /** Back to the state after power-on. Files, sockets and options stay. */
  reset(kind: ResetKind): void;
  /**
   * RUNNING → RUNNING_P2P: finish what is begun, then start nothing until `resume()`. Called before any
   * state is saved. `host.mayInitiate` is already false.
   */
  quiesce?(): void;
  /** The device runs (again, or for the first time after a load): look at everything that may wait. */
  resume?(): void;
  /** The guest changed the command register (bus master, memory space) or the power state, on which both depend. */
  commandChanged?(): void;
  readonly migration?: DeviceMigration;
  /**
   * Operations that an orchestrator may call by name over the migration socket (a NIC's port, say). Requests and
   * answers are what msgpack can say; throw `RequestError` for what can't be done.
   */
  readonly operations?: Readonly<Record<string, (request: Readonly<Record<string, unknown>>) => unknown>>;
  /** Descriptors, timers and sockets of its own given back. */
  close?(): void;
}

/** One option of a model: how it is written on the command line (`--set KEY=VALUE`) and what it may be. */
export interface OptionSpec {
  /** A `boolean` is written on, true or 1, and off, false or 0. A `number` may be a fraction. */
  readonly type: 'number' | 'string' | 'boolean';
  readonly default: number | string | boolean;
  readonly description: string;
  /** Bounds of a number, which may be reached; default none. */
  readonly min?: number;
  readonly max?: number;
}

export type OptionTable = Readonly<Record<string, OptionSpec>>;

type Widen<T> = T extends number ? number : T extends string ? string : T extends boolean ? boolean : never;

/** The values of an option table, typed by it. */
export type OptionValues<T extends OptionTable> = { readonly [K in keyof T]: Widen<T[K]['default']> };

/** A model: everything needed to make devices of one kind. Made with `defineModel`. */
export interface DeviceModel<T extends OptionTable = OptionTable> {
  /** As in `serve MODEL`. */
  readonly name: string;
  readonly description: string;
  /** Version of the saved state; raise it whenever a record changes its meaning. */
  readonly stateVersion: number;
  /** Older state versions that `load` understands. */
  readonly loadsVersions?: readonly number[];
  readonly options: T;
  /** What the device is on the bus, given its options. What it throws refuses them. */
  pci(options: OptionValues<T>): PciDescription;
  /** Makes the device, as after power-on. What it throws ends the server before it listens. */
  create(host: DeviceHost, options: OptionValues<T>): Device;
}

/** Declares a model; only there so that the options' types follow from their table. */
export function defineModel<const T extends OptionTable>(model: DeviceModel<T>): DeviceModel<T> {
  return model;
}
