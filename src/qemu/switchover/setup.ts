/** Step 2: both sides ready, device state flowing, RAM migration started. The guest runs all the time. */
import { migrationFlags, migrationState } from '../../migration/state.ts';
import { planReplay } from '../../pci/index.ts';
import { preset } from './preset.ts';
import { pump } from './pump.ts';
import { commandOf } from './registers.ts';
import type { DeviceRun, Run } from './run.ts';
import { otherServer } from './side-checks.ts';
import { openChannel } from './state-channel.ts';

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
  run.progressed.migrateSent = true;
  await run.until(run.source.execute('migrate', { uri: run.options.uri }));
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
