/**
 * A QMP session (QEMU's `docs/interop/qmp-spec.rst`) over a UNIX or TCP socket: commands with deadlines,
 * HMP lines, events with their data and QEMU's time stamps.
 */
import { EventEmitter } from 'node:events';
import { notOursHint, reasonOf } from '../errors.ts';
import { startTimer } from '../start-timer.ts';
import { DeadlineError, QmpConnectionError, QmpError } from './errors.ts';
import { ForeignClock } from './foreign-clock.ts';
import { type BoxedReply, QmpSocket } from './qmp-socket.ts';

export interface QmpEvent {
  /** QEMU's name, upper case: "STOP", "MIGRATION" … */
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's own time of the event, microseconds since the epoch. */
  readonly timeUs: number;
  /** The same by the clock of this machine: QEMU may run on another one. */
  readonly localUs: number;
  /** Counts the events of this session from 1. */
  readonly sequence: number;
}

export interface QmpVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  readonly package: string;
}

/** "11.1.3" */
export function versionText({ major, minor, micro }: QmpVersion): string {
  return `${major}.${minor}.${micro}`;
}

/** Path of a UNIX socket, or a TCP port; `host` is 127.0.0.1 when left out. */
export type QmpAddress = string | { readonly host?: string; readonly port: number };

/** Deadlines, ms. */
export interface QmpOptions {
  /** For connecting, greeting and negotiation together; default 10 s. */
  readonly timeoutMs?: number;
  /** Deadline of a command that names none; default 10 s. */
  readonly commandTimeoutMs?: number;
}

export interface WaitOptions {
  readonly timeoutMs: number;
  /** Ends the wait, with its reason as the error. */
  readonly signal?: AbortSignal;
  /** Look also at events already seen with a sequence above this one. */
  readonly after?: number;
}

export interface ExecuteOptions {
  /** Default: the session's `commandTimeoutMs`. */
  readonly timeoutMs?: number;
  /** Beside all that wait, and whatever keeps QEMU's main loop from them; for the few commands that can be ("allow-oob" in QEMU's schema). */
  readonly outOfBand?: boolean;
}

interface QmpEvents {
  event: [QmpEvent];
  /** The session ended; `undefined`: by our own `close()`. */
  close: [QmpConnectionError | undefined];
}

interface Pending {
  readonly command: string;
  settle(error: Error): void;
}

/** Events kept for `waitFor({ after })`. */
const rememberedEvents = 256;
const defaultHost = '127.0.0.1';

