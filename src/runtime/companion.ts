import type { GuestMemory, MessageDma } from '../dma/types.ts';
import { quietEngine } from '../engine.ts';
import { errno, errnoOf, RequestError } from '../errors.ts';
import { migrationState } from '../migration/state.ts';
import type { ServedMigration } from '../transport/served-device.ts';
import { pageWindow } from '../vfio-user/page-window.ts';
import { type MarkOutcome, markPages, rehearseMarking } from './mark-pages.ts';
import { PageWindow, type PeekDirtyPages } from './page-window.ts';
import type { WindowPlace } from './shared-window.ts';
import { StateWindow } from './state-window.ts';

/** Counts the changes of the companion operations that an orchestrator has to know of; `info` tells it. */
export const companionProtocol = 2;

export interface DeviceRegisters {
  /** Configuration space as the client sees it. */
  readonly config: Uint8Array;
  /** Guest-physical address of each BAR, by number; null: none, or not assigned. */
  readonly addresses: readonly (number | null)[];
}

/** What the companion operations reach of a runtime; see docs/protocol-extensions.md. */
export interface CompanionTarget {
  info(): Record<string, unknown>;
  hold(on: boolean): void;
  reset(): void;
  fireVectors(): number;
  /** The device is at rest, and starts nothing more. */
  stopped(): void;
  /** Whether the guest lets the device do DMA. */
  readonly busMaster: boolean;
  /** What the guest has made of its registers. */
  registers(): DeviceRegisters;
  /** Where the guest has put the MSI-X table, if it can be accessed there. */
  msixTable(): { readonly address: number; readonly size: number } | undefined;
  /** The client on the device socket. */
  client(): MessageDma | undefined;
  /** Carries out what that client has sent while it was waited for. */
  settle(): void;
  readonly memory: GuestMemory;
  /** Pages written and not yet reported, by address; clears them. */
  takeDirtyPages(): Float64Array;
  /** Some of those pages, from an address on; see `DirtyTracker`. */
  readonly peekDirtyPages: PeekDirtyPages;
  dirtyPageEstimate(): number;
  /** The migration that the orchestrator drives. */
  migration(): ServedMigration | undefined;
  /** Operations of the model's own (a NIC's port, say). */
  modelOperation(op: string, request: Readonly<Record<string, unknown>>): unknown;
}

/** Outcomes of a DMA that was not answered by the client, well or ill. */
const unanswered: readonly number[] = [errno.ENOTCONN, errno.ETIMEDOUT, errno.ECANCELED];

/** A batch may not move more than this: it is answered in one message. */
const batchLimit = 512 * 1024;
const operationLimit = 4096;
/** Pages of one rehearsal: it holds the device up as marking does. */
const rehearsalLimit = 4096;
/** Pages of one look or touch: each may fault, and holds the device up while the guest runs. */
const lookLimit = 512;
const nsPerMicrosecond = 1000;

type Request = Readonly<Record<string, unknown>>;

interface BarrierOutcome {
  readonly errno: number;
  readonly msixTable?: Uint8Array;
}

/**
 * The operations that a switchover needs beyond the migration protocol, each one step that the orchestrator
 * can't do for itself: only the device's server can write guest memory so that QEMU notices.
 */
export class CompanionService {
  readonly #target: CompanionTarget;
  readonly #now: () => number;
  readonly #window = new StateWindow();
  readonly #pages: PageWindow;
  #wakeEngine: (() => void) | undefined;
  readonly #operations: Readonly<Record<string, (request: Request, sendReplies: () => void) => unknown>>;

