/** Checks of a model's description, each naming the field at fault: a wrong one is found at start, not by a guest. */

import type { BarDescription, BarIndex, PciDescription } from '../device/pci-description.ts';
import { isPowerOfTwo } from '../power-of-two.ts';
import { barCount } from './bars.ts';
import { PciDescriptionError } from './errors.ts';

/** Bytes of one MSI-X table entry, and of the unit in which pending bits come. */
export const msixEntrySize = 16;
export const pbaUnit = { bits: 64, bytes: 8 } as const;

/** Bytes of the pending bit array of `vectors` vectors. */
export function pbaSize(vectors: number): number {
  return Math.ceil(vectors / pbaUnit.bits) * pbaUnit.bytes;
}

const limits = {
  memory32: { min: 16, max: 2 ** 31 },
  memory64: { min: 16, max: 2 ** 52 },
  io: { min: 4, max: 2 ** 16 },
} as const;
const doorbellSizes: readonly number[] = [1, 2, 4];
/** A model sees so much of a BAR's memory: one window of a mapping, see `DeviceHost.barMemory`. */
const mappableLimit = 2 ** 30;
/** A client maps whole pages. */
const pageSize = 4096;
/** Vendor capability: its length field has 8 bits, and 3 bytes go to id, next and length. */
const vendorBodyMax = 0x100 - 0x40 - 3;

/** Throws `PciDescriptionError` for what cannot be a PCI function. */
export function validateDescription(description: PciDescription): void {
  checkNumber('vendorId', description.vendorId, 0, 0xfffe);
  checkNumber('deviceId', description.deviceId, 0, 0xffff);
  checkNumber('subsystemVendorId', description.subsystemVendorId ?? 0, 0, 0xffff);
  checkNumber('subsystemId', description.subsystemId ?? 0, 0, 0xffff);
  checkNumber('revisionId', description.revisionId ?? 0, 0, 0xff);
  checkNumber('classCode', description.classCode, 0, 0xff_ffff);
  if (description.interruptPin !== undefined) checkNumber('interruptPin', description.interruptPin, 1, 4);
  for (const [key, bar] of Object.entries(description.bars)) {
    if (bar !== undefined) checkBar(Number(key), bar, description);
  }
  checkMsi(description);
  checkMsix(description);
  checkBodies(description);
}

function checkBar(index: number, bar: BarDescription, description: PciDescription): void {
  checkNumber('bar index', index, 0, barCount - 1);
  const name = `bars[${index}]`;
  const limit = limits[bar.kind];
  if (limit === undefined) throw new PciDescriptionError(`${name}.kind is '${bar.kind}', not a kind of BAR`);
  if (!isPowerOfTwo(bar.size) || bar.size < limit.min || bar.size > limit.max)
    throw new PciDescriptionError(
      `${name}.size is ${bar.size}: a ${bar.kind} BAR is a power of two from ${limit.min} to ${limit.max} bytes`,
      'round the size up to the next power of two; what lies beyond reads zero',
    );
  if (bar.kind === 'io' && bar.prefetchable)
    throw new PciDescriptionError(`${name}: an I/O BAR is never prefetchable`);
  if (bar.kind === 'io' && (bar.mappable?.length ?? 0) > 0)
    throw new PciDescriptionError(`${name}: an I/O BAR cannot be mapped`);
  if (bar.kind === 'memory64') {
    if (index === barCount - 1)
      throw new PciDescriptionError(
        `${name}: the last BAR cannot be 64 bits wide`,
        'use bars[4], or memory32',
      );
    if (description.bars[(index + 1) as BarIndex] !== undefined)
      throw new PciDescriptionError(`bars[${index + 1}] is the upper half of the 64-bit ${name}`);
  }
  let end = 0;
  for (const area of [...(bar.mappable ?? [])].sort((a, b) => a.offset - b.offset)) {
    const aligned = area.offset % pageSize === 0 && area.size % pageSize === 0 && area.size > 0;
    if (!aligned || area.offset < end || area.offset + area.size > bar.size)
      throw new PciDescriptionError(
        `${name}.mappable [${area.offset}, +${area.size}) is not a page-aligned part of its own of the BAR's ${bar.size} bytes`,
      );
    end = area.offset + area.size;
  }
  if (end > mappableLimit)
    throw new PciDescriptionError(
      `${name}.mappable ends at ${end}: what can be mapped lies in the first ${mappableLimit} bytes of a BAR`,
      'a model could not see the rest; leave it to register accesses, or use a BAR more',
    );
  checkDoorbells(name, index, bar, description);
}

