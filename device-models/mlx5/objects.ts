import { commandStatus } from './prm/index.ts';
import { CommandRefused, syndrome } from './refusal.ts';

/**
 * Something that the guest's driver created. `revision` grows with each change of what a save of it contains (not
 * with the progress of a queue, which travels separately), so that a precopy knows what to send again.
 */
export class DeviceObject {
  readonly id: number;
  revision = 0;

  constructor(id: number) {
    this.id = id;
  }

  touch(): void {
    this.revision++;
  }
}

/** All objects of one kind, by id. Ids are handed out in a circle, so that one just freed is not reused at once. */
export class ObjectTable<T extends DeviceObject> {
  readonly kind: string;
  readonly first: number;
  readonly limit: number;
  readonly #span: number;
  readonly #items = new Map<number, T>();
  /** Where the search for a free id goes on; travels with a migration. */
  next: number;

  /**
   * @param kind for messages and as the name of the saved section
   * @param first lowest id
   * @param limit most objects at a time
   * @param span ids `[first, first + span)` are used
   */
  constructor(kind: string, first: number, limit: number, span: number = limit) {
    this.kind = kind;
    this.first = first;
    this.limit = limit;
    this.#span = Math.max(limit, span);
    this.next = first;
  }

  get size(): number {
    return this.#items.size;
  }

  values(): IterableIterator<T> {
    return this.#items.values();
  }

  find(id: number): T | undefined {
    return this.#items.get(id);
  }

  /** The object, or a refusal of the command that names it. */
  get(id: number): T {
    const item = this.#items.get(id);
    if (item === undefined) {
      throw new CommandRefused(
        commandStatus.BAD_RES_ERR,
        syndrome.noSuchObject,
        `${this.kind} 0x${id.toString(16)} does not exist`,
      );
    }
    return item;
  }

  /** A free id; refuses with LIM_ERR when the limit is reached. */
  allocate(): number {
    if (this.#items.size >= this.limit) {
      throw new CommandRefused(
        commandStatus.LIM_ERR,
        syndrome.tooManyObjects,
        `more than ${this.limit} of ${this.kind}`,
      );
    }
    let id = this.next;
    while (this.#items.has(id)) id = this.#following(id);
    this.next = this.#following(id);
    return id;
  }

  #following(id: number): number {
    return this.first + ((id - this.first + 1) % this.#span);
  }

  /** Whether `id` is one that this table could have handed out. */
  isId(id: unknown): id is number {
    return typeof id === 'number' && Number.isInteger(id) && id >= this.first && id < this.first + this.#span;
  }

  add(item: T): T {
    this.#items.set(item.id, item);
    return item;
  }

  delete(id: number): T {
    const item = this.get(id);
    this.#items.delete(id);
    return item;
  }

  clear(): void {
    this.#items.clear();
    this.next = this.first;
  }
}
