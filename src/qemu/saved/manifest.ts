/** `vm.json` of a saved VM: all that is neither RAM nor device state. What stands in it is checked as anything that comes from a file. */
import { join } from 'node:path';
import { CompanionError, notOursHint } from '../../errors.ts';
import { field, listAt } from '../answers.ts';
import type { PeerInfo } from '../device-peer.ts';
import type { PciAddress } from '../pci-address.ts';
import type { Machine } from '../switchover/machine.ts';
import { openFile } from './files.ts';

const manifestName = 'vm.json';
const format = 'vfio-companion saved VM';
const formatVersion = 1;
/** Of a file that is read whole: thousands of devices would fit. */
const longestManifest = 64 * 1024 * 1024;
const configBytes = 256;
const largestConfigBytes = 4096;
/** As many vectors as MSI-X has, 16 bytes each. */
const longestTable = 2048 * 16;

/** A file beside the manifest. */
export interface SavedFile {
  readonly bytes: number;
  /** Of what is in it; see `settle`. */
  readonly crc32: number;
}

export interface SavedDevice {
  readonly id: string;
  /** As `placeOf` tells it. */
  readonly place: string;
  readonly address: PciAddress;
  /** What the device looked like when it was at rest. */
  readonly info: PeerInfo;
  readonly msixTable: Buffer | undefined;
  readonly state: SavedFile;
}

export interface SavedVm {
  /** ISO 8601. */
  readonly savedAt: string;
  /** Version of the QEMU that it ran in. */
  readonly qemu: string;
  readonly machine: Machine;
  readonly wasRunning: boolean;
  /** Guest-physical address of the ECAM window; undefined: none. */
  readonly ecamBase: number | undefined;
  /** The guest's 0xCF8. */
  readonly cf8: number;
  readonly ram: SavedFile;
  readonly devices: readonly SavedDevice[];
}

/** Where the parts of a saved VM are. Names of files do not come from the manifest, nor from ids. */
export const savedPaths = {
  manifest: (folder: string): string => join(folder, manifestName),
  ram: (folder: string): string => join(folder, 'ram'),
  state: (folder: string, index: number): string => join(folder, `device${index}.state`),
} as const;

/** The manifest's text. */
export function manifestText(vm: SavedVm): string {
  const devices = vm.devices.map(({ info, msixTable, ...device }) => ({
    ...device,
    info: { ...info, config: info.config.toString('base64') },
    msixTable: msixTable?.toString('base64'),
  }));
  return `${JSON.stringify({ format, version: formatVersion, ...vm, devices }, undefined, 2)}\n`;
}

