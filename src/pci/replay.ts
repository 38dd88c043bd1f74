/**
 * Which configuration registers the client at a migration's destination has to be told. QEMU emulates these (BARs,
 * interrupt line, PCIe control, MSI, MSI-X) for a vfio-user device and has no migration state for them; the rest of
 * configuration space is the device server's own and travels in its state. The plan is made from the bytes of a
 * configuration space alone, so that it holds for whatever serves the function.
 */

import { capabilityId, express, msiControl } from './capabilities.ts';
import { capabilityArea, status } from './header.ts';
import { readRegister } from './layout.ts';

/** What a replay at a migration's destination has to do with a register. */
export type ReplayRole = 'bar' | 'plain' | 'command' | 'msi' | 'msi-control' | 'msix-control' | 'power';

export interface ReplayEntry {
  /** `bar0`, `command`, `pcie.devctl` … */
  readonly name: string;
  readonly offset: number;
  readonly size: 1 | 2 | 4;
  /** What to write: act-on-write bits (FLR) and write-one-to-clear bits are 0. */
  readonly value: number;
  /** The value in the configuration to start from; 0 where none was given. */
  readonly initial: number;
  readonly role: ReplayRole;
}

/** A register as the PCI specifications name it. `act`: bits that do something when written, replayed as 0. */
interface Register {
  readonly name: string;
  readonly offset: number;
  readonly size: 1 | 2 | 4;
  readonly role: ReplayRole;
  readonly act?: number;
}

/** Type 0 header (PCI Local Bus 3.0, 6.1). Status and BIST act on writes and are left out. */
const headerRegisters: readonly Register[] = [
  { name: 'cacheLineSize', offset: 0x0c, size: 1, role: 'plain' },
  { name: 'latencyTimer', offset: 0x0d, size: 1, role: 'plain' },
  ...[0, 1, 2, 3, 4, 5].map(
    (index): Register => ({ name: `bar${index}`, offset: 0x10 + 4 * index, size: 4, role: 'bar' }),
  ),
  { name: 'rom', offset: 0x30, size: 4, role: 'bar' },
  { name: 'interruptLine', offset: 0x3c, size: 1, role: 'plain' },
];

const commandRegister: Register = { name: 'command', offset: 0x04, size: 2, role: 'command' };

/** PCIe capability: FLR (DEVCTL bit 15) and Retrain Link (LNKCTL bit 5) act. */
const expressRegisters: readonly Register[] = [
  { name: 'pcie.devctl', offset: 0x08, size: 2, role: 'plain', act: express.initiateFlr },
  { name: 'pcie.lnkctl', offset: 0x10, size: 2, role: 'plain', act: 0x0020 },
];
const expressVersion2Registers: readonly Register[] = [
  { name: 'pcie.devctl2', offset: 0x28, size: 2, role: 'plain' },
];
/** PMCSR: PME_Status (bit 15) is cleared by writing 1. */
const powerRegisters: readonly Register[] = [
  { name: 'pm.pmcsr', offset: 0x04, size: 2, role: 'power', act: 0x8000 },
];
const msixRegisters: readonly Register[] = [
  { name: 'msix.control', offset: 0x02, size: 2, role: 'msix-control' },
];

const statusOffset = 0x06;
const capabilitiesPointer = 0x34;

function msiRegisters(control: number): Register[] {
  const wide = (control & msiControl.address64) !== 0;
  const data = wide ? 0x0c : 0x08;
  const registers: Register[] = [
    { name: 'msi.address', offset: 0x04, size: 4, role: 'msi' },
    { name: 'msi.data', offset: data, size: 2, role: 'msi' },
    { name: 'msi.control', offset: 0x02, size: 2, role: 'msi-control' },
  ];
  if (wide) registers.push({ name: 'msi.upperAddress', offset: 0x08, size: 4, role: 'msi' });
  if ((control & msiControl.perVectorMasking) !== 0)
    registers.push({ name: 'msi.mask', offset: data + 4, size: 4, role: 'msi' });
  return registers;
}

/** Capabilities of `config` by id: the first of each. Loops and wild pointers end the walk. */
export function findCapabilities(config: Buffer): Map<number, number> {
  const found = new Map<number, number>();
  if ((config.readUInt16LE(statusOffset) & status.capabilityList) === 0) return found;
  const seen = new Set<number>();
  let at = config.readUInt8(capabilitiesPointer) & 0xfc;
  while (at >= capabilityArea.start && !seen.has(at)) {
    seen.add(at);
    const id = config.readUInt8(at);
    if (!found.has(id)) found.set(id, at);
    at = config.readUInt8(at + 1) & 0xfc;
  }
  return found;
}

function registersOf(config: Buffer): Register[] {
  const capabilities = findCapabilities(config);
  const registers = [...headerRegisters];
  const add = (at: number | undefined, list: (start: number) => readonly Register[]): void => {
    if (at === undefined) return;
    for (const register of list(at)) {
      if (at + register.offset + register.size <= capabilityArea.end)
        registers.push({ ...register, offset: at + register.offset });
    }
  };
  add(capabilities.get(capabilityId.pcie), (at) => {
    const version = config.readUInt16LE(at + 2) & 0xf;
    return version >= 2 ? [...expressRegisters, ...expressVersion2Registers] : expressRegisters;
  });
  add(capabilities.get(capabilityId.pm), () => powerRegisters);
  add(capabilities.get(capabilityId.msi), (at) => msiRegisters(config.readUInt16LE(at + 2)));
  add(capabilities.get(capabilityId.msix), () => msixRegisters);
  return registers;
}

/** What `register` holds in `config`, without the bits that would do something if they were written. */
function harmless({ offset, size, act }: Register, config: Buffer): number {
  return (readRegister(config, offset, size) & ~(act ?? 0)) >>> 0;
}

/** Addresses before decoding, decoding before messages, power (after which nothing can be written) last. */
const order: readonly ReplayRole[] = [
  'bar',
  'plain',
  'msi',
  'command',
  'msi-control',
  'msix-control',
  'power',
];

/**
 * The writes (command register apart) that turn a function whose configuration is `pristine` into one whose
 * configuration is `config`, in the order in which they must be made. Without `pristine`, all of them.
 */
export function planReplay(config: Buffer, pristine?: Buffer): ReplayEntry[] {
  const entries: ReplayEntry[] = [];
  for (const register of registersOf(config)) {
    const { name, offset, size, role } = register;
    const value = harmless(register, config);
    const initial = pristine === undefined ? 0 : harmless(register, pristine);
    if (pristine !== undefined && value === initial) continue;
    entries.push({ name, offset, size, value, initial, role });
  }
  return entries.sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role) || a.offset - b.offset);
}

/** A place where two configuration spaces differ and should not. */
export interface ConfigDifference {
  readonly name: string;
  readonly source: number;
  readonly destination: number;
}

/** Compares what `planReplay` covers, and the command register. */
export function compareConfigs(source: Buffer, destination: Buffer): ConfigDifference[] {
  const differences: ConfigDifference[] = [];
  for (const register of [commandRegister, ...registersOf(source)]) {
    const a = harmless(register, source);
    const b = harmless(register, destination);
    if (a !== b) differences.push({ name: register.name, source: a, destination: b });
  }
  return differences;
}
