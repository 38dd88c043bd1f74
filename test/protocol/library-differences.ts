import { errno } from '../../src/errors.ts';
import type { LibraryGeneration } from '../../src/setup/libvfio-user-library.ts';
import type { ServerUnderTest } from './harness.ts';

/** What the C library does instead, and why that is right or can't be helped. */
export interface Difference {
  /** Only one of its generations. */
  readonly generation?: LibraryGeneration;
  /** 0: success. */
  readonly errno: number;
  readonly reason: string;
  /** The body of the message is taken for the next message. */
  readonly outOfStep?: boolean;
  /** The error has a body. */
  readonly body?: boolean;
}

/** What the server under test does instead. */
export function differenceOf(
  differs: Difference | readonly Difference[] | undefined,
  under: ServerUnderTest,
): Difference | undefined {
  if (under.kind === 'native' || differs === undefined) return undefined;
  const all = [differs].flat();
  return all.find(({ generation }) => generation === undefined || generation === under.generation);
}

/** The library does it, for that reason. */
export const lax = (reason: string, generation?: LibraryGeneration): Difference =>
  generation === undefined ? { errno: 0, reason } : { errno: 0, reason, generation };
export const withBody: Difference = {
  generation: 'v2',
  errno: errno.EINVAL,
  body: true,
  reason: 'an error of DEVICE_FEATURE SET carries what a success would',
};
