/** A guest that ends by itself while it is migrated, as one that is shut down from within: nothing is lost then. */
import { setTimeout as delay } from 'node:timers/promises';
import { CompanionError } from '../../errors.ts';
import { textAt } from '../answers.ts';
import type { Run } from './run.ts';

/** A QEMU whose guest has ended is gone within this time, unless it was started with -no-shutdown. */
const endingMs = 2000;
const pollMs = 5;

/** What became of a guest, by QEMU's reason (`ShutdownCause` of qapi/run-state.json). */
const ends: Readonly<Record<string, string>> = {
  'guest-shutdown': 'has shut down by itself',
  'guest-reset': 'has rebooted, upon which its QEMU ends,',
  'guest-panic': 'has panicked, upon which its QEMU ends,',
};

/** What the guest has done to end its QEMU, if that is why the source is gone, or is just going. */
async function endOfGuest(run: Run): Promise<string | undefined> {
  const { unfenced: source } = run;
  const event = source.seen('SHUTDOWN', 0);
  if (event?.data.guest !== true) return undefined;
  const deadline = performance.now() + endingMs;
  while (source.open && performance.now() < deadline) await delay(pollMs);
  return source.open ? undefined : (ends[textAt(event.data, 'reason')] ?? 'has ended by itself');
}

/** Whether the source is gone because its guest had ended. */
export async function guestHasEnded(run: Run): Promise<boolean> {
  return (await endOfGuest(run)) !== undefined;
}

/** What to say instead of `cause` where the guest has ended. */
export async function endedInstead(run: Run, cause: CompanionError): Promise<CompanionError | undefined> {
  const end = await endOfGuest(run);
  if (end === undefined) return undefined;
  return new CompanionError('VC_GUEST_ENDED', `the guest ${end} while it was migrated`, {
    cause,
    hint: 'start it anew where it is to run',
  });
}
