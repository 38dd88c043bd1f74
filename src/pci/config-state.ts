/** Saved configuration space: guest-written registers by name, so that a stream can be read by a person. */

import type { PciDescription } from '../device/pci-description.ts';
import type { BarLayout } from './bars.ts';
import { PciStateError } from './errors.ts';
import { type ConfigLayout, type PlacedRegister, readRegister, writeRegister } from './layout.ts';

/** What `ConfigSpace.save()` gives; survives msgpack and JSON. */
export interface ConfigState {
  readonly geometry: Readonly<Record<string, number | string | boolean>>;
  /** Register name → value, for every register that keeps anything. */
  readonly registers: Readonly<Record<string, number>>;
}

/** What two functions must have in common for one to take over the other's registers. */
export function geometryOf(
  description: PciDescription,
  size: number,
  bars: readonly BarLayout[],
): Record<string, number | string | boolean> {
  const { msi, msix } = description.capabilities ?? {};
  const geometry: Record<string, number | string | boolean> = {
    vendorId: description.vendorId,
    deviceId: description.deviceId,
    configSize: size,
    interruptPin: description.interruptPin ?? 0,
    msiVectors: msi?.vectors ?? 0,
    msixVectors: msix?.vectors ?? 0,
  };
  for (const bar of bars)
    geometry[`bar${bar.index}`] = `${bar.kind}${bar.prefetchable ? ' prefetchable' : ''} ${bar.size}`;
  return geometry;
}

/** The values of all registers that a guest can change, live bits left out. */
export function saveRegisters(
  layout: ConfigLayout,
  geometry: ConfigState['geometry'],
  bytes: Buffer,
): ConfigState {
  const registers: Record<string, number> = {};
  for (const register of layout.registers.values()) {
    if (!isKept(register)) continue;
    registers[register.name] = (readRegister(bytes, register.offset, register.size) & ~register.live) >>> 0;
  }
  return { geometry: { ...geometry }, registers };
}

/**
 * The bytes of a space with `saved` in it; live bits are clear. Nothing is taken on trust: other geometry,
 * unknown or missing registers, and values that differ in read-only bits throw `PciStateError`.
 */
export function loadRegisters(
  layout: ConfigLayout,
  geometry: ConfigState['geometry'],
  saved: unknown,
): Buffer {
  const { geometry: savedGeometry, registers } = checkShape(saved);
  for (const key of new Set([...Object.keys(geometry), ...Object.keys(savedGeometry)])) {
    const here = Object.hasOwn(geometry, key) ? geometry[key] : undefined;
    const there = Object.hasOwn(savedGeometry, key) ? savedGeometry[key] : undefined;
    if (here !== there)
      throw new PciStateError(`PCI ${key} is ${String(here)} here and ${String(there)} in the saved state`);
  }
  for (const name of Object.keys(registers)) {
    const register = layout.registers.get(name);
    if (register === undefined || !isKept(register))
      throw new PciStateError(`saved state has a register ${name}, this function has not`);
  }
  const bytes = Buffer.from(layout.initial);
  for (const register of layout.registers.values()) {
    if (!isKept(register)) continue;
    const { name, offset, size } = register;
    const value = Object.hasOwn(registers, name) ? registers[name] : undefined;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value >= 2 ** (size * 8))
      throw new PciStateError(`saved register ${name} is ${String(value)}, not a number of ${size} bytes`);
    const changeable = register.writable | register.clearOnOne;
    if (((value ^ register.value) & ~changeable) !== 0)
      throw new PciStateError(`saved register ${name} is 0x${value.toString(16)}: read-only bits differ`);
    writeRegister(bytes, offset, size, value);
  }
  return bytes;
}

function isKept(register: PlacedRegister): boolean {
  return (register.writable | register.clearOnOne) !== 0;
}

function checkShape(saved: unknown): {
  geometry: Record<string, unknown>;
  registers: Record<string, unknown>;
} {
  if (isRecord(saved) && isRecord(saved.geometry) && isRecord(saved.registers))
    return { geometry: saved.geometry, registers: saved.registers };
  throw new PciStateError('saved configuration space has no geometry and registers');
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
