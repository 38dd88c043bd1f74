/** A VM that was saved to a folder starts again, in a QEMU that waits for a migration and with device servers that are held. */
import { resolve } from 'node:path';
import { silentLogger } from '../../log.ts';
import { migrationState } from '../../migration/state.ts';
import { Timeline } from '../../report/timeline.ts';
import { textAt } from '../answers.ts';
import { ConfigPorts } from '../config-ports.ts';
import type { DevicePeer, PeerInfo } from '../device-peer.ts';
import { QmpConnectionError, refusal } from '../errors.ts';
import { type ConnectedSide, connectSide, watchSide } from '../side.ts';
import { release } from '../switchover/commit.ts';
import { checkNamed } from '../switchover/inventory.ts';
import { compareMachines, describeMachine } from '../switchover/machine.ts';
import { defaultTimeouts, type Timeouts } from '../switchover/options.ts';
import { placeOf } from '../switchover/place.ts';
import { type ReplayedDevice, replay } from '../switchover/replay.ts';
import type { Setting } from '../switchover/run.ts';
import { putBack } from '../switchover/settings.ts';
import {
  checkConnected,
  checkFits,
  checkPlace,
  checkUnused,
  checkWaiting,
} from '../switchover/side-checks.ts';
import { Attempt } from './attempt.ts';
import { checkFile, loadState } from './files.ts';
import { readManifest, type SavedDevice, type SavedVm, savedPaths } from './manifest.ts';
import type { RestoreOptions, RestorePhase, RestoreReport } from './options.ts';
import { loadRam, setUp } from './ram.ts';
import { type RestoredDevice, verifyRestored } from './verify.ts';

type RestoringDevice = ReplayedDevice & RestoredDevice;

/**
 * Starts a saved VM in a QEMU that was started with `-incoming defer -S` and the command line of the one that was saved, sockets aside.
 *
 * What is saved stays as it is: it can be restored again, and in several QEMUs at the same time. What fails before anything was touched leaves the QEMU
 * waiting; after that the QEMU is ended, and the servers can be used again with another one.
 *
 * @throws CompanionError: VC_SAVED_VM where there is none, or its files are not as they were written; the codes of `migrate` where QEMU or a server does not
 *   fit; VC_RELEASE where the guest runs, but a device could not be let go
 */
export async function restoreVm(options: RestoreOptions): Promise<RestoreReport> {
  const started = performance.now();
  const folder = resolve(options.folder);
  const saved = await readManifest(folder);
  const timeouts = { ...defaultTimeouts, ...options.timeouts };
  const side = await connectSide(options.qmp, options.devices, timeouts, options.connectDevice);
  const restoring = new Restoring({ ...options, folder }, timeouts, side, saved);
  try {
    await restoring.restore();
    return restoring.report(performance.now() - started);
  } catch (error) {
    throw await restoring.giveUp(error);
  } finally {
    restoring.end();
    await side.close();
  }
}

/** One VM on its way out of a folder. */
class Restoring {
  readonly #options: RestoreOptions;
  readonly #timeouts: Timeouts;
  readonly #side: ConnectedSide;
  readonly #saved: SavedVm;
  readonly #attempt: Attempt;
  readonly #settings: Setting[] = [];
  readonly #starts: boolean;
  readonly #warnings: string[] = [];
  #devices: RestoringDevice[] = [];
  #touched = false;
  #running = false;

