import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { cacheRoot } from './paths.ts';
import type { Qemu } from './qemu.ts';

/** What runs the guest's instructions. */
export type Accelerator = 'kvm' | 'tcg';

/** What became of a tiny guest that was run to see whether an accelerator works. */
export interface AcceleratorProbe {
  readonly works: boolean;
  /** Why not, in one line. */
  readonly reason?: string;
}

const deadlineMs = 10_000;
const romBytes = 64 * 1024;
const resetVector = romBytes - 16;
const debugExitPort = 0xf4;
const token = 0x2a;
/** isa-debug-exit ends QEMU with `value << 1 | 1`. */
const expectedStatus = (token << 1) | 1;

/** A firmware whose only act, at the x86 reset vector, is `mov al, token; out port, al; hlt`. */
export function probeFirmware(): Uint8Array {
  const rom = new Uint8Array(romBytes).fill(0xf4);
  rom.set([0xb0, token, 0xe6, debugExitPort, 0xf4], resetVector);
  return rom;
}

/**
 * Runs three guest instructions under `accelerator` and sees whether they have their effect before a
 * deadline. That `/dev/kvm` exists and can be opened does not say so: nested or emulated set-ups hang.
 */
export async function tryAccelerator(qemu: Qemu, accelerator: Accelerator): Promise<AcceleratorProbe> {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-companion-probe-'));
  try {
    const rom = join(folder, 'rom.bin');
    writeFileSync(rom, probeFirmware());
    const args = [
      '-M',
      'pc',
      '-accel',
      accelerator,
      '-m',
      '16',
      '-nodefaults',
      '-display',
      'none',
      '-no-reboot',
    ];
    const exit = ['-device', `isa-debug-exit,iobase=${debugExitPort},iosize=1`, '-bios', rom];
    const result = await execa(qemu.command, [...qemu.args, ...args, ...exit], {
      reject: false,
      stdin: 'ignore',
      timeout: deadlineMs,
      killSignal: 'SIGKILL',
    });
    if (result.exitCode === expectedStatus) return { works: true };
    if (result.timedOut)
      return { works: false, reason: `a guest made no progress in ${deadlineMs / 1000} s` };
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
export async function probeKvm(qemu: Qemu, fresh = false): Promise<AcceleratorProbe> {
  const file = join(cacheRoot(), 'accelerator.json');
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  const id = `${qemu.command} ${qemu.version} uid ${process.getuid?.() ?? ''}`;
  if (!fresh) {
    const known = remembered(file);
    if (known?.boot === boot && known.qemu === id) return known.kvm;
  }
  const kvm = await tryAccelerator(qemu, 'kvm');
  mkdirSync(cacheRoot(), { recursive: true });
  const draft = `${file}.${process.pid}`;
  writeFileSync(draft, JSON.stringify({ boot, qemu: id, kvm } satisfies Remembered));
  renameSync(draft, file);
  return kvm;
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
