/** What keeps the steps of a migration that has been given up from going on behind its rollback. */

/**
 * `party`, but once `signal` is aborted its methods send nothing any more: they reject with the reason.
 *
 * A migration that is given up stops waiting for its steps; it can't stop them. Their next request would come after what the rollback
 * has asked, and undo it: a device that runs again would be stopped under its guest.
 *
 * @param free methods that ask nothing of the party
 */
export function fenced<T extends object>(
  party: T,
  signal: AbortSignal,
  free: readonly (keyof T & string)[] = [],
): T {
  return new Proxy(party, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value === 'object' && value !== null && !(value instanceof Promise))
        return fenced(value, signal);
      if (typeof value !== 'function') return value;
      const isFree = free.some((each) => each === name);
      return (...args: unknown[]): unknown =>
        signal.aborted && !isFree ? Promise.reject(signal.reason) : Reflect.apply(value, target, args);
    },
  });
}
