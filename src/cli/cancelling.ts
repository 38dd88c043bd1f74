/** The terminal that goes away (SIGHUP) is no reason to leave a guest standing. */
const cancelling = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Does `work`, which Ctrl-C and its like cancel. */
export async function cancellable<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const cancel = new AbortController();
  const onSignal = (): void => cancel.abort();
  for (const signal of cancelling) process.on(signal, onSignal);
  try {
    return await work(cancel.signal);
  } finally {
    for (const signal of cancelling) process.off(signal, onSignal);
  }
}
