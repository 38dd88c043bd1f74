import { limits } from '../limits.ts';
import { DeviceObject, ObjectTable } from '../objects.ts';
import { commandStatus } from '../prm/index.ts';
import { badParam, CommandRefused, inUse, require, syndrome } from '../refusal.ts';
import { Matcher, matchWords } from './match.ts';
import { MatchIndex } from './match-index.ts';

/** `flow_context.action` bits. */
export const flowAction = { ALLOW: 0x1, DROP: 0x2, FWD_DEST: 0x4, COUNT: 0x8 } as const;
/** `dest_format_struct.destination_type` (`MLX5_FLOW_DESTINATION_TYPE_*`). */
export const destinationType = { VPORT: 0, FLOW_TABLE: 1, TIR: 2 } as const;
/** `flow_table_context.table_miss_action`. */
export const missAction = { DEFAULT: 0, FWD: 1 } as const;
/** `table_type`: NIC receive is the only one that this function has. */
export const tableType = { NIC_RX: 0 } as const;

/** Where a frame is before the root table. */
const belowAllLevels = -1;

export interface Destination {
  readonly type: number;
  readonly id: number;
}

/** A range of a table's indices, and which bits its entries look at. */
export interface FlowGroup {
  readonly id: number;
  readonly start: number;
  readonly end: number;
  /** 16 words of `fte_match_set_lyr_2_4`; all zero matches everything. */
  readonly mask: Uint32Array;
}

export interface FlowEntry {
  readonly index: number;
  readonly groupId: number;
  readonly flowTag: number;
  readonly action: number;
  readonly destinations: readonly Destination[];
  readonly value: Uint32Array;
  readonly matcher: Matcher;
}

export function flowEntry(group: FlowGroup, from: Omit<FlowEntry, 'matcher'>): FlowEntry {
  return { ...from, matcher: new Matcher(group.mask, from.value) };
}

/** A flow table. Entries are kept in index order: the lowest that matches decides. */
export class FlowTable extends DeviceObject {
  readonly level: number;
  readonly logSize: number;
  missAction: number;
  missTable: number;
  readonly groups = new Map<number, FlowGroup>();
  readonly entries: FlowEntry[] = [];
  /** The same entries by group, to find those that a frame matches. */
  readonly #byGroup = new Map<number, MatchIndex<FlowEntry>>();
  nextGroup = 0;

  constructor(id: number, level: number, logSize: number, miss: { action: number; table: number }) {
    super(id);
    this.level = level;
    this.logSize = logSize;
    this.missAction = miss.action;
    this.missTable = miss.table;
  }

  setMiss(action: number, table: number): void {
    this.missAction = action;
    this.missTable = table;
    this.touch();
  }

  /** Position of the entry with `index`, or where it would be inserted as `-1 - position`. */
  #position(index: number): number {
    let low = 0;
    let high = this.entries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.entries[middle]?.index ?? 0) < index) low = middle + 1;
      else high = middle;
    }
    return this.entries[low]?.index === index ? low : -1 - low;
  }

  entryAt(index: number): FlowEntry | undefined {
    const position = this.#position(index);
    return position < 0 ? undefined : this.entries[position];
  }

  /** Adds or replaces an entry. */
  setEntry(entry: FlowEntry): void {
    const position = this.#position(entry.index);
    if (position < 0) this.entries.splice(-1 - position, 0, entry);
    else {
      this.#unlist(this.entries[position]);
      this.entries[position] = entry;
    }
    let group = this.#byGroup.get(entry.groupId);
    if (group === undefined) {
      group = new MatchIndex(entry.matcher);
      this.#byGroup.set(entry.groupId, group);
    }
    group.add(entry);
    this.touch();
  }

  #unlist(entry: FlowEntry | undefined): void {
    if (entry === undefined) return;
    const group = this.#byGroup.get(entry.groupId);
    if (group === undefined) return;
    group.remove(entry);
    // Another group with other bits may get the number.
    if (group.empty) this.#byGroup.delete(entry.groupId);
  }

  deleteEntry(index: number): void {
    const position = this.#position(index);
    if (position < 0) {
      throw new CommandRefused(commandStatus.BAD_RES_ERR, syndrome.noSuchObject, `no flow entry ${index}`);
    }
    this.#unlist(this.entries[position]);
    this.entries.splice(position, 1);
    this.touch();
  }

  /** @throws CommandRefused for a range outside the table or one that overlaps another group's */
  addGroup(start: number, end: number, mask: Uint32Array): FlowGroup {
    require(start <= end && end < 2 ** this.logSize, 'badRange', `flow group ${start} to ${end}`);
    for (const other of this.groups.values()) {
      if (start <= other.end && other.start <= end) {
        throw badParam('rangeOverlaps', `flow group ${start} to ${end} overlaps another`);
      }
    }
    while (this.groups.has(this.nextGroup)) this.nextGroup = (this.nextGroup + 1) % (2 * limits.flowGroups);
    const group = { id: this.nextGroup, start, end, mask };
    this.nextGroup = (this.nextGroup + 1) % (2 * limits.flowGroups);
    this.groups.set(group.id, group);
    this.touch();
    return group;
  }

  group(id: number): FlowGroup {
    const group = this.groups.get(id);
    if (group === undefined) {
      throw new CommandRefused(commandStatus.BAD_RES_ERR, syndrome.noSuchObject, `no flow group ${id}`);
    }
    return group;
  }

  /** Removes a group; refused while it has entries. */
  deleteGroup(id: number): void {
    this.group(id);
    if (this.entries.some((entry) => entry.groupId === id)) throw inUse(`flow group ${id}`, 'its entries');
    this.groups.delete(id);
    this.touch();
  }

  /** The entry of lowest index that `packet` matches. */
  lookup(packet: Uint32Array): FlowEntry | undefined {
    let found: FlowEntry | undefined;
    for (const group of this.#byGroup.values()) {
      const entry = group.first(packet);
      if (entry !== undefined && (found === undefined || entry.index < found.index)) found = entry;
    }
    return found;
  }
}

