/** RAM of a VM to a file and back, by QEMU's own migration. */
import { setTimeout as delay } from 'node:timers/promises';
import { CompanionError } from '../../errors.ts';
import { numberAt, textAt } from '../answers.ts';
import { DeadlineError, QmpError } from '../errors.ts';
import type { QmpSession } from '../qmp.ts';
import type { Setting } from '../switchover/run.ts';
import { apply } from '../switchover/settings.ts';
import type { Attempt } from './attempt.ts';

/**
 * What QEMU does on its way to or from a file, whatever it was set to. With `mapped-ram` each page has its place in the file and is read from
 * there into memory, in long runs: that loads twice as fast as a stream. `events` tell of the end.
 */
const ramCapabilities = {
  events: true,
  'mapped-ram': true,
  'pause-before-switchover': false,
  'return-path': false,
  multifd: false,
} as const;

/** What `mapped-ram` does not go with, and is refused for. */
const plain = { 'multifd-compression': 'none', 'tls-creds': '' } as const;

/** For a guest that stands still there is nobody to be considerate of. Bytes a second. */
export const unlimitedBandwidth = { 'max-bandwidth': 2 ** 40 } as const;

const lookMs = 1000;
/** What any disk gives, bytes a millisecond. */
const slowestLoad = 10_000;
const writableHint = 'is there room, and may the user that QEMU runs as write there?';
const over: readonly string[] = ['completed', 'failed', 'cancelled'];

/**
 * Sets a QEMU up for its way to or from a file.
 * @param back as for `apply`
 */
export async function setUp(
  attempt: Attempt,
  qemu: QmpSession,
  parameters: Readonly<Record<string, unknown>>,
  back: Setting[],
): Promise<void> {
  await apply(attempt, qemu, {}, plain, back);
  await apply(attempt, qemu, ramCapabilities, parameters, back);
}

/** The way by a file, as `migrate` and `migrate-incoming` take it: no character of its path means anything. */
function channels(path: string): object {
  const addr = { transport: 'file', filename: path, offset: 0 };
  return { channels: [{ 'channel-type': 'main', addr }] };
}

/** QEMU opens the file by itself, as its own user and from where it may be shut in, and says no more than that it could not. */
function notOpened(code: 'VC_SAVE' | 'VC_RESTORE', hint: string): (error: unknown) => never {
  return (error) => {
    if (!(error instanceof QmpError)) throw error;
    throw new CompanionError(code, error.message, { hint, cause: error });
  };
}

/**
 * Has QEMU write the guest's RAM, and all of its own state.
 * @param stallMs it may write nothing for so long
 */
export async function writeRam(
  source: QmpSession,
  path: string,
  stallMs: number,
  signal: AbortSignal,
): Promise<void> {
  const ended = source.waitFor('MIGRATION', ({ data }) => over.includes(textAt(data, 'status')), {
    timeoutMs: Number.MAX_SAFE_INTEGER,
    signal,
    after: source.lastEvent,
  });
  ended.catch(() => undefined);
  await source.execute('migrate', channels(path)).catch(notOpened('VC_SAVE', writableHint));
  let written = 0;
  for (let movedAt = performance.now(); ; ) {
    const event = await Promise.race([ended, delay(Math.min(lookMs, stallMs), undefined, { ref: false })]);
    if (event !== undefined) break;
    // Its last pass keeps QEMU from its monitor.
    const look = await source.execute('query-migrate', undefined, { timeoutMs: stallMs });
    const now = numberAt(look, 'ram', 'transferred');
    if (now !== written) movedAt = performance.now();
    else if (performance.now() - movedAt > stallMs) throw new DeadlineError(`RAM to ${path}`, stallMs);
    written = now;
  }
  const state = await source.execute('query-migrate');
  const status = textAt(state, 'status');
  if (status === 'completed') return;
  throw new CompanionError(
    'VC_SAVE',
    `QEMU could not write RAM to ${path}: ${textAt(state, 'error-desc') || status}`,
    { hint: writableHint },
  );
}

/** Has a QEMU that waits load what another one has written, `bytes` of it. */
export async function loadRam(
  destination: QmpSession,
  path: string,
  bytes: number,
  loadMs: number,
  signal: AbortSignal,
): Promise<void> {
  const ended = destination.waitFor('MIGRATION', ({ data }) => over.includes(textAt(data, 'status')), {
    timeoutMs: loadMs + bytes / slowestLoad,
    signal,
    after: destination.lastEvent,
  });
  ended.catch(() => undefined);
  await destination
    .execute('migrate-incoming', channels(path))
    .catch(notOpened('VC_RESTORE', 'may the user that QEMU runs as read it? if not: give that user a copy'));
  const status = textAt((await ended).data, 'status');
  if (status !== 'completed')
    throw new CompanionError('VC_RESTORE', `QEMU could not load RAM from ${path}: ${status}`, {
      hint: 'its standard error says why; its command line has to describe the VM that was saved',
    });
}
