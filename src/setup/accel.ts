import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
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
}

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
  const folder = mkdtempSync(join(tmpdir(), 'vfio-companion-probe-'));
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
    if (result.timedOut) return { works: false, reason: `a guest did not boot within ${limitMs / 1000} s` };
    const said = result.stderr.trim().split('\n').at(-1) ?? '';
    return {
      works: false,
      reason: said === '' ? `QEMU ended with ${result.exitCode ?? result.signal}` : said,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The answer of an earlier probe, if it was of this QEMU and this boot of the machine. */
interface Remembered {
  readonly boot: string;
  readonly qemu: string;
  readonly kvm: AcceleratorProbe;
}

/**
 * Whether KVM runs a guest. The answer is remembered in the cache folder until the next boot; `fresh` asks
 * again.
 */
export async function probeKvm(qemu: Qemu, kernel: GuestKernel, fresh = false): Promise<AcceleratorProbe> {
  const file = join(cacheRoot(), 'accelerator.json');
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  const id = `${qemu.command} ${qemu.version} uid ${process.getuid?.() ?? ''}`;
  if (!fresh) {
    const known = remembered(file);
    if (known?.boot === boot && known.qemu === id) return known.kvm;
  }
  const kvm = await tryAccelerator(qemu, kernel, 'kvm');
  remember(file, { boot, qemu: id, kvm });
  return kvm;
}

function remember(file: string, answer: Remembered): void {
  const draft = `${file}.${process.pid}`;
  try {
    mkdirSync(dirname(file), { recursive: true });
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
    const { boot, qemu, kvm } = value;
    return boot === undefined || qemu === undefined || typeof kvm?.works !== 'boolean'
      ? undefined
      : { boot, qemu, kvm };
  } catch {
    return undefined;
  }
}
