import type { DeviceMigration } from '../device/migration.ts';

/** Version of the framework's own sections; raise it when one changes its meaning. */
export const frameworkVersion = 1;

/** Something that the framework saves of every device: PCI configuration, interrupts, timing. */
export interface FrameworkSection {
  /** Unique among the framework's sections; at most 60 bytes. */
  readonly section: string;
  /** Called with the device stopped. Anything that msgpack can say, named fields; up to 4 MiB packed. */
  save(): unknown;
  /**
   * Called when all of the state is in and intact, in the order of the list, before the device's own
   * `endLoad`. `value` is hostile until checked; `version` is that of the framework which saved it.
   */
  load(value: unknown, version: number): void;
}

/** The parts of a model that matter to its saved state. */
export interface StateModel {
  readonly name: string;
  readonly stateVersion: number;
  readonly loadsVersions?: readonly number[];
}

/** All that a state is made of. */
export interface StateSource {
  readonly model: StateModel;
  /** Undefined: the device has no state of its own. */
  readonly device: DeviceMigration | undefined;
  readonly framework: readonly FrameworkSection[];
  readonly frameworkVersion: number;
}
