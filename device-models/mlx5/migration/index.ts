import {
  type DeviceMigration,
  type PreCopySession,
  type StateRecord,
  StateRefused,
} from '../../../src/device/index.ts';
import type { CommandInterface } from '../command-interface.ts';
import type { Mlx5Core } from '../core.ts';
import { limits } from '../limits.ts';
import type { DeviceObject } from '../objects.ts';
import { byId, canonical } from './canonical.ts';
import { loadDevice, saveDevice, stateVersions } from './device-state.ts';
import { type ObjectCodec, objectCodecs, partsOf } from './objects.ts';
import { goneSection, Mlx5PreCopy, objectRecord, recordBytes } from './precopy.ts';
import { StateReader } from './reader.ts';

const idsSection = 'ids';
const progressSection = 'progress';
const deviceSection = 'device';
/** Bytes that the last records take in a typical state; only for estimates. */
const tailBytes = 4096;
/**
 * Flow groups and entries that may have arrived. More than there may be, for tables come one by one: some as they were
 * before their entries went to another, that one as it was after.
 */
const maxStagedParts = 4 * (limits.flowGroups + limits.flowEntries);

const tooManyFlows = 'too many flow groups or entries';

/** Saves and loads a whole device, object by object. */
export class Mlx5Migration implements DeviceMigration {
  readonly p2p = true;
  readonly geometry: Readonly<Record<string, number>>;
  readonly #core: Mlx5Core;
  readonly #commands: CommandInterface;
  readonly #byKind = new Map<string, ObjectCodec>(objectCodecs.map((codec) => [codec.kind, codec]));
  /** Objects that have arrived, by kind and id; nothing of the device changes before all are there. */
  #staged = new Map<string, Map<number, DeviceObject>>();
  #ids: StateReader | undefined;
  #progress: StateReader | undefined;
  #device: StateReader | undefined;
  #stagedParts = 0;
  #version: number = stateVersions.current;

  constructor(core: Mlx5Core, commands: CommandInterface) {
    this.#core = core;
    this.#commands = commands;
    this.geometry = { vectors: core.vectors };
  }

