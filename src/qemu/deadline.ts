/** Deadlines of whatever length. */
import { startTimer, type Timer } from '../start-timer.ts';
import { DeadlineError } from './errors.ts';

/** Rejects with a `DeadlineError` when `work` takes longer than `timeoutMs`. */
export async function within<T>(timeoutMs: number, what: string, work: Promise<T>): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = startTimer(() => reject(new DeadlineError(what, timeoutMs)), timeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    timer?.stop();
  }
}