  constructor(target: CompanionTarget, now: () => number) {
    this.#target = target;
    this.#now = now;
    this.#pages = new PageWindow(target.memory);
    this.#operations = {
      info: () => target.info(),
      hold: ({ on }) => target.hold(flag(on, 'on')),
      reset: () => target.reset(),
      barrier: () => this.#barrier(),
      rest: (request) => this.#rest(request),
      halt: () => this.#halt(),
      dma: (request) => this.#dma(request),
      quiet: ({ on }) => this.#quiet(flag(on, 'on')),
      markDirty: ({ keep }) => this.#markDirty(keep === undefined ? 0 : size(keep, pageWindow.maxSlots)),
      rehearseMarking: ({ pages }) =>
        this.#marked((client) => rehearseMarking(target.memory, client, size(pages, rehearsalLimit))),
      dirtyEstimate: () => ({ pages: target.dirtyPageEstimate() }),
      fireVectors: () => ({ fired: target.fireVectors() }),
      openPageWindow: (request) => this.#pages.open(place(request), size(request.slots, pageWindow.maxSlots)),
      closePageWindow: () => this.#pages.close(),
      lookAtPages: ({ from, slot, limit }) =>
        this.#timed(() =>
          this.#pages.look(target.peekDirtyPages, address(from), address(slot), size(limit, lookLimit)),
        ),
      touchPages: ({ slot, pages }) =>
        this.#timed(() => this.#pages.touch(address(slot), size(pages, lookLimit))),
      carryPages: (_request, sendReplies) => {
        // QEMU's last pass of RAM is waiting for one of them.
        sendReplies();
        return this.#timed(() => ({ pages: this.#pages.carry() }));
      },
      placePages: ({ pages }) => this.#timed(() => this.#pages.place(size(pages, pageWindow.maxSlots))),
      openStateWindow: (request) => this.#window.open(place(request)),
      closeStateWindow: () => this.#window.close(),
      readState: ({ offset, length }, sendReplies) => {
        // What was asked before it may be what a blackout waits for; this is not.
        sendReplies();
        return { length: this.#window.read(this.#migration(), address(offset), address(length)) };
      },
      writeState: ({ offset, length }) =>
        this.#window.write(this.#migration(), address(offset), address(length)),
    };
  }

  /** Carries out one request; throws `CompanionError` with the errno of the answer. */
  handle(request: unknown, sendReplies: () => void = () => undefined): unknown {
    if (typeof request !== 'object' || request === null || Array.isArray(request)) {
      throw new RequestError(errno.EINVAL, 'a companion request is a map with an "op"');
    }
    const given = request as Request;
    const { op } = given;
    if (typeof op !== 'string') throw new RequestError(errno.EINVAL, 'a companion request needs an "op"');
    // Most have nothing to tell but that they are done.
    if (Object.hasOwn(this.#operations, op)) return this.#operations[op]?.(given, sendReplies) ?? {};
    return this.#target.modelOperation(op, given);
  }

  /** Gives back what the orchestrator had opened; it is gone. */
  release(): void {
    this.#window.close();
    this.#pages.close();
    this.#quiet(false);
  }

  #quiet(on: boolean): void {
    if (on) this.#wakeEngine ??= quietEngine();
    else {
      this.#wakeEngine?.();
      this.#wakeEngine = undefined;
    }
  }

  #migration(): ServedMigration {
    const migration = this.#target.migration();
    if (migration) return migration;
    throw new RequestError(errno.EINVAL, "the device can't migrate");
  }

  #client(): MessageDma {
    const client = this.#target.client();
    if (client) return client;
    throw new RequestError(errno.ENOTCONN, 'no client is connected to the device socket', {
      hint: 'is QEMU still running?',
    });
  }

  /**
   * One DMA_READ: when it is answered, well or ill, everything the client had sent before has been executed. It is of the
   * MSI-X table, as the client holds it, where the guest lets the device reach that.
   */
  #barrier(): BarrierOutcome {
    const table = this.#reachableTable();
    const byte = this.#target.memory.regions()[0]?.iova ?? 0;
    const answer = this.#readOnce(table?.address ?? byte, table?.size ?? 1);
    // Where the table is may be among what has been executed now.
    const moved = this.#reachableTable();
    if (moved === undefined) return { errno: answer.errno };
    const { errno: value, bytes } =
      moved.address === table?.address ? answer : this.#readOnce(moved.address, moved.size);
    return { errno: value, ...(bytes && { msixTable: bytes }) };
  }

  /**
   * Brings the device to rest, as far as others may still write into it: parks its network ports, drains what the client has
   * sent, holds the device, moves it to its P2P state, if it has one, and drains the ports. One request, because each costs a blackout a tenth of a
   * millisecond at either end.
   */
  #rest({ park, state }: Request): BarrierOutcome & DeviceRegisters & { microseconds: number } {
    const target = this.#target;
    if (flag(park, 'park')) target.modelOperation('park', { on: true });
    const start = this.#now();
    const drained = this.#barrier();
    const microseconds = (this.#now() - start) / nsPerMicrosecond;
    target.hold(true);
    if (state !== undefined) this.#migration().setState(address(state));
    target.stopped();
    return { ...drained, microseconds, ...target.registers() };
  }

  /** To STOP_COPY, and how much state is left then. */
  #halt(): { dataSize: number } {
    const migration = this.#migration();
    migration.setState(migrationState.STOP_COPY);
    return { dataSize: migration.dataSize() };
  }

  #reachableTable(): ReturnType<CompanionTarget['msixTable']> {
    return this.#target.busMaster ? this.#target.msixTable() : undefined;
  }

  /** A DMA_READ, and behind it whatever the client had sent before it answered. */
  #readOnce(iova: number, length: number): { errno: number; bytes?: Uint8Array } {
    const bytes = Buffer.alloc(length);
    try {
      this.#client().read(iova, bytes);
      return { errno: 0, bytes };
    } catch (error) {
      const value = errnoOf(error);
      if (unanswered.includes(value)) throw error;
      return { errno: value };
    } finally {
      // Writes to BARs have only been received until now, and what follows stops the device.
      this.#target.settle();
    }
  }

  #dma({ operations }: Request): { results: { errno: number; bytes?: Uint8Array }[] } {
    if (!Array.isArray(operations) || operations.length > operationLimit) {
      throw new RequestError(errno.EINVAL, `"operations" is a list of at most ${operationLimit}`);
    }
    const client = this.#client();
    let budget = batchLimit;
    /** Of the first that was not answered: the others would be waited for in vain, too, each for its own time. */
    let silence = 0;
    const results = operations.map((given: unknown) => {
      const operation = record(given);
      const reading = operation.read !== undefined;
      const iova = address(reading ? operation.read : operation.write);
      const bytes = reading ? Buffer.alloc(size(operation.length, budget)) : blob(operation.bytes);
      budget -= bytes.length;
      if (budget < 0) throw new RequestError(errno.E2BIG, `one batch moves at most ${batchLimit} bytes`);
      if (silence !== 0) return { errno: silence };
      try {
        if (reading) client.read(iova, bytes);
        else client.write(iova, bytes);
        return reading ? { errno: 0, bytes } : { errno: 0 };
      } catch (error) {
        const value = errnoOf(error);
        if (value === errno.ENOTCONN) throw error;
        if (unanswered.includes(value)) silence = value;
        return { errno: value };
      }
    });
    return { results };
  }

  /**
   * Without Bus Master every page would be refused: the log is left as it is then, unless all are to be carried.
   * @param keep so many pages are left for `carryPages`
   */
  #markDirty(keep: number): MarkOutcome & { microseconds: number; deferred: boolean; kept: number } {
    const target = this.#target;
    if (!target.busMaster) {
      const dirty = target.dirtyPageEstimate();
      if (dirty > keep) {
        return { pages: 0, failed: 0, firstErrno: 0, microseconds: 0, deferred: true, kept: 0 };
      }
    }
    const pages = target.takeDirtyPages();
    const marked = this.#pages.keep(pages, keep);
    const kept = pages.length - marked.length;
    const outcome =
      marked.length === 0
        ? { pages: 0, failed: 0, firstErrno: 0, microseconds: 0 }
        : this.#marked((client) => markPages(target.memory, client, marked));
    return { ...outcome, deferred: false, kept };
  }

  #marked(mark: (client: MessageDma) => MarkOutcome): MarkOutcome & { microseconds: number } {
    const client = this.#client();
    return this.#timed(() => mark(client));
  }

  /** `work`, and what it took. */
  #timed<T>(work: () => T): T & { microseconds: number } {
    const start = this.#now();
    const done = work();
    return { ...done, microseconds: (this.#now() - start) / nsPerMicrosecond };
  }
}

function flag(value: unknown, name: string): boolean {
  if (typeof value === 'boolean') return value;
  throw new RequestError(errno.EINVAL, `"${name}" is true or false`);
}

function place({ pid, fd, size: bytes, token }: Request): WindowPlace {
  return { pid: address(pid), fd: address(fd), size: address(bytes), token: blob(token) };
}

function address(value: unknown): number {
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (typeof number === 'number' && Number.isSafeInteger(number) && number >= 0) return number;
  throw new RequestError(errno.EINVAL, 'an address is a whole number below 2^53');
}

function size(value: unknown, limit: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= limit) return value;
  throw new RequestError(errno.EINVAL, `a length is a whole number, at most ${limit} in one batch`);
}

function record(value: unknown): Request {
  if (typeof value === 'object' && value !== null) return value as Request;
  throw new RequestError(errno.EINVAL, 'an operation is a map with "read" or "write"');
}

function blob(value: unknown): Uint8Array {
  if (value instanceof Uint8Array) return value;
  throw new RequestError(errno.EINVAL, '"bytes" is binary data');
}
