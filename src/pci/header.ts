/** The type 0 header (PCI Local Bus 3.0 section 6.1 and 6.2); names as in Linux `pci_regs.h`. */

import type { PciDescription } from '../device/pci-description.ts';
import { type BarLayout, barRegisters } from './bars.ts';
import type { RegisterSpec } from './layout.ts';

/** Bits of the command register. */
export const command = {
  io: 0x0001,
  memory: 0x0002,
  master: 0x0004,
  parity: 0x0040,
  serr: 0x0100,
  intxDisable: 0x0400,
} as const;

/** Bits of the status register. */
export const status = {
  interrupt: 0x0008,
  capabilityList: 0x0010,
  masterDataParity: 0x0100,
  signaledTargetAbort: 0x0800,
  receivedTargetAbort: 0x1000,
  receivedMasterAbort: 0x2000,
  signaledSystemError: 0x4000,
  detectedParity: 0x8000,
} as const;

/** Status bits that latch an error until a one is written to them. */
export const statusErrors =
  status.masterDataParity |
  status.signaledTargetAbort |
  status.receivedTargetAbort |
  status.receivedMasterAbort |
  status.signaledSystemError |
  status.detectedParity;

/** Where the capability list starts and what of configuration space is left to it. */
export const capabilityArea = { start: 0x40, end: 0x100 } as const;

/** The header of a function; `firstCapability` is 0 when it has none. */
export function headerRegisters(
  description: PciDescription,
  bars: readonly BarLayout[],
  firstCapability: number,
): RegisterSpec[] {
  const kinds = new Set(bars.map((bar) => (bar.kind === 'io' ? 'io' : 'memory')));
  const writableCommand =
    command.master |
    command.parity |
    command.serr |
    (kinds.has('io') ? command.io : 0) |
    (kinds.has('memory') ? command.memory : 0) |
    (description.interruptPin === undefined ? 0 : command.intxDisable);
  const express = description.capabilities?.pcie !== undefined;
  return [
    { name: 'vendorId', offset: 0x00, size: 2, value: description.vendorId },
    { name: 'deviceId', offset: 0x02, size: 2, value: description.deviceId },
    { name: 'command', offset: 0x04, size: 2, writable: writableCommand },
    {
      name: 'status',
      offset: 0x06,
      size: 2,
      value: firstCapability === 0 ? 0 : status.capabilityList,
      clearOnOne: statusErrors,
      live: status.interrupt,
    },
    { name: 'revisionId', offset: 0x08, size: 1, value: description.revisionId ?? 0 },
    { name: 'progIf', offset: 0x09, size: 1, value: description.classCode & 0xff },
    { name: 'subClass', offset: 0x0a, size: 1, value: (description.classCode >> 8) & 0xff },
    { name: 'baseClass', offset: 0x0b, size: 1, value: (description.classCode >> 16) & 0xff },
    { name: 'cacheLineSize', offset: 0x0c, size: 1, writable: 0xff },
    // PCI Express functions have no latency timer (PCIe Base, "Latency Timer Register": hardwired to 0).
    express
      ? { name: 'latencyTimer', offset: 0x0d, size: 1 }
      : { name: 'latencyTimer', offset: 0x0d, size: 1, writable: 0xff },
    { name: 'headerType', offset: 0x0e, size: 1 },
    { name: 'bist', offset: 0x0f, size: 1 },
    ...barRegisters(bars),
    { name: 'subsystemVendorId', offset: 0x2c, size: 2, value: description.subsystemVendorId ?? 0 },
    { name: 'subsystemId', offset: 0x2e, size: 2, value: description.subsystemId ?? 0 },
    { name: 'expansionRom', offset: 0x30, size: 4 },
    { name: 'capabilityPointer', offset: 0x34, size: 1, value: firstCapability },
    { name: 'interruptLine', offset: 0x3c, size: 1, writable: 0xff },
    { name: 'interruptPin', offset: 0x3d, size: 1, value: description.interruptPin ?? 0 },
  ];
}
