/**
 * A VM with vfio-user devices, saved to a folder: what a migration would bring to its destination goes to files. The guest stands still from the
 * first to the last byte, so that nothing has to be sent twice, no page to be marked and no write to be logged.
 */
import { mkdtemp, open, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { CompanionError } from '../../errors.ts';
import { type Logger, silentLogger } from '../../log.ts';
import { ConfigPorts } from '../config-ports.ts';
import { type DevicePeer, noInfo, type PeerInfo } from '../device-peer.ts';
import { QmpConnectionError } from '../errors.ts';
import type { PciAddress } from '../pci-address.ts';
import type { QmpSession } from '../qmp.ts';
import { type ConnectedSide, connectSide } from '../side.ts';
import { bringToRest, takeTable } from '../switchover/at-rest.ts';
import { borrowBusMaster } from '../switchover/borrow.ts';
import { fenced } from '../switchover/fence.ts';
import { checkNamed } from '../switchover/inventory.ts';
import { checkIommu } from '../switchover/iommu.ts';
import { describeMachine, findEcam, type Machine } from '../switchover/machine.ts';
import { defaultTimeouts, type Timeouts } from '../switchover/options.ts';
import { addressOf, placeOf } from '../switchover/place.ts';
import { frozen, needsBusMaster } from '../switchover/registers.ts';
import { cancelMigration, resumeGuest, reviveDevice } from '../switchover/revive.ts';
import { refusal, type Setting, textAt } from '../switchover/run.ts';
import { apply, putBack } from '../switchover/settings.ts';
import {
  checkAddresses,
  checkBlockers,
  checkConnected,
  checkProtocol,
  checkRunning,
  checkSourceStatus,
} from '../switchover/side-checks.ts';
import { notWritten, sumUp, syncFile, writeState } from './files.ts';
import { manifestText, type SavedDevice, type SavedFile, savedPaths } from './manifest.ts';
import type { SaveOptions, SavePhase, SaveReport } from './options.ts';
import { ramCapabilities, unlimitedBandwidth, writeRam } from './ram.ts';

interface SavingDevice {
  readonly id: string;
  readonly peer: DevicePeer;
  /** The same for what undoes all; see `fenced`. */
  readonly unfenced: DevicePeer;
  info: PeerInfo;
  flags: number;
  address: PciAddress;
  place: string;
  frozen: PeerInfo | undefined;
  msixTable: Buffer | undefined;
}

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
  readonly #qemu: QmpSession;
  readonly #unfenced: QmpSession;
  readonly #ports: ConfigPorts;
  readonly #devices: SavingDevice[];
  readonly #givenUp = new AbortController();
  readonly #settings: Setting[] = [];
  readonly #cancel = (): void => this.#givenUp.abort(refusal('VC_CANCELLED', 'saving was cancelled'));
  readonly #never: Promise<never>;
  #draft: string | undefined;
  #wasRunning = false;
  #touched = false;
  #migrateSent = false;
  #giveBack: (() => Promise<void>) | undefined;

  constructor(options: SaveOptions, timeouts: Timeouts, side: ConnectedSide) {
    this.#options = options;
    this.#timeouts = timeouts;
    this.#log = options.log ?? silentLogger;
    const { signal } = this.#givenUp;
    this.#unfenced = side.qemu;
    this.#qemu = fenced<QmpSession>(side.qemu, signal, ['close', 'seen']);
    this.#ports = new ConfigPorts(this.#qemu);
    this.#devices = side.devices.map(({ id, peer }) => savingDevice(id, peer, signal));
    this.#never = new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason));
    });
    this.#never.catch(() => undefined);
    if (options.signal?.aborted === true) this.#cancel();
    else options.signal?.addEventListener('abort', this.#cancel, { once: true });
  }

  /** Nothing is listened to any more. */
  end(): void {
    this.#options.signal?.removeEventListener('abort', this.#cancel);
  }

  async save(): Promise<Omit<SaveReport, 'totalMs'>> {
    await this.#enter('check');
    const { machine, ecamBase } = await this.#until(this.#check());
    this.#draft = await this.#until(makeDraft(this.#options.folder));
    const draft = this.#draft;
    this.#touched = true;
    await this.#enter('stop');
    await this.#until(this.#stop());
    await this.#enter('rest');
    const cf8 = await this.#until(this.#rest());
    await this.#enter('write');
    const { ram, devices } = await this.#until(this.#write(draft));
    const { folder, resume = false } = this.#options;
    const { major, minor, micro } = this.#unfenced.version;
    await this.#until(
      writeManifest(draft, {
        savedAt: new Date().toISOString(),
        qemu: `${major}.${minor}.${micro}`,
        machine,
        wasRunning: this.#wasRunning,
        ecamBase,
        cf8,
        ram,
        devices,
      }),
    );
    // From here on there is a saved VM: nothing is undone any more.
    await rename(draft, folder).catch((error: unknown) => {
      throw notWritten(folder, error);
    });
    this.#draft = undefined;
    this.#touched = false;
    await this.#restoreSettings();
    if (resume) await this.#resume();
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
    const reason: unknown = this.#givenUp.signal.aborted ? this.#givenUp.signal.reason : cause;
    this.#givenUp.abort(reason);
    const troubles = this.#touched ? await this.#goOn() : [];
    if (this.#draft !== undefined) await rm(this.#draft, { recursive: true, force: true });
    if (troubles.length === 0 || !(reason instanceof CompanionError)) return reason;
    const lost = !this.#unfenced.open;
    return new CompanionError(reason.code, `${reason.message}; ${troubles.join('; ')}`, {
      errno: reason.errno,
      cause: reason,
      ...(lost ? {} : { hint: 'vfio-companion recover' }),
    });
  }

  async #goOn(): Promise<string[]> {
    const troubles: string[] = [];
    const attempt = async (what: string, work: Promise<unknown> | undefined): Promise<void> => {
      await work?.catch((error: unknown) => {
        if (!(error instanceof QmpConnectionError))
          troubles.push(`${what}: ${error instanceof Error ? error.message : String(error)}`);
      });
    };
    const qemu = this.#unfenced;
    await attempt('borrowed registers', this.#giveBack?.());
    const revived = await Promise.all(this.#devices.map((device) => this.#revive(device)));
    troubles.push(...revived.flat());
    if (this.#migrateSent) await attempt("QEMU's migration", cancelMigration(qemu, this.#timeouts.rollback));
    await attempt('migration settings', this.#restoreSettings());
    if (this.#wasRunning) await attempt('the guest', this.#run());
    if (!qemu.open) troubles.push('the QEMU is gone, and the guest with it');
    return troubles;
  }

  #revive({ id, unfenced, info }: SavingDevice): Promise<string[]> {
    return reviveDevice(id, unfenced, info.hasNet, this.#timeouts.command);
  }

  async #run(): Promise<void> {
    const status = await resumeGuest(this.#unfenced, this.#timeouts.rollback);
    if (status !== 'running') throw refusal('VC_SAVE', `it is in state "${status}" and does not resume`);
  }

  /** After success: what goes wrong now does no harm to what was saved. */
  async #resume(): Promise<void> {
    const troubles = (await Promise.all(this.#devices.map((device) => this.#revive(device)))).flat();
    if (troubles.length > 0)
      throw new CompanionError('VC_SAVE', `the VM is saved, but does not go on: ${troubles.join('; ')}`, {
        hint: 'vfio-companion recover --force',
      });
    if (this.#wasRunning) await this.#run();
  }

  async #restoreSettings(): Promise<void> {
    if (this.#unfenced.open) await putBack(this.#unfenced, this.#settings.splice(0));
  }

  async #until<T>(work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    return Promise.race([work, this.#never]);
  }

  async #enter(phase: SavePhase): Promise<void> {
    this.#log.debug({ phase }, 'saving');
    await this.#until(Promise.resolve(this.#options.onPhase?.(phase)));
  }

  async #check(): Promise<{ machine: Machine; ecamBase: number | undefined }> {
    const qemu = this.#qemu;
    checkSourceStatus(textAt(await qemu.execute('query-status'), 'status'));
    await checkBlockers(qemu);
    const ids = this.#devices.map(({ id }) => id);
    const wayOut = 'name it with its migration socket: it would be lost without an error';
    await checkNamed(qemu, 'the VM', ids, { is: 'not to be saved', wayOut });
    const machine = await describeMachine(qemu);
    await Promise.all(this.#devices.map((device) => this.#checkDevice(device)));
    await checkIommu(qemu, this.#devices);
    return { machine, ecamBase: await findEcam(qemu) };
  }

  async #checkDevice(device: SavingDevice): Promise<void> {
    const { id, peer } = device;
    const [info, flags, state] = await Promise.all([peer.info(), peer.migrationFlags(), peer.state()]);
    device.info = info;
    device.flags = flags;
    checkConnected(id, peer, info, 'source');
    checkProtocol(id, info);
    checkRunning(id, state);
    device.place = await placeOf(this.#qemu, id);
    await checkAddresses(this.#qemu, id, peer, this.#givenUp.signal);
  }

  /** The guest is stopped by us, and QEMU has what saving needs; whether it ran until then is what counts. */
  async #stop(): Promise<void> {
    const qemu = this.#qemu;
    const until = <T>(work: Promise<T>): Promise<T> => this.#until(work);
    await apply({ until }, qemu, ramCapabilities, unlimitedBandwidth, this.#settings);
    const before = qemu.lastEvent;
    await qemu.execute('stop');
    this.#wasRunning = qemu.seen('STOP', before) !== undefined;
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
    const path = savedPaths.ram(draft);
    const ram = (async () => {
      this.#migrateSent = true;
      await writeRam(this.#qemu, path, this.#timeouts.final, this.#givenUp.signal);
      await syncFile(path);
      return sumUp(path, this.#givenUp.signal);
    })();
    const states = this.#devices.map((device, index) =>
      writeState(device.peer, savedPaths.state(draft, index)),
    );
    const [ramFile, ...stateFiles] = await Promise.all([ram, ...states]);
    const devices = this.#devices.map((device, index): SavedDevice => {
      const { id, place, address, msixTable } = device;
      const state = stateFiles[index] ?? { bytes: 0, crc32: 0 };
      return { id, place, address, info: frozen(device), msixTable, state };
    });
    return { ram: ramFile, devices };
  }
}

function savingDevice(id: string, peer: DevicePeer, givenUp: AbortSignal): SavingDevice {
  return {
    id,
    peer: fenced(peer, givenUp),
    unfenced: peer,
    info: noInfo,
    flags: 0,
    address: { bus: -1, device: 0, function: 0 },
    place: '',
    frozen: undefined,
    msixTable: undefined,
  };
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
async function writeManifest(draft: string, vm: Parameters<typeof manifestText>[0]): Promise<void> {
  const path = savedPaths.manifest(draft);
  try {
    await writeFile(path, manifestText(vm), { mode: 0o600, flush: true });
    const folder = await open(draft, 'r');
    await folder.sync().finally(() => folder.close());
  } catch (error) {
    throw notWritten(path, error);
  }
}