  constructor(options: RestoreOptions, timeouts: Timeouts, side: ConnectedSide, saved: SavedVm) {
    this.#options = options;
    this.#timeouts = timeouts;
    this.#side = side;
    this.#saved = saved;
    this.#starts = saved.wasRunning && options.paused !== true;
    this.#attempt = new Attempt('restoring', options.signal);
    watchSide(side, (error) => this.#attempt.fail(error));
  }

  /** Nothing is listened to any more. */
  end(): void {
    this.#attempt.end();
  }

  async restore(): Promise<void> {
    await this.#enter('check');
    await this.#attempt.until(this.#check());
    this.#touched = true;
    await this.#enter('load');
    await this.#attempt.until(this.#load());
    await this.#enter('replay');
    await this.#replay();
    if (this.#options.verify === true) {
      await this.#enter('verify');
      await this.#verify();
    }
    await this.#enter('resume');
    await this.#resume();
    await this.#enter('done').catch(() => undefined);
  }

  report(totalMs: number): RestoreReport {
    return {
      folder: this.#options.folder,
      savedAt: this.#saved.savedAt,
      totalMs,
      running: this.#starts,
      warnings: this.#warnings,
      devices: this.#devices.map((device) => ({
        id: device.id,
        model: device.saved.info.model,
        stateBytes: device.saved.state.bytes,
        replayedRegisters: device.replayed,
        configEqual: device.configCompared === true ? true : null,
        msixTableEqual: device.msixTableEqual,
        stateEqual: device.stateEqual,
      })),
    };
  }

  /** A QEMU that was touched is of no use any more, and must not be started by anyone. */
  async giveUp(cause: unknown): Promise<unknown> {
    if (this.#running) return cause;
    const reason = this.#attempt.reasonFor(cause);
    if (!this.#touched) return reason;
    await this.#side.qemu.execute('quit').catch((error: unknown) => {
      if (error instanceof QmpConnectionError) return;
      (this.#options.log ?? silentLogger).warn(
        'the QEMU does not answer and could not be ended: end it, and never start it',
      );
    });
    return reason;
  }

  async #enter(phase: RestorePhase): Promise<void> {
    this.#options.log?.debug({ phase }, 'restoring');
    await this.#attempt.until(Promise.resolve(this.#options.onPhase?.(phase)));
  }

  async #check(): Promise<void> {
    const { qemu, devices } = this.#side;
    const saved = this.#saved;
    const { folder } = this.#options;
    checkWaiting(textAt(await qemu.execute('query-status'), 'status'));
    const names = { from: 'the saved VM', to: 'this one' };
    compareMachines(saved.machine, await describeMachine(qemu), names);
    const ids = devices.map(({ id }) => id);
    const wayOut = 'name it with its migration socket';
    await checkNamed(qemu, 'the VM', ids, { is: 'not to be restored', wayOut });
    const missing = saved.devices.filter(({ id }) => !ids.includes(id)).map(({ id }) => id);
    if (missing.length > 0)
      throw refusal('VC_DEVICES', `the saved VM has a device ${missing.join(', ')}, and this one has not`);
    this.#devices = await Promise.all(devices.map(({ id, peer }) => this.#checkDevice(id, peer)));
    const { signal } = this.#attempt;
    await checkFile(savedPaths.ram(folder), saved.ram, signal);
    for (const device of this.#devices) await checkFile(device.path, device.saved.state, signal);
  }

  async #checkDevice(id: string, peer: DevicePeer): Promise<RestoringDevice> {
    const index = this.#saved.devices.findIndex((each) => each.id === id);
    const saved = this.#saved.devices[index];
    if (saved === undefined) throw refusal('VC_DEVICES', `the saved VM has no device ${id}`);
    const pristine = await peer.info();
    checkConnected(id, peer, pristine, 'destination');
    checkUnused(id, peer, pristine);
    checkFits(id, saved.info, pristine);
    checkPlace(id, saved.place, await placeOf(this.#side.qemu, id));
    return restoringDevice(saved, peer, pristine, savedPaths.state(this.#options.folder, index));
  }

  async #load(): Promise<void> {
    const { qemu } = this.#side;
    const { ram } = this.#saved;
    const { signal } = this.#attempt;
    await setUp(this.#attempt, qemu, {}, this.#settings);
    // With -S forgotten the QEMU would run the guest as soon as it is loaded.
    await qemu.execute('stop');
    await Promise.all(this.#devices.map(({ destination }) => destination.hold(true)));
    const path = savedPaths.ram(this.#options.folder);
    await Promise.all([
      loadRam(qemu, path, ram.bytes, this.#timeouts.final, signal),
      ...this.#devices.map(async ({ destination, path: state }) => {
        await destination.setState(migrationState.RESUMING);
        await loadState(destination, state);
        // The whole of it is loaded and checked now.
        await destination.setState(migrationState.STOP);
      }),
    ]);
  }

  async #replay(): Promise<void> {
    const { ecamBase, cf8 } = this.#saved;
    await replay({
      timeline: new Timeline(),
      destinationPorts: new ConfigPorts(this.#side.qemu),
      ecamBase,
      cf8,
      devices: this.#devices,
      until: (work) => this.#attempt.until(work),
      all: (work) => this.#attempt.until(Promise.all(work)),
    });
  }

  async #verify(): Promise<void> {
    await verifyRestored({
      ecamBase: this.#saved.ecamBase,
      destination: this.#side.qemu,
      devices: this.#devices,
      warn: (message) => this.#warnings.push(message),
      until: (work) => this.#attempt.until(work),
      all: (work) => this.#attempt.until(Promise.all(work)),
    });
  }

  async #resume(): Promise<void> {
    this.#attempt.signal.throwIfAborted();
    // From here on it is too late to give up, unless this fails: until the devices are let go nothing gets out of the guest.
    if (this.#starts) await this.#side.qemu.execute('cont');
    this.#running = true;
    const released = await Promise.allSettled(this.#devices.map(release));
    await putBack(this.#side.qemu, this.#settings);
    const failed = this.#devices.filter((_device, index) => released[index]?.status === 'rejected');
    if (failed.length > 0)
      throw refusal(
        'VC_RELEASE',
        `device ${failed.map(({ id }) => id).join(', ')} could not be released`,
        'vfio-companion recover',
      );
  }
}

function restoringDevice(
  saved: SavedDevice,
  destination: DevicePeer,
  pristine: PeerInfo,
  path: string,
): RestoringDevice {
  const { id, address, info, msixTable } = saved;
  return {
    id,
    destination,
    address,
    told: undefined,
    pristine,
    frozen: info,
    msixTable,
    replayed: 0,
    replayPath: 'none',
    configCompared: null,
    configDifferences: [],
    msixTableEqual: null,
    stateEqual: null,
    saved,
    path,
  };
}
