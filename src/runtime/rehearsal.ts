import type { DeviceModel, OptionTable } from '../device/model.ts';
import { dmaProt } from '../dma/types.ts';
import { type Logger, silentLogger } from '../log.ts';
import type { Reactor } from '../loop/types.ts';
import { migrationFlags, migrationState } from '../migration/state.ts';
import { memfdCreate } from '../posix/index.ts';
import type { ServedMigration } from '../transport/served-device.ts';
import { DeviceRuntime } from './device-runtime.ts';

/** The first time compiles, later ones collect what the interpreter's caches need. */
const rounds = 3;
/** More state than this is not worth moving for practice. */
const mostBytes = 4 * 1024 * 1024;
const pieceBytes = 64 * 1024;
const mapping = { iova: 0x1000_0000, size: 2 * 1024 * 1024, prot: dmaProt.read | dmaProt.write, fdOffset: 0 };

/**
 * Migrates a fresh device of `model` to another, both with default options and gone afterwards, so that the code which saves and loads
 * state, and takes and drops mappings, is not run for the first time while a guest stands still: cold, it was found to
 * take several times as long. A model that can't be rehearsed is served nevertheless: its migration will tell why.
 *
 * @returns whether state was moved
 */
export function rehearseMigration<T extends OptionTable>(
  model: DeviceModel<T>,
  { reactor, log }: { readonly reactor: Reactor; readonly log: Logger },
): boolean {
  const devices: DeviceRuntime<T>[] = [];
  const make = (): DeviceRuntime<T> => {
    const device = new DeviceRuntime(model, { reactor, log: silentLogger, held: true });
    devices.push(device);
    return device;
  };
  try {
    const [source, destination] = [make(), make()];
    if (source.orchestrated === undefined || destination.orchestrated === undefined) return false;
    for (let round = 0; round < rounds; round++) {
      for (const device of devices) map(device);
      if (!migrate(source.orchestrated, destination.orchestrated)) return false;
    }
    return true;
  } catch (error) {
    log.debug({ err: error }, 'a migration could not be rehearsed');
    return false;
  } finally {
    for (const device of devices) device.close();
  }
}

function map(device: DeviceRuntime<never> | DeviceRuntime): void {
  device.dmaMap({ ...mapping, fd: memfdCreate('rehearsal', mapping.size) });
  device.dmaUnmap(mapping.iova, mapping.size);
}

function migrate(source: ServedMigration, destination: ServedMigration): boolean {
  const has = (flag: number): boolean => (source.flags & flag) !== 0;
  const piece = Buffer.alloc(pieceBytes);
  let moved = 0;
  /** @returns false when it is too much */
  const move = (): boolean => {
    for (;;) {
      const length = source.read(piece);
      if (length > 0) destination.write(piece.subarray(0, length));
      moved += length;
      if (moved > mostBytes) return false;
      if (length < piece.length) return true;
    }
  };
  source.startDmaLogging(4096, []);
  destination.setState(migrationState.RESUMING);
  if (has(migrationFlags.PRE_COPY)) {
    source.setState(migrationState.PRE_COPY);
    source.precopyInfo();
    if (!move()) return false;
    if (has(migrationFlags.P2P)) source.setState(migrationState.PRE_COPY_P2P);
  }
  source.setState(migrationState.STOP_COPY);
  source.dataSize();
  if (!move()) return false;
  destination.setState(migrationState.STOP);
  for (const each of [destination, source]) each.setState(migrationState.RUNNING);
  source.stopDmaLogging();
  return true;
}
