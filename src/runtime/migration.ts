import type { DeviceMigration } from '../device/migration.ts';
import type { DirtyTracker } from '../dma/index.ts';
import type { Logger } from '../log.ts';
import { MigrationController, type MigrationHooks, type StateModel } from '../migration/index.ts';
import type { ConfigSpace, InterruptController } from '../pci/index.ts';
import type { ServedMigration } from '../transport/served-device.ts';

export interface MigrationParts {
  readonly model: StateModel;
  /** What the model adds; without, the device can't migrate. */
  readonly device: DeviceMigration | undefined;
  readonly config: ConfigSpace;
  readonly interrupts: InterruptController;
  readonly dirtyLog: DirtyTracker;
  readonly hooks: MigrationHooks;
  /** Leaves optional features of the protocol out. */
  readonly options: { readonly p2p?: boolean; readonly preCopy?: boolean } | undefined;
  readonly log: Logger;
}

/** The migration of a device: the state of its model, and of configuration space and interrupts. */
export function createMigration(parts: MigrationParts): MigrationController | undefined {
  const { model, device, config, interrupts, dirtyLog, hooks, options, log } = parts;
  if (!device) return undefined;
  const { name, stateVersion, loadsVersions } = model;
  return new MigrationController({
    model: { name, stateVersion, ...(loadsVersions && { loadsVersions }) },
    device,
    framework: [
      { section: 'pci', save: () => config.save(), load: (value) => config.load(value) },
      { section: 'interrupts', save: () => interrupts.save(), load: (value) => interrupts.load(value) },
    ],
    hooks,
    dirtyLog,
    ...(options && { options }),
    log,
  });
}

/** What is told of one driver of a migration. */
export interface DriverHooks {
  /** Before each of its state changes; returns what takes it back, for one that was refused. */
  moves(): () => void;
  /** After it has started the dirty log. */
  logs(): void;
}

/** What one driver of the migration gets of `controller`. */
export function servedMigration(
  controller: MigrationController | undefined,
  { moves, logs }: DriverHooks,
): ServedMigration | undefined {
  if (!controller) return undefined;
  return {
    flags: controller.flags,
    get state() {
      return controller.state;
    },
    setState: (state) => {
      const before = controller.state;
      const takeBack = moves();
      try {
        controller.setState(state);
      } catch (error) {
        if (controller.state === before) takeBack();
        throw error;
      }
    },
    dataSize: () => controller.dataSize(),
    precopyInfo: () => controller.precopyInfo(),
    read: (target) => controller.read(target),
    write: (source) => controller.write(source),
    startDmaLogging: (pageSize, ranges) => {
      const chosen = controller.startDmaLogging(pageSize, ranges);
      logs();
      return chosen;
    },
    stopDmaLogging: () => controller.stopDmaLogging(),
    reportDmaLogging: (iova, length, pageSize, bitmap) =>
      controller.reportDmaLogging(iova, length, pageSize, bitmap),
  };
}
