/** Node takes a longer delay for 1 ms. 24 days are as good as none. */
const longestMs = 2 ** 31 - 1;

export interface Timer {
  stop(): void;
}

/**
 * As `setTimeout`, for a delay of any length (one beyond 24 days ends after 24 days), and for deadlines: what came in time is heard first.
 * A process that was stopped itself (Ctrl-Z), or got no processor, finds its timers due before it has read what has come meanwhile.
 */
export function startTimer(action: () => void, delayMs: number): Timer {
  let next: NodeJS.Immediate | undefined;
  const timer = setTimeout(
    () => {
      next = setImmediate(action);
    },
    Math.min(delayMs, longestMs),
  );
  return {
    stop() {
      clearTimeout(timer);
      clearImmediate(next);
    },
  };
}
