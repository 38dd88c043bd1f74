/**
 * A guest with vfio-user devices that can be migrated there and back again: for test suites, scripts and
 * benchmarks. Starts everything, ends everything.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { MigrationReport } from '../report/types.ts';
import { temporaryFolder } from '../temporary-folder.ts';
import { GuestAgent } from './guest-agent.ts';
import { launchVm, type Vm } from './launch.ts';
import type { RestoreOptions, SaveOptions, SaveReport } from './saved/options.ts';
import { restoreVm } from './saved/restore.ts';
import { saveVm } from './saved/save.ts';
import { type ServedDevice, serveDevice } from './serve-device.ts';
import { migrate } from './switchover/migrate.ts';
import { type MigrateOptions, MigrationFailed } from './switchover/options.ts';
import type { VmDescription } from './vm-arguments.ts';

export interface TestbedDevice {
  readonly id: string;
  /** As in `vfio-companion serve MODEL`: a name, or the path of a module (from the working directory). */
  readonly model: string;
  /** Options of the model. */
  readonly set?: Readonly<Record<string, string | number | boolean>>;
  readonly bus?: string;
  readonly addr?: string;
  /** Another version of `vfio-companion` to serve it with (its main.js). */
  readonly program?: string;
  /** Further arguments of `vfio-companion serve`. */
  readonly args?: readonly string[];
}

export interface TestbedOptions {
  /** A VM that `Testbed.save` has saved, with the same `devices` and `vm`: it goes on instead of a guest that boots. */
  readonly saved?: string;
  readonly devices: readonly TestbedDevice[];
  /** Without `devices` and `incoming`, which the testbed sees to. */
  readonly vm?: Omit<VmDescription, 'devices' | 'incoming'>;
  /** Where RAM travels; default unix. */
  readonly transport?: 'unix' | 'tcp';
}

/** One side: a QEMU and the servers of its devices. */
export interface Side {
  readonly name: string;
  readonly vm: Vm;
  readonly servers: ReadonlyMap<string, ServedDevice>;
  close(): Promise<void>;
}

export type TestbedMigration = Partial<Omit<MigrateOptions, 'source' | 'destination' | 'devices'>> & {
  /** Prepared by `prepare()`; default: a fresh one. */
  readonly destination?: Side;
};

export type TestbedSave = Partial<Omit<SaveOptions, 'qmp' | 'devices' | 'folder'>>;

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** A guest on its way from side to side; see the top of this file. */
export class Testbed {
  /** Holds the sockets and logs of all sides, until `close`. */
  readonly folder: string;
  readonly options: TestbedOptions;
  /** The guest's control agent; follows the guest. */
  readonly agent: GuestAgent;
  readonly #sides = new Set<Side>();
  readonly #starting = new Set<Promise<Side>>();
  #current: Side;
  #hops = 0;

  private constructor(options: TestbedOptions, folder: string, source: Side) {
    this.options = options;
    this.folder = folder;
    this.#current = source;
    this.#sides.add(source);
    this.agent = new GuestAgent(source.vm.agentPath);
  }

