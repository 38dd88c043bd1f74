/** Starts a QEMU from a typed description; see `launchVm`. */
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { longestSocketPath } from '../posix/index.ts';
import { locateKernel, locateQemu, probeAccelerator } from '../setup/index.ts';
import { shorterFolderHint, temporaryFolder } from '../temporary-folder.ts';
import { LaunchError, QmpConnectionError } from './errors.ts';
import { GuestAgent } from './guest-agent.ts';
import { ManagedProcess, type ProcessExit } from './managed-process.ts';
import { Qmp } from './qmp.ts';
import { type ResolvedVm, type VmDescription, vmArguments } from './vm-arguments.ts';

export interface LaunchOptions {
  /** Folder for sockets, logs and file-backed memory. Left out: a temporary one, removed by `close()`. */
  readonly folder?: string;
  /** For messages and logs; default "vm". */
  readonly name?: string;
  /** Deadline for QEMU's monitor to answer; default 60 s. */
  readonly timeoutMs?: number;
}

export interface Vm {
  readonly name: string;
  readonly folder: string;
  readonly pid: number;
  /** A session of our own on the first monitor. */
  readonly qmp: Qmp;
  /** The second monitor's socket, for `migrate`. */
  readonly migrationQmpPath: string;
  readonly agentPath: string;
  readonly consolePath: string;
  readonly description: VmDescription;
  readonly exited: Promise<ProcessExit>;
  /** Undefined while QEMU runs. */
  readonly exit: ProcessExit | undefined;
  /** The guest's control agent, on this VM's second serial port; made on first use, ended by `close()`. */
  agent(): GuestAgent;
  /** What the guest's console has printed so far. */
  consoleLog(): string;
  /** QEMU's own messages. */
  log(): string;
  /** For failures: whether QEMU runs or how it has ended, its last messages, and the last lines of the guest's console. */
  story(): string;
  /** How QEMU was ended by a signal that did not come from here, if it was, as by a machine without memory. */
  fate(): string | undefined;
  /** Sends a signal to QEMU and waits for its end (SIGKILL after 2 s). Default SIGKILL. */
  kill(signal?: NodeJS.Signals): Promise<ProcessExit>;
  /** Ends QEMU if it still runs and removes the folder if we made it. Idempotent. */
  close(): Promise<void>;
}

/**
 * Starts a stock QEMU with vfio-user devices and waits until its monitor answers. The process dies with ours.
 * @throws LaunchError with QEMU's own words when it ends early or its monitor does not answer in time; SetupError when there is no
 *   QEMU, or no guest to boot
 */
export async function launchVm(description: VmDescription, options: LaunchOptions = {}): Promise<Vm> {
  const name = options.name ?? 'vm';
  const made = options.folder === undefined;
  const folder = options.folder ?? temporaryFolder();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const cleanup = (): void => {
    if (made) rmSync(folder, { recursive: true, force: true });
  };
  try {
    const resolved = await resolve(description, folder, name);
    for (const path of [resolved.qmpPath, resolved.migrationQmpPath, resolved.agentPath]) {
      checkLength(path);
      rmSync(path, { force: true });
    }
    const qemu = await locateQemu();
    const logPath = join(folder, `${name}.log`);
    const process = await ManagedProcess.spawn({
      name: `QEMU ${name}`,
      command: qemu.command,
      args: [...qemu.args, ...vmArguments(description, resolved)],
      logPath,
    });
    try {
      const qmp = await connectWhenUp(process, resolved.qmpPath, options.timeoutMs ?? 60_000);
      return vmObject(description, resolved, process, qmp, folder, name, cleanup);
    } catch (error) {
      await process.kill('SIGKILL');
      throw error;
    }
  } catch (error) {
    cleanup();
    throw error;
  }
}

async function resolve(description: VmDescription, folder: string, name: string): Promise<ResolvedVm> {
  const wanted = description.accel ?? 'auto';
  const accel = wanted === 'auto' ? await probeAccelerator() : wanted;
  const guest =
    description.boot === undefined || description.boot === 'guest' ? await locateKernel() : undefined;
  const own = typeof description.boot === 'object' ? description.boot : undefined;
  return {
    accel,
    kernel: own?.kernel ?? guest?.boot,
    initrd: own?.initrd ?? guest?.initrd,
    qmpPath: join(folder, `${name}.qmp`),
    migrationQmpPath: join(folder, `${name}.qmp2`),
    consolePath: join(folder, `${name}.console`),
    agentPath: join(folder, `${name}.agent`),
    memoryPath: join(folder, `${name}.ram`),
  };
}

/** How much of the guest's console a story has. */
const consoleLines = 6;

/** QEMU's own message for it comes late and short. */
function checkLength(path: string): void {
  const length = Buffer.byteLength(path);
  if (length > longestSocketPath)
    throw new LaunchError(
      `socket path too long (${length} bytes, at most ${longestSocketPath}): ${path}`,
      shorterFolderHint(path),
    );
}

async function connectWhenUp(process: ManagedProcess, path: string, timeoutMs: number): Promise<Qmp> {
  const deadline = Date.now() + timeoutMs;
  const gone = process.exited.then(() => {
    throw new LaunchError(process.epitaph());
  });
  gone.catch(() => undefined);
  for (;;) {
    if (existsSync(path)) {
      // The socket listens before the devices are made, the greeting comes after: a generous deadline.
      const session = Qmp.connect(path, { timeoutMs: Math.max(deadline - Date.now(), 1000) });
      session.catch(() => undefined);
      try {
        return await Promise.race([gone, session]);
      } catch (error) {
        // Between QEMU's bind and its listen a connection is refused.
        if (!(error instanceof QmpConnectionError) || Date.now() > deadline) throw error;
      }
    }
    if (Date.now() > deadline)
      throw new LaunchError(`${process.name}: no monitor within ${timeoutMs} ms`, process.tail());
    await Promise.race([gone, new Promise((done) => setTimeout(done, 10))]);
  }
}

function vmObject(
  description: VmDescription,
  resolved: ResolvedVm,
  process: ManagedProcess,
  qmp: Qmp,
  folder: string,
  name: string,
  cleanup: () => void,
): Vm {
  let agent: GuestAgent | undefined;
  const text = (path: string): string => (existsSync(path) ? readFileSync(path, 'utf8') : '');
  return {
    name,
    folder,
    pid: process.pid,
    qmp,
    migrationQmpPath: resolved.migrationQmpPath,
    agentPath: resolved.agentPath,
    consolePath: resolved.consolePath,
    description,
    exited: process.exited,
    get exit() {
      return process.exit;
    },
    agent() {
      agent ??= new GuestAgent(resolved.agentPath);
      return agent;
    },
    consoleLog: () => text(resolved.consolePath),
    log: () => text(process.logPath),
    story() {
      const console = text(resolved.consolePath).trimEnd().split(/\r?\n/).slice(-consoleLines).join('\n');
      return console === ''
        ? process.story()
        : `${process.story()}\nits guest's console ends with:\n${console}`;
    },
    fate: () => process.fate(),
    kill: (signal = 'SIGKILL') => process.kill(signal),
    async close() {
      agent?.close();
      await qmp.close();
      await process.kill('SIGKILL');
      cleanup();
    },
  };
}