function checkDoorbells(
  name: string,
  index: number,
  bar: BarDescription,
  { capabilities }: PciDescription,
): void {
  const { table, pba, vectors } = capabilities?.msix ?? {};
  const taken = [...(bar.mappable ?? [])];
  if (table?.bar === index) taken.push({ offset: table.offset, size: (vectors ?? 0) * msixEntrySize });
  if (pba?.bar === index) taken.push({ offset: pba.offset, size: pbaSize(vectors ?? 0) });
  const seen = new Set<string>();
  for (const { offset, size, datamatch } of bar.doorbells ?? []) {
    const what = `${name}.doorbells: ${size} bytes at ${offset}`;
    if (bar.kind === 'io') throw new PciDescriptionError(`${what} of an I/O BAR: only memory BARs have them`);
    if (!doorbellSizes.includes(size)) throw new PciDescriptionError(`${what}: the size is 1, 2 or 4`);
    if (!Number.isInteger(offset) || offset < 0 || offset % size !== 0 || offset + size > bar.size)
      throw new PciDescriptionError(`${what} is no aligned register of the BAR's ${bar.size} bytes`);
    if (taken.some((area) => offset < area.offset + area.size && area.offset < offset + size))
      throw new PciDescriptionError(`${what} lies where writes do not reach the model`);
    if (datamatch !== undefined) checkNumber(`${what}: datamatch`, datamatch, 0, 2 ** (8 * size) - 1);
    const key = `${offset} ${datamatch}`;
    if (seen.has(key)) throw new PciDescriptionError(`${what} is there twice`);
    seen.add(key);
  }
}

function checkMsi(description: PciDescription): void {
  const msi = description.capabilities?.msi;
  if (msi === undefined) return;
  if (!isPowerOfTwo(msi.vectors) || msi.vectors > 32)
    throw new PciDescriptionError(`msi.vectors is ${msi.vectors}: it can be 1, 2, 4, 8, 16 or 32`);
}

function checkMsix(description: PciDescription): void {
  const msix = description.capabilities?.msix;
  if (msix === undefined) return;
  checkNumber('msix.vectors', msix.vectors, 1, 2048);
  const table = { ...msix.table, name: 'msix.table', size: msix.vectors * msixEntrySize };
  const pba = { ...msix.pba, name: 'msix.pba', size: pbaSize(msix.vectors) };
  for (const area of [table, pba]) {
    const bar = description.bars[area.bar];
    if (bar === undefined || bar.kind === 'io')
      throw new PciDescriptionError(
        `${area.name}.bar is ${area.bar}, which is not a memory BAR of the function`,
      );
    if (!Number.isInteger(area.offset) || area.offset < 0 || area.offset % 8 !== 0)
      throw new PciDescriptionError(`${area.name}.offset is ${area.offset}: it must be a multiple of 8`);
    if (area.offset + area.size > bar.size || area.offset > 0xffff_fff8)
      throw new PciDescriptionError(
        `${area.name} (${area.size} bytes at ${area.offset}) lies outside bars[${area.bar}] of ${bar.size} bytes`,
      );
    for (const hole of bar.mappable ?? [])
      if (area.offset < hole.offset + hole.size && hole.offset < area.offset + area.size)
        throw new PciDescriptionError(
          `${area.name} lies in a mappable part of bars[${area.bar}], where accesses would bypass it`,
          'give table and PBA pages of their own',
        );
  }
  const sameBar = table.bar === pba.bar;
  if (sameBar && table.offset < pba.offset + pba.size && pba.offset < table.offset + table.size)
    throw new PciDescriptionError(`msix.pba overlaps msix.table in bars[${table.bar}]`);
}

function checkBodies(description: PciDescription): void {
  description.capabilities?.vendor?.forEach((body, i) => {
    if (body.length > vendorBodyMax)
      throw new PciDescriptionError(
        `capabilities.vendor[${i}] has ${body.length} bytes: ${vendorBodyMax} at most`,
      );
  });
  description.capabilities?.extended?.forEach((capability, i) => {
    checkNumber(`capabilities.extended[${i}].id`, capability.id, 1, 0xffff);
    checkNumber(`capabilities.extended[${i}].version`, capability.version, 0, 0xf);
  });
}

function checkNumber(name: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max)
    throw new PciDescriptionError(`${name} is ${value}: it must be a whole number from ${min} to ${max}`);
}
