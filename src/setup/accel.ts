import { closeSync, fstatSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { temporaryFolder } from '../temporary-folder.ts';
import { makeFolders } from './folders.ts';
import type { GuestKernel } from './image.ts';
import { cacheRoot } from './paths.ts';
import type { Qemu } from './qemu.ts';

/** What runs the guest's instructions. */
export type Accelerator = 'kvm' | 'tcg';

/** What became of a guest that was run to see whether an accelerator works. */
export interface AcceleratorProbe {
  readonly works: boolean;
  /** Why not, in one line. */
  readonly reason?: string;
  /** It may work: the machine may only have been busy. */
  readonly timedOut?: true;
}

export const kvmDevice = '/dev/kvm';
const deadlineMs = 10_000;
/** Printed by the guest's own set-up when user space is up. */
const readyLine = 'vc: guest is ready';

/**
 * Boots our guest under `accelerator` and sees whether it reaches user space and powers off before a
 * deadline. Nothing less will do: there are hosts where `/dev/kvm` opens, and where firmware and real-mode
 * code run, and where a stock kernel then hangs.
 * @param limitMs deadline; a guest under KVM needs one or two seconds
 */
export async function tryAccelerator(
  qemu: Qemu,
  kernel: GuestKernel,
  accelerator: Accelerator,
  limitMs = deadlineMs,
): Promise<AcceleratorProbe> {
  const folder = temporaryFolder('vfio-companion-probe-');
  try {
    const log = join(folder, 'console.log');
    const machine = ['-M', 'q35', '-accel', accelerator, '-cpu', 'max', '-m', '256', '-nodefaults'];
    const quiet = ['-display', 'none', '-no-reboot', '-serial', `file:${log}`];
    const append = 'console=ttyS0 quiet panic=-1 vc_noprobe=1 vc_poweroff=1';
    const boot = ['-kernel', kernel.boot, '-initrd', kernel.initrd, '-append', append];
    const result = await execa(qemu.command, [...qemu.args, ...machine, ...quiet, ...boot], {
      reject: false,
      stdin: 'ignore',
      timeout: limitMs,
      killSignal: 'SIGKILL',
    });
    if (result.exitCode === 0 && readFileSync(log, 'utf8').includes(readyLine)) return { works: true };
    if (result.timedOut) {
      return { works: false, reason: `a guest did not boot within ${limitMs / 1000} s`, timedOut: true };
    }
    const said = result.stderr.trim().split('\n').at(-1) ?? '';
    return {
      works: false,
      reason: said === '' ? `QEMU ended with ${result.exitCode ?? result.signal}` : said,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The answer of an earlier probe, if it was of this QEMU, this device file and this boot of the machine. */
interface Remembered {
  readonly boot: string;
  readonly qemu: string;
  readonly device: string;
  readonly kvm: AcceleratorProbe;
}

export interface KvmProbeOptions {
  /** Ask again, whatever is remembered. */
  readonly fresh?: boolean;
  readonly device?: string;
  readonly limitMs?: number;
}

/** Time-outs of this process by what was asked, so that one that starts many guests waits for one only. */
const timeouts = new Map<string, AcceleratorProbe>();

/**
 * Whether KVM runs a guest. The answer is remembered in the cache folder until the next boot, that of a
 * time-out only by this process. A device file that is not there or may not be opened needs no guest.
 */
export async function probeKvm(
  qemu: Qemu,
  kernel: GuestKernel,
  options: KvmProbeOptions = {},
): Promise<AcceleratorProbe> {
  const { fresh = false, device = kvmDevice, limitMs } = options;
  const opened = openDevice(device);
  if (opened.number === undefined) return { works: false, reason: opened.reason };
  const asked = {
    boot: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    qemu: `${qemu.command} ${qemu.version} uid ${process.getuid?.() ?? ''}`,
    device: `${device} ${opened.number}`,
  };
  const key = Object.values(asked).join('\n');
  const file = join(cacheRoot(), 'accelerator.json');
  if (!fresh) {
    const known = remembered(file);
    if (known?.boot === asked.boot && known.qemu === asked.qemu && known.device === asked.device) {
      return known.kvm;
    }
    const timeout = timeouts.get(key);
    if (timeout !== undefined) return timeout;
  }
  const kvm = await tryAccelerator(qemu, kernel, 'kvm', limitMs);
  if (kvm.timedOut) timeouts.set(key, kvm);
  else {
    timeouts.delete(key);
    remember(file, { ...asked, kvm });
  }
  return kvm;
}

/** The number of a device file that this process may read and write, or why it may not. */
function openDevice(path: string): { number: number } | { number?: undefined; reason: string } {
  try {
    // Not `access`: the file may be there for a module that is not, or that finds no such processor.
    const file = openSync(path, 'r+');
    try {
      return { number: fstatSync(file).rdev };
    } finally {
      closeSync(file);
    }
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    return { reason: code === 'ENOENT' ? `there is no ${path}` : `${path} cannot be opened: ${code}` };
  }
}

function remember(file: string, answer: Remembered): void {
  const draft = `${file}.${process.pid}`;
  try {
    makeFolders(dirname(file));
    try {
      writeFileSync(draft, JSON.stringify(answer));
      renameSync(draft, file);
    } finally {
      rmSync(draft, { force: true });
    }
  } catch {
    // A cache that we only read, or a full disk: the next one asks again, which costs seconds and nothing else.
  }
}

function remembered(file: string): Remembered | undefined {
  try {
    const value = JSON.parse(readFileSync(file, 'utf8')) as Partial<Remembered>;
    const { boot, qemu, device, kvm } = value;
    return boot === undefined || qemu === undefined || device === undefined || typeof kvm?.works !== 'boolean'
      ? undefined
      : { boot, qemu, device, kvm };
  } catch {
    return undefined;
  }
}
