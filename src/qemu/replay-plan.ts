/**
 * Which configuration registers a destination QEMU has to be told, and how. QEMU emulates these (BARs,
 * interrupt line, PCIe control, MSI, MSI-X) for a vfio-user device and has no migration state for them; the
 * rest of configuration space is the device server's own and travels in its state.
 */
import { capabilityId, type ReplayEntry, type ReplayRole } from '../pci/index.ts';
import type { DmaOperation } from './device-peer.ts';

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

/** PCIe capability: FLR (DEVCTL bit 15) and Retrain Link (LNKCTL bit 5) act. */
const expressRegisters: readonly Register[] = [
  { name: 'pcie.devctl', offset: 0x08, size: 2, role: 'plain', act: 0x8000 },
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

const configLength = 0x100;
const statusOffset = 0x06;
const capabilitiesPresent = 0x10;
const capabilitiesPointer = 0x34;
const firstCapability = 0x40;
const msi64 = 0x80;
const msiPerVectorMasking = 0x100;

function msiRegisters(control: number): Register[] {
  const wide = (control & msi64) !== 0;
  const data = wide ? 0x0c : 0x08;
  const registers: Register[] = [
    { name: 'msi.address', offset: 0x04, size: 4, role: 'msi' },
    { name: 'msi.data', offset: data, size: 2, role: 'msi' },
    { name: 'msi.control', offset: 0x02, size: 2, role: 'msi-control' },
  ];
  if (wide) registers.push({ name: 'msi.upperAddress', offset: 0x08, size: 4, role: 'msi' });
  if ((control & msiPerVectorMasking) !== 0)
    registers.push({ name: 'msi.mask', offset: data + 4, size: 4, role: 'msi' });
  return registers;
}

/** Capabilities of `config` by id: the first of each. Loops and wild pointers end the walk. */
export function findCapabilities(config: Buffer): Map<number, number> {
  const found = new Map<number, number>();
  if ((config.readUInt16LE(statusOffset) & capabilitiesPresent) === 0) return found;
  const seen = new Set<number>();
  let at = config.readUInt8(capabilitiesPointer) & 0xfc;
  while (at >= firstCapability && !seen.has(at)) {
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
      if (at + register.offset + register.size <= configLength)
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
    const keep = ~(register.act ?? 0) >>> 0;
    const valueIn = (bytes: Buffer): number =>
      (bytes.readUIntLE(register.offset, register.size) & keep) >>> 0;
    const value = valueIn(config);
    const initial = pristine === undefined ? 0 : valueIn(pristine);
    if (pristine !== undefined && value === initial) continue;
    entries.push({
      name: register.name,
      offset: register.offset,
      size: register.size,
      value,
      initial,
      role: register.role,
    });
  }
  return entries.sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role) || a.offset - b.offset);
}

/** `entries` as DMA into the function's configuration space at `base`; neighbouring BARs in one write. */
export function ecamWrites(base: number, entries: readonly ReplayEntry[]): DmaOperation[] {
  const writes: { at: number; parts: Buffer[]; length: number }[] = [];
  for (const entry of entries) {
    const bytes = Buffer.alloc(entry.size);
    bytes.writeUIntLE(entry.value, 0, entry.size);
    const last = writes.at(-1);
    if (entry.role === 'bar' && last !== undefined && last.at + last.length === entry.offset) {
      last.parts.push(bytes);
      last.length += entry.size;
    } else {
      writes.push({ at: entry.offset, parts: [bytes], length: entry.size });
    }
  }
  return writes.map(({ at, parts }) => ({ write: base + at, bytes: Buffer.concat(parts) }));
}

/** A place where two configuration spaces differ and should not. */
export interface ConfigDifference {
  readonly name: string;
  readonly source: number;
  readonly destination: number;
}

const commandRegister: Register = { name: 'command', offset: 0x04, size: 2, role: 'command' };

/** Compares what `planReplay` covers, and the command register. */
export function compareConfigs(source: Buffer, destination: Buffer): ConfigDifference[] {
  const differences: ConfigDifference[] = [];
  for (const { name, offset, size, act } of [commandRegister, ...registersOf(source)]) {
    const keep = ~(act ?? 0) >>> 0;
    const a = (source.readUIntLE(offset, size) & keep) >>> 0;
    const b = (destination.readUIntLE(offset, size) & keep) >>> 0;
    if (a !== b) differences.push({ name, source: a, destination: b });
  }
  return differences;
}
