/**
 * A VM with vfio-user devices, saved to a folder: what a migration would bring to its destination goes to files. The guest stands still from the
 * first to the last byte, so that nothing has to be sent twice, no page to be marked and no write to be logged.
 */
import { mkdtemp, open, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { CompanionError, reasonOf } from '../../errors.ts';
import { type Logger, silentLogger } from '../../log.ts';
import { ConfigPorts } from '../config-ports.ts';
import { QmpConnectionError, refusal } from '../errors.ts';
import { type QmpSession, versionText } from '../qmp.ts';
import { type ConnectedSide, connectSide, watchSide } from '../side.ts';
import { bringToRest, takeTable } from '../switchover/at-rest.ts';
import { borrowBusMaster } from '../switchover/borrow.ts';
import { fenced } from '../switchover/fence.ts';
import { defaultTimeouts, type Timeouts } from '../switchover/options.ts';
import { addressOf } from '../switchover/place.ts';
import { frozen, needsBusMaster } from '../switchover/registers.ts';
import { cancelMigration, resumeGuest, reviveDevice } from '../switchover/revive.ts';
import type { Setting } from '../switchover/run.ts';
import { putBack } from '../switchover/settings.ts';
import { suspendedMeanwhile } from '../switchover/side-checks.ts';
import { Attempt } from './attempt.ts';
import { notWritten, settle, writeState } from './files.ts';
import { manifestText, type SavedDevice, type SavedFile, type SavedVm, savedPaths } from './manifest.ts';
import type { SaveOptions, SavePhase, SaveReport } from './options.ts';
import { setUp, unlimitedBandwidth, writeRam } from './ram.ts';
import { checkSource, type SavingDevice, savingDevice } from './source.ts';

/**
 * Saves a running or paused VM to a folder that is not there yet, from which `restoreVm` starts it again, as often as one likes.
 *
 * Whatever fails, the cancel signal included, leaves the guest as it was and no folder. After success it stands still, with its devices held, as after a
 * migration, unless it was to go on.
 *
 * @throws CompanionError: VC_SAVE where the folder can't be written, the codes of `migrate` where the VM can't be moved. The message says so if
 *   the guest does not go on after a failure
 */
export async function saveVm(options: SaveOptions): Promise<SaveReport> {
  const started = performance.now();
  const folder = resolve(options.folder);
  await checkNew(folder);
  const timeouts = { ...defaultTimeouts, ...options.timeouts };
  const side = await connectSide(options.qmp, options.devices, timeouts, options.connectDevice);
  const saving = new Saving({ ...options, folder }, timeouts, side);
  try {
    return { ...(await saving.save()), totalMs: performance.now() - started };
  } catch (error) {
    throw await saving.undo(error);
  } finally {
    saving.end();
    await side.close();
  }
}

async function checkNew(folder: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined);
  if (found !== undefined)
    throw refusal('VC_SAVE', `there is a ${folder} already`, 'give a folder that is not there yet');
  const above = await stat(dirname(folder)).catch(() => undefined);
  if (above?.isDirectory() !== true)
    throw refusal('VC_SAVE', `there is no folder ${dirname(folder)}`, 'make it, or give another place');
}

/** One VM on its way into a folder. */
class Saving {
  readonly #options: SaveOptions;
  readonly #timeouts: Timeouts;
  readonly #log: Logger;
  readonly #attempt: Attempt;
  readonly #qemu: QmpSession;
  readonly #unfenced: QmpSession;
  readonly #ports: ConfigPorts;
  readonly #devices: SavingDevice[];
  readonly #settings: Setting[] = [];
  #draft: string | undefined;
  #wasRunning = false;
  #touched = false;
  #migrateSent = false;
  #giveBack: (() => Promise<void>) | undefined;

