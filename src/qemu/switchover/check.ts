/** Step 1: refuse, while nothing has been touched, what could not be brought to its end. */

import { listAt, textAt } from '../answers.ts';
import { refusal } from '../errors.ts';
import { checkNamed } from './inventory.ts';
import { checkIommu } from './iommu.ts';
import { checkUris } from './listen.ts';
import { compareMachines, describeMachine, findEcam } from './machine.ts';
import { addressOf, placeOf } from './place.ts';
import type { DeviceRun, Run } from './run.ts';
import {
  checkAddresses,
  checkBlockers,
  checkConnected,
  checkFits,
  checkPlace,
  checkProtocol,
  checkRunning,
  checkSourceStatus,
  checkUnused,
  checkWaiting,
} from './side-checks.ts';
import { checkTls } from './tls.ts';

export async function check(run: Run): Promise<void> {
  checkUris(run);
  const [status, waiting] = await run.until(
    Promise.all([statusOfSource(run), run.destination.execute('query-status')]),
  );
  checkSourceStatus(status);
  checkWaiting(textAt(waiting, 'status'));
  const checks = [checkMachines, checkCapabilities, checkTls, checkInventory];
  await run.all([checkBlockers(run.source), ...checks.map((each) => each(run))]);
  await run.each((device) => checkDevice(run, device));
  run.ecamBase = await run.until(findEcam(run.source));
  const asked = run.devices.map((device) => ({ ...device, peer: device.source, info: device.sourceInfo }));
  await run.until(checkIommu(run.source, asked));
}

/** The source's status. Whether its guest runs is noted at once: what somebody does about that later is told by events. */
async function statusOfSource(run: Run): Promise<string> {
  const before = run.source.lastEvent;
  const status = textAt(await run.source.execute('query-status'), 'status');
  run.wasRunning = status === 'running' || run.source.seen('RESUME', before) !== undefined;
  return status;
}

async function checkMachines(run: Run): Promise<void> {
  const [source, destination] = await Promise.all([
    describeMachine(run.source),
    describeMachine(run.destination),
  ]);
  run.ramBytes = source.baseMemory + source.pluggedMemory;
  compareMachines(source, destination);
}

/** One that a QEMU has not, it would refuse only when both sides have been touched. */
async function checkCapabilities(run: Run): Promise<void> {
  const wanted = Object.keys(run.options.capabilities ?? {});
  if (wanted.length === 0) return;
  for (const [side, qemu] of Object.entries({ source: run.source, destination: run.destination })) {
    const answer = await run.until(qemu.execute('query-migrate-capabilities'));
    const known = listAt(answer).map((each) => textAt(each, 'capability'));
    const unknown = wanted.filter((name) => !known.includes(name));
    if (unknown.length > 0)
      throw refusal('VC_CAPABILITY', `the ${side} QEMU has no migration capability ${unknown.join(', ')}`);
  }
}

async function checkInventory(run: Run): Promise<void> {
  const ids = run.devices.map(({ id }) => id);
  const unnamed = {
    is: 'not to be migrated',
    wayOut: 'name it with its migration sockets: QEMU would lose it without an error',
  };
  await run.until(checkNamed(run.source, 'the source VM', ids, unnamed));
  await run.until(checkNamed(run.destination, 'the destination VM', ids, unnamed));
}

async function checkDevice(run: Run, device: DeviceRun): Promise<void> {
  const { id, source, destination } = device;
  const [from, to, sourceFlags, destinationFlags, state] = await run.until(
    Promise.all([
      source.info(),
      destination.info(),
      source.migrationFlags(),
      destination.migrationFlags(),
      source.state(),
    ]),
  );
  device.sourceInfo = from;
  device.pristine = to;
  device.flags = sourceFlags & destinationFlags;
  checkConnected(id, source, from, 'source');
  checkConnected(id, destination, to, 'destination');
  checkUnused(id, destination, to);
  checkProtocol(id, from);
  checkFits(id, from, to);
  checkRunning(id, state);
  device.address = await run.until(addressOf(run.source, id));
  const places = Promise.all([placeOf(run.source, id), placeOf(run.destination, id)]);
  checkPlace(id, ...(await run.until(places)));
  await run.until(checkAddresses(run.source, id, source, run.signal));
}
