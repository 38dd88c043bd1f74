import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Command } from 'commander';
import { CompanionError } from '../errors.ts';
import { kvmDevice, probeKvm } from '../setup/accel.ts';
import { defaultKernel, isKernelName, type KernelName, kernels } from '../setup/catalog.ts';
import { findImage, type GuestKernel } from '../setup/image.ts';
import { chooseKernel } from '../setup/index.ts';
import { locateLibvfioUser } from '../setup/libvfio-user.ts';
import { cacheRoot, setupCommand } from '../setup/paths.ts';
import { findOnPath, findPrivateQemu, findSystemQemu, type Qemu } from '../setup/qemu.ts';
import { Store } from '../setup/store.ts';

/** `ok`; `gap`: something that may be wanted is not there; `fault`: something that is needed is not there. */
export type FindingState = 'ok' | 'gap' | 'fault';

/** One thing that doctor looked at. */
export interface Finding {
  readonly name: string;
  readonly state: FindingState;
  /** What was found. */
  readonly value: string;
  /** What to do about it. */
  readonly remedy?: string;
}

/** The oldest of each line of Node that will do, as in `src/setup/check-node.sh`; any newer line will. */
const oldestNodes = [
  { major: 20, minor: 19 },
  { major: 22, minor: 12 },
] as const;
/** Programs that set-up runs, and the packages that have them. */
const tools = [
  { program: 'gcc', package: 'gcc libc6-dev', use: 'compiles the guest programs' },
  { program: 'make', package: 'make', use: 'runs make setup, make test' },
  { program: 'apt-get', package: 'apt', use: 'downloads packages' },
  { program: 'dpkg-deb', package: 'dpkg', use: 'unpacks packages' },
  { program: 'flock', package: 'util-linux', use: 'keeps two set-ups apart' },
] as const;

/** Looks at everything that a run needs, and changes nothing but the remembered answer about KVM. */
export async function doctor(): Promise<Finding[]> {
  const store = new Store(cacheRoot());
  const findings = [nodeFinding(process.versions.node)];
  const qemu = await findQemu(store, findings);
  const needed = neededKernel(findings);
  const images = await findImages(store, needed, findings);
  findings.push(await kvmFinding(qemu, images.get(needed) ?? [...images.values()][0]));
  findings.push(libvfioUserFinding());
  for (const tool of tools) {
    const path = findOnPath(tool.program);
    if (path !== undefined) findings.push({ name: tool.program, state: 'ok', value: path });
    else {
      const remedy = `apt-get install ${tool.package} (it ${tool.use})`;
      findings.push({ name: tool.program, state: 'gap', value: 'not found', remedy });
    }
  }
  findings.push(cacheFinding(store.root));
  return findings;
}

/** Whether set-up could put something into the cache folder. Others only read it. */
function cacheFinding(root: string): Finding {
  let place = root;
  while (!existsSync(place)) place = dirname(place);
  try {
    accessSync(place, constants.W_OK | constants.X_OK);
    if (statSync(place).isDirectory()) return { name: 'cache', state: 'ok', value: root };
  } catch {
    // As below.
  }
  return {
    name: 'cache',
    state: 'gap',
    value: `${root} cannot be written to`,
    remedy: `before ${setupCommand()}: set VFIO_COMPANION_CACHE to a folder of your own`,
  };
}

/** Whether Node `version` will do. */
export function nodeFinding(version: string): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const own = oldestNodes.find((oldest) => oldest.major === major);
  const enough = own === undefined ? oldestNodes.every((oldest) => major > oldest.major) : minor >= own.minor;
  if (enough) return { name: 'Node', state: 'ok', value: version };
  const wanted = oldestNodes.map((oldest) => `${oldest.major}.${oldest.minor}`).join(' or ');
  return { name: 'Node', state: 'fault', value: version, remedy: `install Node ${wanted}, or newer` };
}

async function findQemu(store: Store, findings: Finding[]): Promise<Qemu | undefined> {
  try {
    const qemu = (await findSystemQemu()) ?? (await findPrivateQemu(store));
    if (qemu === undefined) {
      const value = 'none >= 10.1 with vfio-user-pci, or the private one is damaged';
      findings.push({ name: 'QEMU', state: 'fault', value, remedy: setupCommand() });
      return undefined;
    }
    findings.push({ name: 'QEMU', state: 'ok', value: `${qemu.version}, ${qemu.source}: ${qemu.command}` });
    findings.push({ name: 'vfio-user-pci', state: 'ok', value: 'present' });
    return qemu;
  } catch (error) {
    if (!(error instanceof CompanionError)) throw error;
    findings.push(faultFinding('QEMU', 'fault', error));
    return undefined;
  }
}

