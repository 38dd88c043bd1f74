/** Starts a device server process (`vfio-companion serve`); see `serveDevice`. */
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join, parse } from 'node:path';
import { checkoutRoot } from '../setup/index.ts';
import { startTimer, type Timer } from '../start-timer.ts';
import { temporaryFolder } from '../temporary-folder.ts';
import { LaunchError } from './errors.ts';
import { ManagedProcess, type ProcessExit } from './managed-process.ts';

export interface ServedDeviceOptions {
  /** As in `vfio-companion serve MODEL`: a name, or the path of a module (from the working directory). */
  readonly model: string;
  /** Default: the model's name, or that of its module without folder and extension. */
  readonly name?: string;
  /** Folder for sockets and log; left out: a temporary one, removed by `close()`. */
  readonly folder?: string;
  /** Options of the model (`--set`). */
  readonly set?: Readonly<Record<string, string | number | boolean>> | undefined;
  /** Start held: for the destination of a migration. */
  readonly held?: boolean;
  /** Another version of `vfio-companion` to run (its main.js); default this one. */
  readonly program?: string | undefined;
  /** Further arguments of `serve`. */
  readonly args?: readonly string[] | undefined;
  /** Environment variables beside our own. */
  readonly env?: Readonly<Record<string, string>>;
  /** Deadline for its ready line; default 30 s. */
  readonly timeoutMs?: number;
}

export interface ServedDevice {
  readonly name: string;
  readonly folder: string;
  readonly pid: number;
  /** For QEMU. */
  readonly socket: string;
  /** For `migrate`. */
  readonly migrationSocket: string;
  readonly exited: Promise<ProcessExit>;
  readonly exit: ProcessExit | undefined;
  log(): string;
  /** For failures: whether the server runs or how it has ended, with its last messages. */
  story(): string;
  /** How it was ended by a signal that did not come from here, if it was, as by a machine without memory. */
  fate(): string | undefined;
  /** Sends a signal to the server and waits for its end (SIGKILL after 2 s). Default SIGKILL. */
  kill(signal?: NodeJS.Signals): Promise<ProcessExit>;
  /** Ends the server and removes the folder if we made it. Idempotent. */
  close(): Promise<void>;
}

/** The program: `$VFIO_COMPANION_CLI`, else this checkout's build. */
function program(): string {
  const named = process.env.VFIO_COMPANION_CLI;
  const path = named !== undefined && named !== '' ? named : join(checkoutRoot(), 'dist/src/cli/main.js');
  if (!existsSync(path)) throw new LaunchError(`there is no ${path}`, 'run npm run build');
  return path;
}

/**
 * Starts a device server in a process of its own and waits until both its sockets listen. The process dies with ours.
 * @throws LaunchError with its last words when it ends early or is not ready in time
 */
export async function serveDevice(options: ServedDeviceOptions): Promise<ServedDevice> {
  const name = options.name ?? parse(options.model).name;
  const made = options.folder === undefined;
  const folder = options.folder ?? temporaryFolder();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const cleanup = (): void => {
    if (made) rmSync(folder, { recursive: true, force: true });
  };
  const socket = join(folder, `${name}.sock`);
  const migrationSocket = join(folder, `${name}.migration`);
  const settings = Object.entries(options.set ?? {}).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
  const timeoutMs = options.timeoutMs ?? 30_000;
  let server: ManagedProcess | undefined;
  let timer: Timer | undefined;
  try {
    let markReady: () => void = () => undefined;
    const ready = new Promise<void>((resolve) => {
      markReady = resolve;
    });
    server = await ManagedProcess.spawn({
      name: `device server ${name}`,
      command: process.execPath,
      args: [
        options.program ?? program(),
        'serve',
        options.model,
        ...['--socket', socket, '--migration-socket', migrationSocket],
        ...settings,
        ...(options.held === true ? ['--held'] : []),
        ...(options.args ?? []),
      ],
      logPath: join(folder, `${name}.log`),
      env: { ...process.env, ...options.env },
      onLine: (line) => {
        if (line.includes('"ready"')) markReady();
      },
    });
    const running = server;
    const late = new Promise<never>((_resolve, reject) => {
      timer = startTimer(() => {
        const hint = running.tail() || 'has the machine too much to do? start fewer at a time';
        reject(new LaunchError(`${running.name}: not ready within ${timeoutMs} ms`, hint));
      }, timeoutMs);
    });
    const ended = running.exited.then(() => {
      throw new LaunchError(running.epitaph());
    });
    ended.catch(() => undefined);
    await Promise.race([ready, late, ended]);
    return {
      name,
      folder,
      pid: running.pid,
      socket,
      migrationSocket,
      exited: running.exited,
      get exit() {
        return running.exit;
      },
      log: () => readFileSync(running.logPath, 'utf8'),
      story: () => running.story(),
      fate: () => running.fate(),
      kill: (signal = 'SIGKILL') => running.kill(signal),
      async close() {
        await running.kill('SIGTERM');
        cleanup();
      },
    };
  } catch (error) {
    await server?.kill('SIGKILL');
    cleanup();
    throw error;
  } finally {
    timer?.stop();
  }
}
