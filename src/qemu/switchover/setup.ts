/** Step 2: both sides ready, device state flowing, RAM migration started. The guest runs all the time. */

import { migrationFlags, migrationState } from '../../migration/state.ts';
import { planReplay } from '../../pci/index.ts';
import { QmpError } from '../errors.ts';
import { commandOf, otherServer } from './check.ts';
import { preset } from './preset.ts';
import { pump } from './pump.ts';
import { type DeviceRun, field, listAt, type Run, textAt } from './run.ts';
import { openChannel } from './state-channel.ts';

/** `downtime-limit` while QEMU is to be held back, ms. */
export const holdLimitMs = 1;

export async function setUp(run: Run): Promise<void> {
  // With -S forgotten the destination would run the guest as soon as it is loaded; `stop` in state
  // "inmigrate" turns that off.
  await run.until(run.destination.execute('stop'));
  await run.each((device) => device.destination.hold(true));
  // One after the other: ports are one resource for all devices.
  for (const device of run.devices) {
    await run.until(preset(run, device));
    if (run.devices.length > 1) await run.until(checkServer(device));
  }
  await run.each(async (device) => {
    await device.destination.setState(migrationState.RESUMING);
    // The log must cover every write that QEMU's own precopy could miss: it starts before `migrate`.
    await device.source.startLogging();
    device.channel = await openChannel(device.source, device.destination);
    if (canPreCopy(device)) {
      await device.source.setState(migrationState.PRE_COPY);
      // The head of the stream: a destination that can't load this state says so here.
      await pump(device, 1);
      device.initialBytes = (await device.source.precopyInfo()).initialBytes;
    }
  });
  await run.until(setQemu(run));
  await run.until(startRam(run));
}

/**
 * What its QEMU was told of a device has come to the server that is taken for the device's: with several, it may be another one's. That
 * which is told next has heard nothing yet, not even of Bus Master.
 */
async function checkServer({ id, told, destination }: DeviceRun): Promise<void> {
  if (told === undefined) return;
  await destination.barrier();
  const { config } = await destination.info();
  const moved = planReplay(told.config, config).some(({ role }) => role === 'bar');
  if (moved || commandOf(told.config) !== commandOf(config))
    throw otherServer(destination, id, 'destination');
}

export function canPreCopy(device: DeviceRun): boolean {
  return (device.flags & migrationFlags.PRE_COPY) !== 0;
}

export function canP2p(device: DeviceRun): boolean {
  return (device.flags & migrationFlags.P2P) !== 0;
}

async function setQemu(run: Run): Promise<void> {
  const wanted: Record<string, boolean> = { ...run.options.capabilities };
  const capabilities = (more: Record<string, boolean>): object => ({
    capabilities: Object.entries({ ...wanted, ...more }).map(([capability, state]) => ({
      capability,
      state,
    })),
  });
  const set = 'migrate-set-capabilities';
  const before = listAt(await run.source.execute('query-migrate-capabilities'));
  const parameters = await run.source.execute('query-migrate-parameters');
  const changed = new Set([...Object.keys(wanted), 'pause-before-switchover', 'events']);
  run.restoreSettings.push({
    command: set,
    args: { capabilities: before.filter((entry) => changed.has(textAt(entry, 'capability'))) },
  });
  const given: Record<string, unknown> = {
    ...run.options.parameters,
    ...(run.options.maxBandwidth === undefined ? {} : { 'max-bandwidth': run.options.maxBandwidth }),
  };
  const restore: Record<string, unknown> = {};
  for (const name of ['downtime-limit', 'max-bandwidth', ...Object.keys(given)]) {
    const value = field(parameters, name);
    if (value !== undefined) restore[name] = value;
  }
  run.restoreSettings.push({ command: 'migrate-set-parameters', args: restore });
  await run.source.execute(set, capabilities({ 'pause-before-switchover': true, events: true }));
  await run.destination.execute(set, capabilities({ events: true }));
  await run.source.execute('migrate-set-parameters', { ...given, 'downtime-limit': holdLimitMs });
  if (Object.keys(given).length > 0) await run.destination.execute('migrate-set-parameters', given);
}

async function startRam(run: Run): Promise<void> {
  const { uri, listenUri } = run.options;
  try {
    await run.destination.execute('migrate-incoming', { uri: listenUri ?? uri });
  } catch (error) {
    // A destination that was started with -incoming URI listens already.
    const listens = error instanceof QmpError && /already been started|was not specified/.test(error.message);
    if (!listens) throw error;
    run.log.debug(`the destination waits for its migration already: ${error.message}`);
  }
  run.progressed.migrateSent = true;
  await run.source.execute('migrate', { uri });
}
