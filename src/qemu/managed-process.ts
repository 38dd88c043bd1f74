/**
 * Processes that belong to us: they die when we do, however we do, and tell what they last said.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { LaunchError } from './errors.ts';

export interface ProcessExit {
  readonly code: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
}

export interface SpawnOptions {
  /** For messages: "QEMU source", "device server ram". */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** Standard error goes here (and standard output, unless `onLine` is given). */
  readonly logPath: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Called with each line of standard output. */
  readonly onLine?: (line: string) => void;
}

/** util-linux's setpriv asks the kernel to kill the child when we die, SIGKILL of ourselves included. */
const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));

/** Where there is no setpriv, an orderly exit at least takes the children along. */
const alive = new Set<ManagedProcess>();
process.on('exit', () => {
  for (const each of alive) each.signal('SIGKILL');
});

/** A process of ours, started by `spawn`. */
export class ManagedProcess {
  readonly name: string;
  readonly pid: number;
  readonly logPath: string;
  /** Settles (never rejects) when the process has ended. */
  readonly exited: Promise<ProcessExit>;
  readonly #child: ChildProcess;
  #exit: ProcessExit | undefined;
  /** A signal was sent from here. */
  #signalled = false;

  private constructor(options: SpawnOptions, child: ChildProcess, pid: number) {
    this.name = options.name;
    this.pid = pid;
    this.logPath = options.logPath;
    this.#child = child;
    alive.add(this);
    this.exited = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        alive.delete(this);
        this.#exit = { code: code ?? undefined, signal: signal ?? undefined };
        resolve(this.#exit);
      });
    });
  }

  /** Starts a process. Throws `LaunchError` when there is no such program. */
  static async spawn(options: SpawnOptions): Promise<ManagedProcess> {
    const log = openSync(options.logPath, 'a', 0o600);
    try {
      const tied = setpriv === undefined ? [] : [setpriv, '--pdeathsig', 'KILL', '--'];
      const [file, ...args] = [...tied, options.command, ...options.args];
      if (file === undefined) throw new LaunchError('no program to start');
      const child = spawn(file, args, {
        stdio: ['ignore', options.onLine === undefined ? log : 'pipe', log],
        env: options.env,
        cwd: options.cwd,
      });
      if (options.onLine !== undefined && child.stdout !== null) splitLines(child.stdout, options.onLine);
      const started = new Promise<void>((resolve, reject) => {
        child.once('spawn', resolve);
        child.once('error', (error) => {
          const message = `can't start ${options.name} (${options.command}): ${error.message}`;
          reject(new LaunchError(message, undefined, error));
        });
      });
      const managed = child.pid === undefined ? undefined : new ManagedProcess(options, child, child.pid);
      await started;
      if (managed === undefined) throw new LaunchError(`${options.name} has no process id`);
      return managed;
    } finally {
      closeSync(log);
    }
  }

  get exit(): ProcessExit | undefined {
    return this.#exit;
  }

  /** The last lines of the log; what a person needs to see when the process has ended early. */
  tail(lines = 12): string {
    if (!existsSync(this.logPath)) return '';
    return readFileSync(this.logPath, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  }

  /** Why the process is no more, with its last words. */
  epitaph(): string {
    const how = this.#exit?.signal ?? `status ${this.#exit?.code ?? '?'}`;
    const why =
      this.#exit?.signal === 'SIGKILL' && !this.#signalled
        ? ', which did not come from here: had the machine, or its control group, no memory left?'
        : '';
    const said = this.tail();
    return `${this.name} (pid ${this.pid}) ended with ${how}${why}${said === '' ? '' : `:\n${said}`}`;
  }

  /** The same of one that was ended by a signal, but not from here. */
  fate(): string | undefined {
    return this.#exit?.signal !== undefined && !this.#signalled ? this.epitaph() : undefined;
  }

  /** Whether it runs, or how it has ended, with what it last said. */
  story(): string {
    if (this.#exit !== undefined) return this.epitaph();
    const said = this.tail();
    return `${this.name} (pid ${this.pid}) runs${said === '' ? '' : `:\n${said}`}`;
  }

  /** Sends a signal and does not wait. */
  signal(signal: NodeJS.Signals): void {
    if (this.#exit !== undefined) return;
    this.#signalled = true;
    this.#child.kill(signal);
  }

  /** Sends a signal and waits until the process is gone (SIGKILL after `graceMs`). Idempotent. */
  async kill(signal: NodeJS.Signals = 'SIGTERM', graceMs = 2000): Promise<ProcessExit> {
    if (this.#exit === undefined) {
      this.signal(signal);
      const late = setTimeout(() => this.#child.kill('SIGKILL'), graceMs);
      await this.exited;
      clearTimeout(late);
    }
    return this.exited;
  }
}

function splitLines(stream: NodeJS.ReadableStream, onLine: (line: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) onLine(line);
  });
  stream.on('error', () => undefined);
}
