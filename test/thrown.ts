/** The errors of what has to fail. */
import { CompanionError } from '../src/errors.ts';

type Kind<E> = abstract new (...args: never[]) => E;

/** The error of this kind that `act` throws; fails when it throws another one, or none. */
export function thrownBy<E>(kind: Kind<E>, act: () => unknown): E {
  try {
    act();
  } catch (error) {
    if (error instanceof kind) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

/** As `thrownBy`, of what `work` rejects with. */
export async function rejectionOf<E>(kind: Kind<E>, work: Promise<unknown>): Promise<E> {
  const failed = await work.then(
    () => undefined,
    (reason: unknown) => ({ reason }),
  );
  return thrownBy(kind, () => {
    if (failed !== undefined) throw failed.reason;
  });
}

/** The errno of the error of ours that `act` throws; undefined when it throws none. Fails when it throws another one. */
export function errnoThrownBy(act: () => unknown): number | undefined {
  try {
    act();
  } catch (error) {
    if (error instanceof CompanionError) return error.errno;
    throw error;
  }
  return undefined;
}