  constructor(options: SaveOptions, timeouts: Timeouts, side: ConnectedSide) {
    this.#options = options;
    this.#timeouts = timeouts;
    this.#log = options.log ?? silentLogger;
    this.#attempt = new Attempt('saving', options.signal);
    const { signal } = this.#attempt;
    this.#unfenced = side.qemu;
    this.#qemu = fenced<QmpSession>(side.qemu, signal, ['close', 'seen']);
    this.#ports = new ConfigPorts(this.#qemu);
    this.#devices = side.devices.map(({ id, peer }) => savingDevice(id, peer, signal));
    watchSide(side, (error) => this.#attempt.fail(error));
  }

  /** Nothing is listened to any more. */
  end(): void {
    this.#attempt.end();
  }

  async save(): Promise<Omit<SaveReport, 'totalMs'>> {
    const attempt = this.#attempt;
    const { folder, resume = false } = this.#options;
    await this.#enter('check');
    const about = await attempt.until(checkSource(this.#qemu, this.#devices, attempt.signal));
    const draft = await makeDraft(folder);
    this.#draft = draft;
    this.#touched = true;
    await this.#enter('stop');
    await attempt.until(this.#stop());
    await this.#enter('rest');
    const cf8 = await attempt.until(this.#rest());
    await this.#enter('write');
    const { ram, devices } = await attempt.until(this.#write(draft));
    const found = { qemu: versionText(this.#unfenced.version), wasRunning: this.#wasRunning, cf8 };
    const savedAt = new Date().toISOString();
    await attempt.until(writeManifest(draft, { savedAt, ...about, ...found, ram, devices }));
    await rename(draft, folder).catch((error: unknown) => {
      throw notWritten(folder, error);
    });
    // There is a saved VM: nothing is undone any more.
    attempt.commit();
    this.#draft = undefined;
    this.#touched = false;
    await this.#restoreSettings();
    if (resume) {
      await this.#enter('resume');
      await this.#resume();
    }
    await this.#enter('done');
    return {
      folder,
      ramBytes: ram.bytes,
      devices: devices.map(({ id, info, state }) => ({ id, model: info.model, stateBytes: state.bytes })),
      wasRunning: this.#wasRunning,
      resumed: resume && this.#wasRunning,
    };
  }

  /** Has the guest go on as before; returns what to tell of `cause`. */
  async undo(cause: unknown): Promise<unknown> {
    const reason = this.#attempt.reasonFor(cause);
    const troubles = this.#touched ? await this.#goOn() : [];
    if (this.#draft !== undefined) await rm(this.#draft, { recursive: true, force: true });
    if (troubles.length === 0 || !(reason instanceof CompanionError)) return reason;
    return new CompanionError(reason.code, `${reason.message}; ${troubles.join('; ')}`, {
      errno: reason.errno,
      cause: reason,
      ...(this.#unfenced.open ? { hint: 'vfio-companion recover' } : {}),
    });
  }

  async #goOn(): Promise<string[]> {
    const troubles: string[] = [];
    const attempt = async (what: string, work: Promise<unknown> | undefined): Promise<void> => {
      await work?.catch((error: unknown) => {
        if (!(error instanceof QmpConnectionError)) troubles.push(`${what}: ${reasonOf(error)}`);
      });
    };
    const qemu = this.#unfenced;
    await attempt('borrowed registers', this.#giveBack?.());
    // The devices first: a guest that goes on may be waiting for them.
    troubles.push(...(await this.#reviveDevices()));
    if (this.#migrateSent) await attempt("QEMU's migration", cancelMigration(qemu, this.#timeouts.rollback));
    await attempt('migration settings', this.#restoreSettings());
    if (this.#wasRunning) await attempt('the guest', this.#run());
    if (!qemu.open) troubles.push('the QEMU is gone, and the guest with it');
    return troubles;
  }

  async #reviveDevices(): Promise<string[]> {
    const revive = ({ id, unfenced, info }: SavingDevice): Promise<string[]> =>
      reviveDevice(id, unfenced, info.hasNet, this.#timeouts.command);
    return (await Promise.all(this.#devices.map(revive))).flat();
  }

  async #run(): Promise<void> {
    const status = await resumeGuest(this.#unfenced, this.#timeouts.rollback);
    if (status !== 'running') throw refusal('VC_SAVE', `it is in state "${status}" and does not resume`);
  }

  /** After success: what goes wrong now does no harm to what was saved. */
  async #resume(): Promise<void> {
    const troubles = await this.#reviveDevices();
    if (troubles.length > 0)
      throw new CompanionError('VC_SAVE', `the VM is saved, but does not go on: ${troubles.join('; ')}`, {
        hint: 'vfio-companion recover --force',
      });
    if (this.#wasRunning) await this.#run();
  }

  async #restoreSettings(): Promise<void> {
    if (this.#unfenced.open) await putBack(this.#unfenced, this.#settings.splice(0));
  }

  async #enter(phase: SavePhase): Promise<void> {
    this.#log.debug({ phase }, 'saving');
    await this.#attempt.until(Promise.resolve(this.#options.onPhase?.(phase)));
  }

  /** The guest is stopped by us, and QEMU has what saving needs; whether it ran until then is what counts. */
  async #stop(): Promise<void> {
    const qemu = this.#qemu;
    await setUp(this.#attempt, qemu, unlimitedBandwidth, this.#settings);
    const before = qemu.lastEvent;
    await qemu.execute('stop');
    this.#wasRunning = qemu.seen('STOP', before) !== undefined;
    if (qemu.seen('SUSPEND', 0) !== undefined) throw suspendedMeanwhile('saved');
  }

  /** @returns the guest's 0xCF8 */
  async #rest(): Promise<number> {
    const devices = this.#devices;
    await Promise.all(
      devices.map(async (device) => {
        const rested = await bringToRest(device.peer, device.info, device.flags, false);
        device.frozen = rested.frozen;
        device.address = await addressOf(this.#qemu, device.id);
        takeTable(device, rested);
      }),
    );
    // All have to be in their P2P state before one leaves it, for they may write into each other.
    await Promise.all(devices.map(({ peer }) => peer.halt()));
    const cf8 = await this.#ports.save();
    const borrowing = devices.filter(needsBusMaster);
    if (borrowing.length > 0) await this.#readBorrowing(borrowing);
    return cf8;
  }

  /** Reads the tables of devices whose Bus Master the guest has off. */
  async #readBorrowing(devices: readonly SavingDevice[]): Promise<void> {
    const ports = { ports: this.#ports, back: new ConfigPorts(this.#unfenced) };
    const note = (giveBack: () => Promise<void>): void => {
      this.#giveBack = giveBack;
    };
    const read = async (device: SavingDevice): Promise<void> => {
      device.msixTable = (await device.peer.barrier()).msixTable;
    };
    await borrowBusMaster(ports, devices, note, () => Promise.all(devices.map(read)));
  }

  async #write(draft: string): Promise<{ ram: SavedFile; devices: SavedDevice[] }> {
    const { signal } = this.#attempt;
    const path = savedPaths.ram(draft);
    const ram = async (): Promise<SavedFile> => {
      this.#migrateSent = true;
      await writeRam(this.#qemu, path, this.#timeouts.final, signal);
      return settle(path, signal);
    };
    const device = async (each: SavingDevice, index: number): Promise<SavedDevice> => {
      const { id, place, address, msixTable } = each;
      const state = await writeState(each.peer, savedPaths.state(draft, index));
      return { id, place, address, info: frozen(each), msixTable, state };
    };
    const [ramFile, devices] = await Promise.all([ram(), Promise.all(this.#devices.map(device))]);
    return { ram: ramFile, devices };
  }
}

/** A folder of its own beside the one that is wanted, which it becomes in the end. */
async function makeDraft(folder: string): Promise<string> {
  try {
    return await mkdtemp(`${folder}.part-`);
  } catch (error) {
    throw notWritten(folder, error);
  }
}

/** Last of all, and all on disk: where it stands, the VM is whole. */
async function writeManifest(draft: string, vm: SavedVm): Promise<void> {
  const path = savedPaths.manifest(draft);
  try {
    await writeFile(path, manifestText(vm), { mode: 0o600, flush: true });
    const folder = await open(draft, 'r');
    await folder.sync().finally(() => folder.close());
  } catch (error) {
    throw notWritten(path, error);
  }
}