  /**
   * Starts servers and QEMU of the first side, and waits for QEMU's monitor (not for the guest: see `agent.waitReady`).
   * @throws LaunchError, SetupError, CompanionError without a temporary folder, or as `restoreVm`; nothing is left behind then
   */
  static async start(options: TestbedOptions): Promise<Testbed> {
    const folder = temporaryFolder();
    try {
      const { saved } = options;
      const side = await startSide(options, folder, 0, saved !== undefined);
      const bed = new Testbed(options, folder, side);
      if (saved !== undefined) await bed.#restore(saved, side);
      return bed;
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** Where the guest runs. */
  get current(): Side {
    return this.#current;
  }

  /** Starts a side that waits for the guest. `overrides` replace what is said of devices, by id. */
  async prepare(overrides: Readonly<Record<string, Partial<TestbedDevice>>> = {}): Promise<Side> {
    this.#hops += 1;
    const devices = this.options.devices.map((device) => ({ ...device, ...overrides[device.id] }));
    const starting = startSide({ ...this.options, devices }, this.folder, this.#hops, true);
    this.#starting.add(starting);
    try {
      const side = await starting;
      this.#sides.add(side);
      return side;
    } finally {
      this.#starting.delete(starting);
    }
  }

  /** What `migrate` has to be given to take the guest from where it is to `destination`. */
  async migrateOptions(destination: Side): Promise<MigrateOptions> {
    const source = this.#current;
    const uri =
      this.options.transport === 'tcp'
        ? `tcp:127.0.0.1:${await freePort()}`
        : `unix:${join(this.folder, `${destination.name}.ram`)}`;
    return {
      source: { qmp: source.vm.migrationQmpPath, pid: source.vm.pid },
      destination: {
        qmp: destination.vm.migrationQmpPath,
        pid: destination.vm.pid,
        kill: () => destination.vm.kill(),
      },
      uri,
      devices: this.options.devices.map(({ id }) => ({
        id,
        source: source.servers.get(id)?.migrationSocket ?? '',
        destination: destination.servers.get(id)?.migrationSocket ?? '',
      })),
    };
  }

  /**
   * Migrates the guest to another side, which becomes the current one; the side that is left is ended. When
   * the migration fails the side that the guest does not run at is ended and the error thrown.
   * @throws as `migrate`; LaunchError when the other side can't be started
   */
  async migrate({ destination, ...options }: TestbedMigration = {}): Promise<MigrationReport> {
    const source = this.#current;
    const next = destination ?? (await this.prepare());
    try {
      const report = await migrate({ ...(await this.migrateOptions(next)), ...options });
      this.follow(next);
      await this.#end(source);
      return report;
    } catch (error) {
      tellFates(error, [source, next]);
      const moved = error instanceof MigrationFailed && error.outcome === 'migrated';
      if (moved) this.follow(next);
      if (this.#current === source) await this.#end(next);
      else if (moved) await this.#end(source);
      throw error;
    }
  }

  /**
   * Saves the guest to a folder that is not there yet. It stands still then, unless it is to go on (`resume`).
   * @throws as `saveVm`
   */
  async save(folder: string, options: TestbedSave = {}): Promise<SaveReport> {
    return saveVm({ ...oneSide(this.#current), folder, ...options });
  }

  async #restore(folder: string, side: Side): Promise<void> {
    try {
      await restoreVm({ ...oneSide(side), folder });
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** The guest runs at `side` now: after a migration that was made by hand. */
  follow(side: Side): void {
    this.#current = side;
    this.agent.attach(side.vm.agentPath);
  }

  /**
   * What there is and what it last said, for a test that has failed: each side's QEMU, guest console and device servers. Ask
   * before `close`, which removes the logs.
   */
  story(): string {
    return [...this.#sides].map((side) => sideStory(side, side === this.#current)).join('\n');
  }

  /** Ends all processes and removes all files, those of a side that is just being started, too. Idempotent. */
  async close(): Promise<void> {
    this.agent.close();
    await Promise.allSettled(this.#starting);
    await Promise.all([...this.#sides].map((side) => this.#end(side)));
    rmSync(this.folder, { recursive: true, force: true });
  }

  async #end(side: Side): Promise<void> {
    this.#sides.delete(side);
    await side.close();
  }
}

/** What `saveVm` and `restoreVm` have to be given of a side. */
function oneSide({ vm, servers }: Side): Pick<RestoreOptions, 'qmp' | 'devices'> {
  const devices = [...servers].map(([id, { migrationSocket }]) => ({ id, socket: migrationSocket }));
  return { qmp: vm.migrationQmpPath, devices };
}

/** Of a party that was killed the migration knows only that it is gone, and not always which one went first. */
function tellFates(error: unknown, sides: readonly Side[]): void {
  if (!(error instanceof Error)) return;
  const fates = sides.flatMap(({ name, vm, servers }) =>
    [vm, ...servers.values()].flatMap((process) => {
      const fate = process.fate();
      return fate === undefined ? [] : [`at ${name}: ${fate}`];
    }),
  );
  error.message = [error.message, ...fates].join('\n');
}

function sideStory({ name, vm, servers }: Side, current: boolean): string {
  const processes = [vm, ...servers.values()].map((process) => process.story());
  return [`${name}${current ? ', where the guest is' : ''}:`, ...processes].join('\n');
}

async function startSide(
  options: TestbedOptions,
  folder: string,
  number: number,
  incoming: boolean,
): Promise<Side> {
  const name = `side${number}`;
  const own = join(folder, name);
  mkdirSync(own, { mode: 0o700 });
  const started: { close(): Promise<void> }[] = [];
  const close = async (): Promise<void> => {
    // QEMU first: a server that goes away under a QEMU makes it complain.
    for (const each of started.reverse()) await each.close();
    started.length = 0;
  };
  try {
    const servers = new Map<string, ServedDevice>();
    const launched = await Promise.allSettled(
      options.devices.map(async ({ id, model, set, args, program }) => {
        const server = await serveDevice({
          model,
          name: id,
          folder: own,
          held: incoming,
          set,
          args,
          program,
        });
        started.push(server);
        servers.set(id, server);
      }),
    );
    for (const result of launched) if (result.status === 'rejected') throw result.reason;
    const devices = options.devices.map(({ id, bus, addr }) => ({
      id,
      socket: servers.get(id)?.socket ?? '',
      bus,
      addr,
    }));
    const description: VmDescription = {
      ...options.vm,
      devices,
      ...(incoming ? { incoming: 'defer' as const } : {}),
    };
    const vm = await launchVm(description, { folder: own, name: 'vm' });
    started.push(vm);
    return { name, vm, servers, close };
  } catch (error) {
    await close();
    throw error;
  }
}
