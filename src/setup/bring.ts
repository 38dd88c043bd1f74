import type { KernelName } from './catalog.ts';
import { ensureImage } from './image.ts';
import { ensureQemu } from './qemu.ts';
import type { Store } from './store.ts';

/** What could not be brought, and why. */
export interface Missing {
  readonly what: string;
  readonly reason: unknown;
}

/**
 * Brings what starts guests: a QEMU, and each of `kernels` with its image. Changes nothing when all of it is there and whole. One
 * that can't be had does not keep the others away.
 * @returns what is missing all the same
 */
export async function bringAll(store: Store, kernels: Iterable<KernelName>): Promise<Missing[]> {
  const steps: [what: string, bring: () => Promise<unknown>][] = [
    ['QEMU >= 10.1 with vfio-user-pci', () => ensureQemu(store)],
  ];
  for (const name of new Set(kernels)) {
    steps.push([`guest kernel ${name} and its image`, () => ensureImage(store, name)]);
  }
  const missing: Missing[] = [];
  for (const [what, bring] of steps) {
    try {
      await bring();
    } catch (reason) {
      missing.push({ what, reason });
    }
  }
  return missing;
}
