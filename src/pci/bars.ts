/** Base address registers (PCI Local Bus 3.0 section 6.2.5.1): sizing, types, addresses. */

import type { BarDescription, BarIndex, PciDescription } from '../device/pci-description.ts';
import type { RegisterSpec } from './layout.ts';

/** Number of base address registers in a type 0 header, and where they are. */
export const barCount = 6;
export const barArea = { start: 0x10, end: 0x28 } as const;

const barFlags = { io: 0x1, type64: 0x4, prefetch: 0x8 } as const;
/** Low bits of a BAR that are no address. */
const memoryFlagBits = 0xf;
const ioFlagBits = 0x3;
const two32 = 0x1_0000_0000;

export interface BarLayout {
  readonly index: BarIndex;
  readonly kind: BarDescription['kind'];
  readonly size: number;
  readonly prefetchable: boolean;
  /** Offset of its (low) register in configuration space. */
  readonly offset: number;
}

/** The state of one BAR as the guest has programmed it. */
export interface BarState extends BarLayout {
  /** The address bits as they stand in the register, all ones while software sizes the BAR. */
  readonly base: number;
  /** Whether the function answers there: its space is enabled and it is powered. */
  readonly decoded: boolean;
  /** Where the guest reaches the BAR; undefined when it is unassigned, not decoded or beyond 2^53. */
  readonly address: number | undefined;
}

const barIndices: readonly BarIndex[] = [0, 1, 2, 3, 4, 5];

/** The BARs of a description, in index order. */
export function layoutBars(description: PciDescription): BarLayout[] {
  const bars: BarLayout[] = [];
  for (const index of barIndices) {
    const bar = description.bars[index];
    if (bar === undefined) continue;
    bars.push({
      index,
      kind: bar.kind,
      size: bar.size,
      prefetchable: bar.prefetchable ?? false,
      offset: barArea.start + index * 4,
    });
  }
  return bars;
}

/**
 * Registers of the BARs. Sizing works by the write mask alone: address bits below the size take no
 * writes, so all ones read back as the complement of the size.
 */
export function barRegisters(bars: readonly BarLayout[]): RegisterSpec[] {
  const specs: RegisterSpec[] = [];
  for (const bar of bars) {
    const flagBits = bar.kind === 'io' ? ioFlagBits : memoryFlagBits;
    const value =
      (bar.kind === 'io' ? barFlags.io : 0) |
      (bar.kind === 'memory64' ? barFlags.type64 : 0) |
      (bar.prefetchable ? barFlags.prefetch : 0);
    const lowMask = bar.size >= two32 ? 0 : (~(bar.size - 1) & ~flagBits) >>> 0;
    specs.push({
      name: `bar${bar.index}`,
      offset: bar.offset,
      size: 4,
      value,
      writable: lowMask,
    });
    if (bar.kind === 'memory64') {
      const highMask = bar.size >= two32 ? ~(bar.size / two32 - 1) >>> 0 : 0xffff_ffff;
      const name = `bar${bar.index + 1}`;
      specs.push({ name, offset: bar.offset + 4, size: 4, writable: highMask });
    }
  }
  return specs;
}

/** Address bits of a BAR in `bytes`; not exact above 2^53 for BARs smaller than a page. */
export function barBase(bytes: Buffer, bar: BarLayout): number {
  const low = bytes.readUInt32LE(bar.offset);
  if (bar.kind === 'io') return (low & ~ioFlagBits) >>> 0;
  const lowAddress = (low & ~memoryFlagBits) >>> 0;
  return bar.kind === 'memory64' ? bytes.readUInt32LE(bar.offset + 4) * two32 + lowAddress : lowAddress;
}

/** Whether an address of the BAR is one that a guest can have meant. */
export function isAssigned(bar: BarLayout, base: number): boolean {
  return base !== 0 && base + bar.size <= Number.MAX_SAFE_INTEGER;
}
