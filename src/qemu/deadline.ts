/** Deadlines of whatever length. */
import { DeadlineError } from './errors.ts';

/** Node takes a longer delay for 1 ms. 24 days are as good as none. */
const longestMs = 2 ** 31 - 1;

/** As `setTimeout`, for a delay of any length: one beyond 24 days ends after 24 days. */
export function startTimer(action: () => void, delayMs: number): NodeJS.Timeout {
  return setTimeout(action, Math.min(delayMs, longestMs));
}

/** Rejects with a `DeadlineError` when `work` takes longer than `timeoutMs`. */
export async function within<T>(timeoutMs: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = startTimer(() => reject(new DeadlineError(what, timeoutMs)), timeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
