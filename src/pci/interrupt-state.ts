/** Saved interrupts: what waits, not where it goes: descriptors belong to a client. */

import { PciStateError } from './errors.ts';
import { checkTableState, checkVectors, type MsixTableState } from './msix-table.ts';
import { msixEntrySize } from './validate.ts';

/** What `InterruptController.save()` gives; survives msgpack. */
export interface InterruptState {
  /** Level of INTx. */
  readonly intxAsserted: boolean;
  /** Vectors whose message waits. */
  readonly msiPending: readonly number[];
  readonly msixPending: readonly number[];
  /** Present only if a client has written the MSI-X table through the BAR. */
  readonly msixTable?: MsixTableState;
}

/** `saved`, checked against the number of vectors here. Throws `PciStateError`. */
export function checkInterruptState(saved: unknown, msi: number, msix: number): InterruptState {
  if (typeof saved !== 'object' || saved === null)
    throw new PciStateError('saved interrupts are not an object');
  const state = saved as Partial<Record<keyof InterruptState, unknown>>;
  if (typeof state.intxAsserted !== 'boolean')
    throw new PciStateError('saved interrupts have no INTx level (intxAsserted)');
  const table = checkTableState(state.msixTable, msix * msixEntrySize, msix);
  return {
    intxAsserted: state.intxAsserted,
    msiPending: checkVectors('pending MSI', state.msiPending, msi),
    msixPending: checkVectors('pending MSI-X', state.msixPending, msix),
    ...(table === undefined ? {} : { msixTable: table }),
  };
}
