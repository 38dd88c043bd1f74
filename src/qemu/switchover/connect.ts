/** Step 0: reach all parties, and notice when one of them goes away. */
import { CompanionError } from '../../errors.ts';
import { textAt } from '../answers.ts';
import { type DevicePeer, noInfo } from '../device-peer.ts';
import { refusal } from '../errors.ts';
import { Qmp } from '../qmp.ts';
import { reached, socketHint } from '../reached.ts';
import { fenced } from './fence.ts';
import { defaultTimeouts, type MigrateOptions } from './options.ts';
import { type DeviceRun, Run } from './run.ts';
import { suspendedMeanwhile } from './side-checks.ts';
import { StopWatch } from './stop-watch.ts';

/** Opens every connection; closes those already open when one fails. */
export async function connectAll(options: MigrateOptions): Promise<Run> {
  const timeouts = { ...defaultTimeouts, ...options.timeouts };
  const connectDevice = options.connectDevice ?? (await import('../vfio-user-peer.ts')).connectPeer;
  const opened: { close(): Promise<void> }[] = [];
  const open = async <T extends { close(): Promise<void> }>(
    what: string,
    work: Promise<T>,
    wayOut?: string,
  ): Promise<T> => {
    const value = await reached(what, work, wayOut);
    opened.push(value);
    return value;
  };
  const qmpOptions = { timeoutMs: timeouts.connect, commandTimeoutMs: timeouts.command };
  const results = await Promise.allSettled([
    open('source QEMU', Qmp.connect(options.source.qmp, qmpOptions)),
    open('destination QEMU', Qmp.connect(options.destination.qmp, qmpOptions)),
    ...options.devices.flatMap(({ id, source, destination }) => [
      open(`device ${id} at the source (${source})`, connectDevice(source, timeouts), socketHint),
      open(
        `device ${id} at the destination (${destination})`,
        connectDevice(destination, timeouts),
        socketHint,
      ),
    ]),
  ]);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) {
    await Promise.allSettled(opened.map((each) => each.close()));
    throw failed.reason;
  }
  const values = results.map((result) => (result.status === 'fulfilled' ? result.value : undefined));
  const [source, destination, ...peers] = values as [Qmp, Qmp, ...DevicePeer[]];
  const stop = new AbortController();
  const devices = options.devices.map(({ id }, index) =>
    deviceRun(id, peers[2 * index], peers[2 * index + 1], stop.signal),
  );
  const run = new Run(options, source, destination, devices, stop);
  watch(run, source, destination);
  return run;
}

function deviceRun(
  id: string,
  source: DevicePeer | undefined,
  destination: DevicePeer | undefined,
  givenUp: AbortSignal,
): DeviceRun {
  if (source === undefined || destination === undefined)
    throw refusal('VC_MIGRATE', `device ${id} has no server`);
  return {
    id,
    source: fenced(source, givenUp),
    destination,
    unfenced: source,
    flags: 0,
    sourceInfo: noInfo,
    pristine: noInfo,
    address: { bus: 0, device: 0, function: 0 },
    told: undefined,
    channel: undefined,
    fed: Promise.resolve(),
    feeding: false,
    sentBytes: 0,
    pumpMs: 0,
    initialBytes: 0,
    dirtyBytes: 0,
    dirtyPages: 0,
    dataSize: 0,
    finalBytes: 0,
    sourceDone: false,
    frozen: undefined,
    msixTable: undefined,
    mark: undefined,
    carrying: undefined,
    carried: Promise.resolve(0),
    carriedPages: 0,
    replayed: 0,
    replayPath: 'none',
    configCompared: null,
    configDifferences: [],
    msixTableEqual: null,
    stateEqual: null,
  };
}

/** From now on a party that goes away ends the migration, unless it is not needed any more. */
function watch(run: Run, source: Qmp, destination: Qmp): void {
  const { progressed } = run;
  const lost = (who: string, why: Error | undefined): void => {
    run.fail(new CompanionError('VC_PEER_LOST', `${who} is gone (${why?.message ?? 'connection closed'})`));
  };
  source.on('close', (why) => {
    if (!progressed.completed && why !== undefined) lost('the source QEMU', why);
  });
  destination.on('close', (why) => {
    if (!progressed.committed && why !== undefined) lost('the destination QEMU', why);
  });
  for (const device of run.devices) {
    void device.source.ended.then((why) => {
      if (!device.sourceDone && why !== undefined) lost(`the source's server of device ${device.id}`, why);
    });
    void device.destination.ended.then((why) => {
      if (!progressed.committed && why !== undefined)
        lost(`the destination's server of device ${device.id}`, why);
    });
  }
  const stops = new StopWatch(run);
  run.atEnd(() => stops.end());
  source.on('event', (event) => {
    stops.note(event);
    if (event.name === 'SUSPEND' && !progressed.stopped) run.fail(suspendedMeanwhile());
    if (event.name !== 'MIGRATION' || progressed.completed || !progressed.migrateSent) return;
    const status = textAt(event.data, 'status');
    if (status === 'failed' || status === 'cancelled')
      run.fail(
        new CompanionError('VC_QEMU_MIGRATION', `QEMU's own migration ended at the source: ${status}`),
      );
  });
  destination.on('event', (event) => {
    if (event.name === 'MIGRATION' && textAt(event.data, 'status') === 'failed' && !progressed.completed)
      run.fail(
        new CompanionError('VC_QEMU_MIGRATION', "QEMU's own migration failed at the destination", {
          hint: 'its standard error says why; both command lines have to describe the same machine',
        }),
      );
  });
  const { signal } = run.options;
  const cancel = (): void => {
    const { contSent, completed, committed } = progressed;
    // What was sent before the destination had loaded can be taken back as long as it has not; and what it waits for may be stuck.
    if (!committed && !(contSent && completed))
      run.fail(refusal('VC_CANCELLED', 'the migration was cancelled'));
  };
  if (signal?.aborted === true) cancel();
  else signal?.addEventListener('abort', cancel, { once: true });
  run.atEnd(() => signal?.removeEventListener('abort', cancel));
}

/** Ends all sessions; the parties go on. */
export async function disconnectAll(run: Run): Promise<void> {
  run.close();
  const peers = run.devices.flatMap((device) => [device.unfenced, device.destination]);
  await Promise.allSettled([
    run.source.close(),
    run.destination.close(),
    ...peers.map((peer) => peer.close()),
  ]);
}
