/** Node takes a longer delay for 1 ms. 24 days are as good as none. */
const longestMs = 2 ** 31 - 1;

/** As `setTimeout`, for a delay of any length: one beyond 24 days ends after 24 days. */
export function startTimer(action: () => void, delayMs: number): NodeJS.Timeout {
  return setTimeout(action, Math.min(delayMs, longestMs));
}
