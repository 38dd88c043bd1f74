/** The migration settings of both QEMUs: the first that is changed, because only QEMU can judge them. */

import { field, listAt, textAt } from '../answers.ts';
import { QmpError, refusal } from '../errors.ts';
import type { QmpSession } from '../qmp.ts';
import { listen, maySayAnother } from './listen.ts';
import type { Run, Setting } from './run.ts';

/** `downtime-limit` while QEMU is to be held back, ms. */
export const holdLimitMs = 1;

const setCapabilities = 'migrate-set-capabilities';
const setParameters = 'migrate-set-parameters';

/**
 * Sets what was asked for at both QEMUs and has the destination listen.
 * @throws CompanionError when a QEMU refuses: both are as before then, and the destination can be used again, unless it has tried to
 *   listen in vain
 */
export async function prepareQemus(run: Run): Promise<void> {
  const { destination, source, options, restoreSettings, leaveSettings: back } = run;
  try {
    const { capabilities, parameters, maxBandwidth } = options;
    const given = { ...parameters, ...(maxBandwidth === undefined ? {} : { 'max-bandwidth': maxBandwidth }) };
    await apply(run, destination, { ...capabilities, events: true }, given, back);
    await apply(
      run,
      source,
      { ...capabilities, 'pause-before-switchover': true, events: true },
      { ...given, 'downtime-limit': holdLimitMs },
      restoreSettings,
    );
    await listen(run);
  } catch (error) {
    // What else may fail says nothing of what QEMU has done.
    if (!(error instanceof QmpError) || run.signal.aborted) throw error;
    const usable = error.command !== 'migrate-incoming' || (await maySayAnother(run));
    await putBack(destination, back);
    await putBack(run.unfenced, run.restoreSettings);
    run.progressed.touched = !usable;
    throw explained(run, error, usable);
  }
}

/** What was set for this migration is no concern of the guest's next one, at whose other end it may not be set. */
export async function tidyDestination(run: Run): Promise<void> {
  await putBack(run.destination, run.leaveSettings).catch((error: unknown) =>
    run.warn(`migration settings of the destination were not restored: ${String(error)}`),
  );
}

export async function putBack(qemu: QmpSession, settings: readonly Setting[]): Promise<void> {
  for (const { command, args } of settings) await qemu.execute(command, args);
}

function explained(run: Run, error: QmpError, usable: boolean): Error {
  if (error.command !== 'migrate-incoming')
    return refusal('VC_SETTING', `a migration setting is refused: ${error.message}`);
  const { uri, listenUri = uri } = run.options;
  return refusal(
    'VC_URI',
    `the destination QEMU can't listen at ${listenUri}: ${error.description}`,
    usable
      ? 'it goes on waiting for another --uri or --listen'
      : 'a QEMU tries to listen once only: start another one for the next try',
  );
}

/**
 * Sends settings, capabilities first.
 * @param back takes what sets to the old values what has been set, or may have been, the last one first: so no settings meet on the way back
 *   that have not been together before, for QEMU refuses some together
 */
export async function apply(
  run: Pick<Run, 'until'>,
  qemu: QmpSession,
  capabilities: Readonly<Record<string, boolean>>,
  parameters: Readonly<Record<string, unknown>>,
  back: Setting[],
): Promise<void> {
  const states = listAt(await run.until(qemu.execute('query-migrate-capabilities')));
  const values = await run.until(qemu.execute('query-migrate-parameters'));
  const oldStates = states.filter((entry) => Object.hasOwn(capabilities, textAt(entry, 'capability')));
  const wantedStates = Object.entries(capabilities).map(([capability, state]) => ({ capability, state }));
  if (wantedStates.length > 0)
    await applyOne(
      run,
      qemu,
      setCapabilities,
      { capabilities: wantedStates },
      { capabilities: oldStates },
      back,
    );
  if (Object.keys(parameters).length === 0) return;
  // While it is held back, its bandwidth is changed, too.
  const names = [...Object.keys(parameters), 'max-bandwidth'];
  const known = names.map((name) => [name, field(values, name)]).filter(([, value]) => value !== undefined);
  await applyOne(run, qemu, setParameters, parameters, Object.fromEntries(known), back);
}

async function applyOne(
  run: Pick<Run, 'until'>,
  qemu: QmpSession,
  command: string,
  args: object,
  old: object,
  back: Setting[],
): Promise<void> {
  back.unshift({ command, args: old });
  try {
    await run.until(qemu.execute(command, args));
  } catch (error) {
    // Refused, nothing of it has been set.
    if (error instanceof QmpError) back.shift();
    throw error;
  }
}