/** The guest kernel that is used unless another one is asked for. */
function neededKernel(findings: Finding[]): KernelName {
  try {
    return chooseKernel();
  } catch (error) {
    if (!(error instanceof CompanionError)) throw error;
    findings.push(faultFinding('KERNEL', 'fault', error));
    return defaultKernel;
  }
}

async function findImages(
  store: Store,
  needed: KernelName,
  findings: Finding[],
): Promise<Map<string, GuestKernel>> {
  const images = new Map<string, GuestKernel>();
  for (const name of Object.keys(kernels).filter(isKernelName)) {
    const image = await findImage(store, name);
    if (image === undefined) {
      findings.push({
        name: `guest kernel ${name}`,
        state: name === needed ? 'fault' : 'gap',
        value: 'not there, or damaged, or without an image of this checkout',
        remedy: setupCommand(name),
      });
    } else {
      images.set(name, image);
      findings.push({ name: `guest kernel ${name}`, state: 'ok', value: `${image.release}: ${image.boot}` });
      findings.push({ name: `guest image ${name}`, state: 'ok', value: image.initrd });
    }
  }
  return images;
}

/** Whether KVM runs `kernel` now, whatever was the answer before. */
export async function kvmFinding(
  qemu: Qemu | undefined,
  kernel: GuestKernel | undefined,
  device: string = kvmDevice,
): Promise<Finding> {
  if (qemu === undefined || kernel === undefined) {
    const remedy = `${setupCommand()}; the probe boots a guest`;
    return { name: 'KVM', state: 'gap', value: 'not probed', remedy };
  }
  const probe = await probeKvm(qemu, kernel, { fresh: true, device });
  if (probe.works) return { name: 'KVM', state: 'ok', value: 'runs a guest' };
  return {
    name: 'KVM',
    state: 'gap',
    value: `does not run a guest (${probe.reason ?? 'no reason known'}); TCG is used`,
    remedy: 'nothing has to be done; for speed, use a machine with KVM, and be in the group of /dev/kvm',
  };
}

function libvfioUserFinding(): Finding {
  const name = 'libvfio-user';
  try {
    const found = locateLibvfioUser();
    if (found !== undefined) {
      const origin = found.origin === undefined ? '' : `, ${found.origin}`;
      return { name, state: 'ok', value: `${found.generation}${origin}: ${found.path}` };
    }
  } catch (error) {
    if (!(error instanceof CompanionError)) throw error;
    return faultFinding(name, 'gap', error);
  }
  const remedy = 'only for --transport libvfio-user: make libvfio-user, or set LIBVFIO_USER';
  return { name, state: 'gap', value: 'none', remedy };
}

function faultFinding(name: string, state: FindingState, error: CompanionError): Finding {
  const { message, hint } = error;
  return { name, state, value: message, ...(hint === undefined ? {} : { remedy: hint }) };
}

const marks: Record<FindingState, string> = { ok: 'ok   ', gap: 'gap  ', fault: 'FAULT' };

/** The findings as lines for a terminal. */
export function describeFindings(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ name }) => name.length));
  const lines: string[] = [];
  for (const { name, state, value, remedy } of findings) {
    lines.push(`${marks[state]}  ${name.padEnd(width)}  ${value}`);
    if (remedy !== undefined) lines.push(`${' '.repeat(width + 9)}→ ${remedy}`);
  }
  return `${lines.join('\n')}\n`;
}

/** Adds `doctor` to the commands. Its exit status is 1 if something that is needed is missing. */
export function registerDoctor(program: Command): void {
  program
    .command('doctor')
    .description('look at QEMU, KVM, guest kernels and libraries, and say what to do about each gap')
    .option('--json', 'for machines')
    .action(async ({ json }: { json?: boolean }) => {
      const findings = await doctor();
      process.stdout.write(json ? `${JSON.stringify(findings, null, 2)}\n` : describeFindings(findings));
      if (findings.some(({ state }) => state === 'fault')) process.exitCode = 1;
    });
}