/** @throws CompanionError (VC_SAVED_VM) where there is no saved VM, or not one of ours */
export async function readManifest(folder: string): Promise<SavedVm> {
  const path = savedPaths.manifest(folder);
  let text: string;
  try {
    const file = await openFile(path);
    const bytes = await file.readFile().finally(() => file.close());
    if (bytes.length > longestManifest) throw noSavedVm(folder, `${manifestName} is too long`);
    text = bytes.toString('utf8');
  } catch (error) {
    if (error instanceof CompanionError) throw error;
    const reason = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    if (reason === 'EACCES')
      throw new CompanionError('VC_SAVED_VM', `${path} can't be read: ${reason}`, {
        hint: notOursHint,
        cause: error,
      });
    throw noSavedVm(folder, `its ${manifestName} can't be read (${reason})`, error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw noSavedVm(folder, `its ${manifestName} is not JSON`, error);
  }
  if (field(value, 'format') !== format) throw noSavedVm(folder, `its ${manifestName} is something else's`);
  const version = field(value, 'version');
  if (version !== formatVersion)
    throw new CompanionError('VC_SAVED_VM', `${folder} is a saved VM of version ${String(version)}`, {
      hint: `this vfio-companion reads version ${formatVersion}: restore it with the one that has saved it`,
    });
  return new Reader(folder).vm(value);
}

function noSavedVm(folder: string, why: string, cause?: unknown): CompanionError {
  return new CompanionError('VC_SAVED_VM', `there is no saved VM in ${folder}: ${why}`, {
    hint: 'give the folder that `save` was given',
    cause,
  });
}

type Path = readonly string[];

/** Takes a parsed manifest apart. */
class Reader {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  vm(value: unknown): SavedVm {
    const ecamBase = field(value, 'ecamBase');
    return {
      savedAt: this.#text(value, 'savedAt'),
      qemu: this.#text(value, 'qemu'),
      machine: {
        type: this.#text(value, 'machine', 'type'),
        processors: this.#whole(value, 'machine', 'processors'),
        baseMemory: this.#whole(value, 'machine', 'baseMemory'),
        pluggedMemory: this.#whole(value, 'machine', 'pluggedMemory'),
      },
      wasRunning: this.#truth(value, 'wasRunning'),
      ecamBase: ecamBase === undefined ? undefined : this.#whole(value, 'ecamBase'),
      cf8: this.#whole(value, 'cf8'),
      ram: this.#file(value, 'ram'),
      devices: listAt(value, 'devices').map((device) => this.#device(device)),
    };
  }

  #device(value: unknown): SavedDevice {
    const info = this.#info(field(value, 'info'));
    const table = field(value, 'msixTable');
    return {
      id: this.#text(value, 'id'),
      place: this.#text(value, 'place'),
      address: {
        // -1: its bus has no number.
        bus: field(value, 'address', 'bus') === -1 ? -1 : this.#below(0x100, value, 'address', 'bus'),
        device: this.#below(0x20, value, 'address', 'device'),
        function: this.#below(8, value, 'address', 'function'),
      },
      info,
      msixTable: table === undefined ? undefined : this.#bytes(longestTable, value, 'msixTable'),
      state: this.#file(value, 'state'),
    };
  }

  #info(value: unknown): PeerInfo {
    const config = this.#bytes(largestConfigBytes, value, 'config');
    if (config.length < configBytes) this.#wrong(['info', 'config']);
    const msix = field(value, 'msix');
    const stateFormat = field(value, 'stateFormat');
    return {
      protocol: this.#whole(value, 'protocol'),
      model: this.#text(value, 'model'),
      stateVersion: this.#whole(value, 'stateVersion'),
      ...(stateFormat === undefined ? {} : { stateFormat: this.#stateFormat(stateFormat) }),
      config,
      bars: listAt(value, 'bars').map((bar) => ({
        index: this.#below(6, bar, 'index'),
        kind: this.#text(bar, 'kind'),
        size: this.#whole(bar, 'size'),
        address: field(bar, 'address') === null ? null : this.#whole(bar, 'address'),
      })),
      msix:
        msix === undefined
          ? undefined
          : {
              vectors: this.#whole(msix, 'vectors'),
              table: {
                bar: this.#below(6, msix, 'table', 'bar'),
                offset: this.#whole(msix, 'table', 'offset'),
              },
              enabled: this.#truth(msix, 'enabled'),
            },
      clientConnected: this.#truth(value, 'clientConnected'),
      held: this.#truth(value, 'held'),
      state: this.#whole(value, 'state'),
      hasNet: this.#truth(value, 'hasNet'),
    };
  }

  #stateFormat(value: unknown): NonNullable<PeerInfo['stateFormat']> {
    const geometry = field(value, 'geometry');
    if (typeof geometry !== 'object' || geometry === null) return this.#wrong(['stateFormat', 'geometry']);
    const entries = Object.entries(geometry).filter((entry): entry is [string, number | string | boolean] =>
      ['number', 'string', 'boolean'].includes(typeof entry[1]),
    );
    return {
      loadsVersions: listAt(value, 'loadsVersions').map((each) => this.#whole({ each }, 'each')),
      geometry: Object.fromEntries(entries),
      frameworkVersion: this.#whole(value, 'frameworkVersion'),
    };
  }

  #file(value: unknown, name: string): SavedFile {
    return { bytes: this.#whole(value, name, 'bytes'), crc32: this.#whole(value, name, 'crc32') };
  }

  #text(value: unknown, ...path: Path): string {
    const found = field(value, ...path);
    return typeof found === 'string' ? found : this.#wrong(path);
  }

  #truth(value: unknown, ...path: Path): boolean {
    const found = field(value, ...path);
    return typeof found === 'boolean' ? found : this.#wrong(path);
  }

  #whole(value: unknown, ...path: Path): number {
    return this.#below(Number.MAX_SAFE_INTEGER, value, ...path);
  }

  #below(limit: number, value: unknown, ...path: Path): number {
    const found = field(value, ...path);
    if (typeof found !== 'number' || !Number.isSafeInteger(found) || found < 0 || found >= limit)
      return this.#wrong(path);
    return found;
  }

  #bytes(most: number, value: unknown, ...path: Path): Buffer {
    const bytes = Buffer.from(this.#text(value, ...path), 'base64');
    return bytes.length <= most ? bytes : this.#wrong(path);
  }

  #wrong(path: Path): never {
    throw new CompanionError(
      'VC_SAVED_VM',
      `the saved VM in ${this.#folder} is damaged: ${path.join('.')} in ${manifestName} is missing or wrong`,
    );
  }
}
