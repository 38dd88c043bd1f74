import { CompanionError, errno } from '../errors.ts';
import { DirtyLog } from './dirty-log.ts';
import type { DirtyScopeName, DirtyTracker, IovaRange } from './dirty-tracker.ts';
import { dmaProt, type GuestMemory } from './types.ts';

export interface DirtyScopeOptions {
  readonly scope: DirtyScopeName;
  readonly memory: Pick<GuestMemory, 'regions'>;
  /** The device's registered ranges (`DeviceMigration.pinnedRanges`); needed for `pinned`. */
  readonly pinned?: { pinned(): Iterable<IovaRange> } | undefined;
  /** Attaches the log to guest memory as its `DirtySink`, or detaches it. */
  readonly attach: (log: DirtyTracker | undefined) => void;
}

/**
 * Makes the dirty log of a device.
 *
 *  - `precise` notes every DMA write: some tens of nanoseconds for each write while logging is on, and only what was
 *    really written is ever transferred. The default.
 *  - `pinned` notes nothing: each report takes everything for dirty that the guest has registered for the
 *    device, or had registered since the last report. Free for each write; every report has all
 *    registered pages, so precopy does not converge below them and each has to be marked in the blackout.
 *    What hardware without a tracker allows, if its driver knows what is registered.
 *  - `all` takes every page for dirty that the device may write through a descriptor, all of guest memory as a rule
 *    (what is written by message goes through the client, which knows). Nothing can be missed and
 *    nothing is asked of the model; the whole of memory goes again in the blackout. The fallback.
 *
 * With `pinned` and `all` a range that is gone by the time of a report is still in that report once.
 */
export function createDirtyLog(options: DirtyScopeOptions): DirtyTracker {
  const { scope, memory, pinned, attach } = options;
  if (scope === 'pinned' && pinned === undefined) {
    throw new CompanionError('VC_DIRTY_SCOPE', 'this model does not tell what the guest has registered', {
      errno: errno.EOPNOTSUPP,
      hint: 'Use --dirty precise, or --dirty all.',
    });
  }
  const log: DirtyLog = new DirtyLog({
    scope,
    ...(scope === 'pinned' && pinned !== undefined ? { mayWrite: () => pinned.pinned() } : {}),
    ...(scope === 'all' ? { mayWrite: () => writable(memory) } : {}),
    attach: (wanted) => attach(wanted ? log : undefined),
  });
  return log;
}

function* writable(memory: Pick<GuestMemory, 'regions'>): Iterable<IovaRange> {
  for (const { iova, size, prot, mapped } of memory.regions()) {
    if (mapped && (prot & dmaProt.write) !== 0) yield { iova, length: size };
  }
}
