/** The proof that what was restored is what was saved, between replay and `cont`. */
import { migrationState } from '../../migration/state.ts';
import { compareStates } from '../switchover/compare-state.ts';
import {
  type ComparedDevice,
  type Comparing,
  checkEqual,
  saveAgain,
  verifyConfigs,
} from '../switchover/verify.ts';
import { readingFile } from './files.ts';
import type { SavedDevice } from './manifest.ts';

export interface RestoredDevice extends ComparedDevice {
  readonly saved: SavedDevice;
  /** Its saved state. */
  readonly path: string;
  /** State version of its server. */
  readonly pristine: { readonly stateVersion: number };
  stateEqual: boolean | null;
}

/**
 * Reads the registers back from QEMU, and has each device give its state again.
 * @throws CompanionError (VC_CONFIG_DIFFERS, VC_STATE_DIFFERS)
 */
export async function verifyRestored(
  run: Comparing & { readonly devices: readonly RestoredDevice[] },
): Promise<void> {
  await verifyConfigs(run);
  for (const device of run.devices) await run.until(verifyState(device, run.warn));
}

async function verifyState(device: RestoredDevice, warn: (message: string) => void): Promise<void> {
  const { id, destination, saved, pristine, path } = device;
  if (saved.info.stateVersion !== pristine.stateVersion) {
    warn(
      `device ${id}: state versions ${saved.info.stateVersion} and ${pristine.stateVersion} can't be compared; its state was not`,
    );
    return;
  }
  await saveAgain(destination);
  const compared = await readingFile(path, (reader) => compareStates(reader, destination));
  await destination.setState(migrationState.RUNNING);
  device.stateEqual = compared.difference === undefined;
  checkEqual(id, compared);
}