  estimate(): number {
    let bytes = tailBytes;
    for (const codec of objectCodecs) {
      for (const object of codec.table(this.#core).values()) bytes += recordBytes(codec, object);
    }
    return bytes;
  }

  *save(): Iterable<StateRecord> {
    for (const codec of objectCodecs) {
      for (const object of byId(codec.table(this.#core))) yield objectRecord(codec, object);
    }
    yield* this.#tail();
  }

  preCopy(): PreCopySession {
    return new Mlx5PreCopy(this.#core, () => this.#tail());
  }

  /** What is only true once the device stands still. */
  *#tail(): Iterable<StateRecord> {
    const ids: Record<string, number> = {};
    const progress: Record<string, unknown> = {};
    for (const codec of objectCodecs) {
      const table = codec.table(this.#core);
      ids[codec.kind] = table.next;
      const { progress: of } = codec;
      if (of === undefined) continue;
      progress[codec.kind] = byId(table).map((object) => ({ id: object.id, ...of(object) }));
    }
    yield { section: idsSection, value: ids };
    yield { section: progressSection, value: canonical(progress) };
    yield { section: deviceSection, value: canonical(saveDevice(this.#core, this.#commands)) };
  }

  beginLoad(version: number): void {
    this.#version = version;
    this.#staged = new Map(objectCodecs.map((codec) => [codec.kind, new Map<number, DeviceObject>()]));
    this.#ids = undefined;
    this.#progress = undefined;
    this.#device = undefined;
    this.#stagedParts = 0;
  }

  load(record: StateRecord): void {
    if (!('value' in record)) throw new StateRefused(`section ${record.section} can't be bulk`);
    const state = new StateReader(record.value, record.section);
    const codec = this.#byKind.get(record.section);
    if (codec !== undefined) this.#stage(codec, state);
    else if (record.section === goneSection) this.#forget(record.value);
    else if (record.section === idsSection) this.#ids = state;
    else if (record.section === progressSection) this.#progress = state;
    else if (record.section === deviceSection) this.#device = state;
    else throw new StateRefused(`the mlx5 model has no section "${record.section}"`);
  }

  #stage(codec: ObjectCodec, state: StateReader): void {
    const table = codec.table(this.#core);
    const id = this.#objectId(codec, state);
    const staged = this.#staged.get(codec.kind);
    if (staged === undefined) throw new StateRefused('a record came before the start of the state');
    const object = codec.load(this.#core, id, state);
    this.#stagedParts += partsOf(codec, object) - partsOf(codec, staged.get(id));
    staged.set(id, object);
    if (staged.size > table.limit) throw new StateRefused(`more than ${table.limit} of ${codec.kind}`);
    if (this.#stagedParts > maxStagedParts) throw new StateRefused(tooManyFlows);
  }

  #objectId(codec: ObjectCodec, state: StateReader): number {
    const id = state.uint('id', 32);
    if (!codec.table(this.#core).isId(id)) throw state.refuse('id', 'is out of range');
    return id;
  }

  #forget(value: unknown): void {
    const { kind, id } = value as { kind?: unknown; id?: unknown };
    const codec = typeof kind === 'string' ? this.#byKind.get(kind) : undefined;
    const staged = codec && this.#staged.get(codec.kind);
    if (codec === undefined || staged === undefined || typeof id !== 'number') {
      throw new StateRefused('a removal names no kind');
    }
    this.#stagedParts -= partsOf(codec, staged.get(id));
    staged.delete(id);
  }

  endLoad(): void {
    const ids = this.#ids;
    const progress = this.#progress;
    const device = this.#device;
    if (ids === undefined || progress === undefined || device === undefined) {
      throw new StateRefused('the state of the mlx5 model is not complete');
    }
    const core = this.#core;
    core.clearObjects();
    try {
      for (const codec of objectCodecs) this.#install(codec, ids, progress);
      const cycles = loadDevice(core, this.#commands, device, this.#version);
      this.#check();
      core.clock.freezeAt(cycles);
      core.objectsLoaded();
    } catch (error) {
      this.#discard();
      throw error;
    } finally {
      this.#staged.clear();
    }
  }

  /** A state that turned out bad half way leaves a device as after power-on, not half of one. */
  #discard(): void {
    const core = this.#core;
    core.clearObjects();
    core.function.reset();
    core.vport.reset();
    core.counters.clearAll();
    core.link.reported = core.link.up;
    core.sqs.failNext = false;
    this.#commands.reset();
  }

  #install(codec: ObjectCodec, ids: StateReader, progress: StateReader): void {
    const table = codec.table(this.#core);
    for (const object of this.#staged.get(codec.kind)?.values() ?? []) table.add(object);
    const next = ids.uint(codec.kind, 32);
    if (!table.isId(next)) throw ids.refuse(codec.kind, 'is out of range');
    table.next = next;
    if (codec.restore === undefined) return;
    const entries = progress.records(codec.kind, table.limit);
    const restored = new Set<DeviceObject>();
    for (const entry of entries) {
      const object = table.find(this.#objectId(codec, entry));
      if (object === undefined) throw entry.refuse('id', 'is no object');
      codec.restore(object, entry);
      restored.add(object);
    }
    if (restored.size !== table.size) throw progress.refuse(codec.kind, 'does not cover all objects');
  }

  /** What objects need of each other, and limits that span kinds. */
  #check(): void {
    const core = this.#core;
    for (const codec of objectCodecs) {
      for (const object of codec.table(core).values()) {
        codec.check?.(core, object, (what) => new StateRefused(`${codec.kind} ${object.id} ${what}`));
      }
    }
    const { root } = core.steering;
    if (root !== undefined && core.steering.tables.find(root) === undefined) {
      throw new StateRefused(`the root flow table ${root} does not exist`);
    }
    if (!core.steering.withinLimits()) throw new StateRefused(tooManyFlows);
  }
}
