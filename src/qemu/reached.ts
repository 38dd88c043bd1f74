/** What is said when a party can't be reached. */
import { CompanionError } from '../errors.ts';

/** Of a device server. */
export const socketHint =
  "give the server's --migration-socket, which serves one orchestrator at a time; --socket is for QEMU alone";

/** The outcome of `connecting`; a failure tells `what` it was to, and `wayOut` where it has no hint of its own. */
export async function reached<T>(what: string, connecting: Promise<T>, wayOut?: string): Promise<T> {
  try {
    return await connecting;
  } catch (error) {
    if (!(error instanceof CompanionError)) throw error;
    throw new CompanionError(error.code, `${what}: ${error.message}`, {
      errno: error.errno,
      cause: error,
      hint: error.hint ?? wayOut,
    });
  }
}