/** Where a frame ends up; reused. */
export class SteeringResult {
  readonly tirs: number[] = [];
  flowTag = 0;
  /** Whether an entry says that the frame ends here: it goes nowhere because a driver wants it so. */
  dropped = false;
}

/** All NIC receive flow tables and the root that every frame starts at. */
export class Steering {
  readonly tables = new ObjectTable<FlowTable>('flow_table', 1, limits.flowTables, 16 * limits.flowTables);
  /** Table id, or undefined while nothing is set up: every frame is dropped then. */
  root: number | undefined;
  readonly packet = new Uint32Array(matchWords);

  clear(): void {
    this.tables.clear();
    this.root = undefined;
  }

  /** Entries of all tables; bounds what a guest may make the device keep. */
  entryCount(): number {
    let count = 0;
    for (const table of this.tables.values()) count += table.entries.length;
    return count;
  }

  /** Groups of all tables; bounded as the entries are. */
  groupCount(): number {
    let count = 0;
    for (const table of this.tables.values()) count += table.groups.size;
    return count;
  }

  withinLimits(): boolean {
    return this.entryCount() <= limits.flowEntries && this.groupCount() <= limits.flowGroups;
  }

  /** Walks the tables for the frame described by `packet`, from the root, for a bounded number of hops. */
  steer(result: SteeringResult): void {
    result.tirs.length = 0;
    result.flowTag = 0;
    result.dropped = false;
    if (this.root !== undefined) this.#walk(this.root, result, limits.steeringHops, belowAllLevels);
  }

  /**
   * Only to higher levels: the commands see to that, but another table may have the id of one that is gone.
   * @param above the level that the frame comes from
   * @returns the hops left, so that a tree of tables is bounded as a whole
   */
  #walk(tableId: number, result: SteeringResult, hops: number, above: number): number {
    let next: number | undefined = tableId;
    let left = hops;
    let level = above;
    while (next !== undefined && left > 0) {
      left--;
      const table = this.tables.find(next);
      next = undefined;
      if (table === undefined || table.level <= level) return left;
      level = table.level;
      const entry = table.lookup(this.packet);
      if (entry === undefined) {
        if (table.missAction === missAction.FWD) next = table.missTable;
        continue;
      }
      if ((entry.action & flowAction.FWD_DEST) === 0) {
        result.dropped = true;
        return left;
      }
      if (entry.flowTag !== 0) result.flowTag = entry.flowTag;
      for (const destination of entry.destinations) {
        if (destination.type === destinationType.TIR) {
          if (result.tirs.length < limits.steeringCopies) result.tirs.push(destination.id);
        } else if (next === undefined) {
          next = destination.id;
        } else {
          left = this.#walk(destination.id, result, left, level);
        }
      }
    }
    return left;
  }
}