function addressName(address: QmpAddress): string {
  return typeof address === 'string' ? address : `${address.host ?? defaultHost}:${address.port}`;
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function integer(value: unknown): number {
  return typeof value === 'number' && Number.isSafeInteger(value) ? value : 0;
}

function versionOf(greeting: unknown): QmpVersion {
  const version = record(record(greeting).version);
  const qemu = record(version.qemu);
  return {
    major: integer(qemu.major),
    minor: integer(qemu.minor),
    micro: integer(qemu.micro),
    package: typeof version.package === 'string' ? version.package : '',
  };
}

function eventOf(message: unknown, sequence: number, clock: ForeignClock): QmpEvent {
  const { event, data, timestamp } = record(message);
  const time = record(timestamp);
  const timeUs = integer(time.seconds) * 1e6 + integer(time.microseconds);
  return {
    name: typeof event === 'string' ? event : '',
    data: record(data),
    timeUs,
    localUs: clock.local(timeUs),
    sequence,
  };
}

/** For an address where nobody listens. */
const unheardHint = 'does QEMU run, started with -qmp unix:PATH,server=on,wait=off (or tcp:HOST:PORT,…)?';
/** By the error of a monitor that can't be connected to. */
const connectHints: Readonly<Record<string, string>> = {
  ENOENT: unheardHint,
  ECONNREFUSED: unheardHint,
  EACCES: notOursHint,
};

/**
 * One session with a QEMU's monitor. QEMU serves one client on each: give it a monitor that nobody else uses. Emits `event` for each
 * event of QEMU, and `close` once.
 */
export class Qmp extends EventEmitter<QmpEvents> {
  readonly address: string;
  readonly #socket: QmpSocket;
  readonly #commandTimeoutMs: number;
  readonly #pending = new Set<Pending>();
  readonly #recent: QmpEvent[] = [];
  readonly #clock = new ForeignClock();
  #version: QmpVersion = { major: 0, minor: 0, micro: 0, package: '' };
  #events = 0;
  /** Why the session ended; undefined while it lives or after our own `close()`. */
  #lost: QmpConnectionError | undefined;
  #closing = false;
  readonly #ended: Promise<void>;

  private constructor(address: QmpAddress, socket: QmpSocket, options: QmpOptions) {
    super();
    this.address = addressName(address);
    this.#socket = socket;
    this.#commandTimeoutMs = options.commandTimeoutMs ?? 10_000;
    this.setMaxListeners(0);
    this.#ended = new Promise((resolve) => socket.once('close', () => resolve()));
  }

  /** Connects and negotiates. Throws `QmpConnectionError` or `DeadlineError`. */
  static async connect(address: QmpAddress, options: QmpOptions = {}): Promise<Qmp> {
    const socket = new QmpSocket();
    const qmp = new Qmp(address, socket, options);
    const timeoutMs = options.timeoutMs ?? 10_000;
    await new Promise<void>((resolve, reject) => {
      const timer = startTimer(() => {
        const hint =
          'a QMP socket serves one client at a time, and a stopped (SIGSTOP) QEMU serves none: is someone else connected?';
        fail(new DeadlineError(`QMP greeting from ${qmp.address}`, timeoutMs, hint));
      }, timeoutMs);
      const fail = (error: Error): void => {
        timer.stop();
        socket.destroy();
        reject(error);
      };
      socket.handle({
        greeting: (greeting) => {
          qmp.#version = versionOf(greeting);
        },
        event: (message) => qmp.#event(message),
        garbage: (reason) => {
          const error = new QmpConnectionError(`${qmp.address} does not speak QMP: ${reason}`);
          fail(error);
          qmp.#end(error);
        },
      });
      const failed = (error: unknown): void => {
        const reason = reasonOf(error);
        const message = `can't connect to QMP at ${qmp.address}: ${reason}`;
        const { code } = error as NodeJS.ErrnoException;
        fail(new QmpConnectionError(message, connectHints[code ?? ''], error));
      };
      if (typeof address === 'string') socket.connect(address, () => undefined);
      else socket.connect(address.port, address.host ?? defaultHost, () => undefined);
      // The package drops all 'error' listeners once connected: ours must come after that.
      socket.on('error', failed);
      socket.once('connect', () => {
        socket.on('error', (error) =>
          qmp.#end(new QmpConnectionError(`QMP at ${qmp.address}: ${error.message}`)),
        );
      });
      socket.once('data', () => {
        timer.stop();
        resolve();
      });
      socket.once('close', () => {
        fail(new QmpConnectionError(`QMP at ${qmp.address} closed the connection before its greeting`));
        qmp.#end(new QmpConnectionError(`QMP at ${qmp.address} closed the connection`, 'QEMU has exited'));
      });
    });
    try {
      // The package has sent qmp_capabilities; this answer comes after it.
      await qmp.execute('query-version', undefined, { timeoutMs });
    } catch (error) {
      await qmp.close();
      throw error;
    }
    return qmp;
  }

  get version(): QmpVersion {
    return this.#version;
  }

  /** Sequence number of the last event; give it to `waitFor({ after })` before a command that causes one. */
  get lastEvent(): number {
    return this.#events;
  }

  get open(): boolean {
    return this.#lost === undefined && !this.#closing;
  }

  /** Runs a command and returns what QEMU answers; throws `QmpError` (refused), `DeadlineError` or `QmpConnectionError`. */
  execute(command: string, args?: object, options: ExecuteOptions = {}): Promise<unknown> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    if (this.#closing) return Promise.reject(new QmpConnectionError(`QMP at ${this.address} is closed`));
    const { outOfBand = false } = options;
    if (outOfBand && !this.#socket.takesOutOfBand)
      return Promise.reject(
        new QmpError(command, 'CommandNotFound', 'this monitor takes nothing out of band'),
      );
    const timeoutMs = options.timeoutMs ?? this.#commandTimeoutMs;
    return new Promise((resolve, reject) => {
      const timer = startTimer(() => {
        pending.settle(
          new DeadlineError(`QMP ${command} at ${this.address}`, timeoutMs, 'is QEMU stuck or stopped?'),
        );
      }, timeoutMs);
      const done = (): void => {
        timer.stop();
        this.#pending.delete(pending);
      };
      const pending: Pending = {
        command,
        settle: (error) => {
          done();
          reject(error);
        },
      };
      this.#pending.add(pending);
      const answered = (reply: BoxedReply): void => {
        done();
        if (reply.error === undefined) resolve(reply.return);
        else reject(new QmpError(command, String(reply.error.class), String(reply.error.desc)));
      };
      if (outOfBand) this.#socket.executeOutOfBand(command, args ?? null, answered);
      else this.#socket.execute(command, args ?? null, (_error, box) => answered(record(record(box).reply)));
    });
  }

  /**
   * Sends a command up to its last byte, which `execute` of the same command with the same arguments sends: for one that has to be quick.
   * QEMU's monitor reads a request byte by byte, five system calls for each, and acts when it is whole. Any other command
   * withdraws it. Does nothing on a session that has ended.
   */
  anticipate(command: string, args?: object): void {
    if (this.open) this.#socket.anticipate(command, args ?? null);
  }

  /** The first event of that name with a sequence above `after`, if it has come and is not forgotten. */
  seen(name: string, after: number): QmpEvent | undefined {
    return this.#recent.find((event) => event.sequence > after && event.name === name);
  }

  /** Runs a human monitor line; returns what it printed. HMP's own errors are plain text in there. Throws as `execute`. */
  async hmp(line: string, options: { timeoutMs?: number } = {}): Promise<string> {
    const text = await this.execute('human-monitor-command', { 'command-line': line }, options);
    return typeof text === 'string' ? text : '';
  }

  /**
   * Waits for an event that satisfies `predicate`. Call it before the command that causes the event, or
   * give `after`, which looks at the last 256 events. Throws `DeadlineError` or `QmpConnectionError`.
   */
  waitFor(name: string, predicate: (event: QmpEvent) => boolean, options: WaitOptions): Promise<QmpEvent> {
    const matches = (event: QmpEvent): boolean => event.name === name && predicate(event);
    const { after, signal, timeoutMs } = options;
    if (after !== undefined) {
      const seen = this.#recent.find((event) => event.sequence > after && matches(event));
      if (seen !== undefined) return Promise.resolve(seen);
    }
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    return new Promise((resolve, reject) => {
      const done = (): void => {
        timer.stop();
        this.off('event', onEvent);
        this.off('close', onClose);
        signal?.removeEventListener('abort', onAbort);
      };
      const onEvent = (event: QmpEvent): void => {
        if (!matches(event)) return;
        done();
        resolve(event);
      };
      const onClose = (error: QmpConnectionError | undefined): void => {
        done();
        reject(error ?? new QmpConnectionError(`QMP at ${this.address} is closed`));
      };
      const onAbort = (): void => {
        done();
        reject(signal?.reason);
      };
      const timer = startTimer(() => {
        done();
        reject(new DeadlineError(`QMP event ${name} at ${this.address}`, timeoutMs));
      }, timeoutMs);
      this.on('event', onEvent);
      this.on('close', onClose);
      if (signal?.aborted === true) onAbort();
      else signal?.addEventListener('abort', onAbort);
    });
  }

  /** Ends the session; commands under way fail. QEMU goes on. */
  async close(): Promise<void> {
    this.#end(undefined);
    await this.#ended;
  }

  #event(message: unknown): void {
    this.#events += 1;
    const event = eventOf(message, this.#events, this.#clock);
    this.#recent.push(event);
    if (this.#recent.length > rememberedEvents) this.#recent.shift();
    this.emit('event', event);
  }

  #end(error: QmpConnectionError | undefined): void {
    if (this.#closing || this.#lost !== undefined) return;
    if (error === undefined) this.#closing = true;
    else this.#lost = error;
    for (const pending of [...this.#pending]) {
      pending.settle(
        new QmpConnectionError(
          `${pending.command}: ${error?.message ?? `QMP at ${this.address} closed by us`}`,
          error?.hint,
        ),
      );
    }
    this.#socket.destroy();
    this.emit('close', error);
  }
}

/** What is used of a session. */
export type QmpSession = Pick<
  Qmp,
  'version' | 'lastEvent' | 'open' | 'execute' | 'anticipate' | 'hmp' | 'seen' | 'waitFor' | 'close'
>;
