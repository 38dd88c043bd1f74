/** Builders of the standard capabilities; each gives a body's registers relative to the capability. */

import type {
  MsiDescription,
  MsixDescription,
  PciDescription,
  PcieDescription,
} from '../device/pci-description.ts';
import type { RegisterSpec } from './layout.ts';

/** Capability ids (PCI Code and ID Assignment section 2). */
export const capabilityId = { pm: 0x01, msi: 0x05, vendor: 0x09, pcie: 0x10, msix: 0x11 } as const;

/** A capability before it has a place. Registers start after id and next pointer. */
export interface Capability {
  readonly name: string;
  readonly id: number;
  readonly length: number;
  readonly registers: readonly RegisterSpec[];
  /** Read-only bytes from offset 2. */
  readonly body?: Uint8Array;
}

/** Bits of PMCSR. Only D0 and D3hot exist, and D3hot keeps the function's state. */
export const powerControl = { stateMask: 0x0003, noSoftReset: 0x0008 } as const;

/** PCI Bus Power Management Interface 1.2 section 3.2. */
export function powerManagementCapability(): Capability {
  return {
    name: 'pm',
    id: capabilityId.pm,
    length: 8,
    registers: [
      { name: 'capabilities', offset: 2, size: 2, value: 0x0003 },
      {
        name: 'control',
        offset: 4,
        size: 2,
        value: powerControl.noSoftReset,
        writable: powerControl.stateMask,
      },
    ],
  };
}

/** Bits of the MSI message control register. */
export const msiControl = {
  enable: 0x0001,
  multipleCapableShift: 1,
  multipleEnableShift: 4,
  multipleEnableMask: 0x0070,
  address64: 0x0080,
  perVectorMasking: 0x0100,
} as const;

/** MSI (PCI Local Bus 3.0 section 6.8.1), 32 or 64 bits, with or without per-vector masking. */
export function msiCapability(msi: MsiDescription): Capability {
  const wide = msi.address64 ?? false;
  const maskable = msi.perVectorMasking ?? false;
  const dataOffset = wide ? 0x0c : 0x08;
  const allVectors = 2 ** msi.vectors - 1;
  const registers: RegisterSpec[] = [
    {
      name: 'control',
      offset: 2,
      size: 2,
      value:
        (Math.log2(msi.vectors) << msiControl.multipleCapableShift) |
        (wide ? msiControl.address64 : 0) |
        (maskable ? msiControl.perVectorMasking : 0),
      writable: msiControl.enable | msiControl.multipleEnableMask,
    },
    { name: 'address', offset: 4, size: 4, writable: 0xffff_fffc },
  ];
  if (wide) registers.push({ name: 'addressHigh', offset: 8, size: 4, writable: 0xffff_ffff });
  registers.push({ name: 'data', offset: dataOffset, size: 2, writable: 0xffff });
  if (maskable) {
    registers.push({ name: 'mask', offset: dataOffset + 4, size: 4, writable: allVectors });
    registers.push({ name: 'pending', offset: dataOffset + 8, size: 4, live: allVectors });
  }
  const length = dataOffset + (maskable ? 12 : 2);
  return { name: 'msi', id: capabilityId.msi, length, registers };
}

/** Bits of the MSI-X message control register. */
export const msixControl = { functionMask: 0x4000, enable: 0x8000 } as const;

/** MSI-X (PCI Local Bus 3.0 section 6.8.2). */
export function msixCapability(msix: MsixDescription): Capability {
  return {
    name: 'msix',
    id: capabilityId.msix,
    length: 12,
    registers: [
      {
        name: 'control',
        offset: 2,
        size: 2,
        value: msix.vectors - 1,
        writable: msixControl.functionMask | msixControl.enable,
      },
      { name: 'table', offset: 4, size: 4, value: msix.table.offset + msix.table.bar },
      { name: 'pba', offset: 8, size: 4, value: msix.pba.offset + msix.pba.bar },
    ],
  };
}

/** Bits of the PCI Express capability that behave, or that say what we are. */
export const express = {
  version2: 0x0002,
  typeEndpoint: 0x0000,
  roleBasedErrors: 0x0000_8000,
  functionLevelReset: 0x1000_0000,
  initiateFlr: 0x8000,
} as const;

/**
 * PCI Express capability, version 2, of an endpoint (PCIe Base 3.0 section 7.8): a 2.5 GT/s x1 link,
 * 128 byte payloads. Slot and root registers exist and read zero.
 */
export function pcieCapability(pcie: PcieDescription): Capability {
  const flr = pcie.functionLevelReset ?? false;
  return {
    name: 'pcie',
    id: capabilityId.pcie,
    length: 0x3c,
    registers: [
      { name: 'flags', offset: 0x02, size: 2, value: express.version2 | express.typeEndpoint },
      {
        name: 'devcap',
        offset: 0x04,
        size: 4,
        value: express.roleBasedErrors | (flr ? express.functionLevelReset : 0),
      },
      {
        // Error reporting, relaxed ordering, payload, no snoop, read request (512 bytes after reset).
        name: 'devctl',
        offset: 0x08,
        size: 2,
        value: 0x2810,
        writable: 0x78ff,
        act: flr ? express.initiateFlr : 0,
      },
      { name: 'devsta', offset: 0x0a, size: 2, clearOnOne: 0x000f },
      { name: 'lnkcap', offset: 0x0c, size: 4, value: 0x0000_0011 },
      // ASPM control, read completion boundary, common clock, extended synch.
      { name: 'lnkctl', offset: 0x10, size: 2, writable: 0x00cb },
      { name: 'lnksta', offset: 0x12, size: 2, value: 0x0011 },
      // Completion timeout disable is all of the second device control register that exists here.
      { name: 'devcap2', offset: 0x24, size: 4, value: 0x0000_0010 },
      { name: 'devctl2', offset: 0x28, size: 2, writable: 0x0010 },
      { name: 'lnkcap2', offset: 0x2c, size: 4, value: 0x0000_0002 },
      { name: 'lnkctl2', offset: 0x30, size: 2, value: 0x0001, writable: 0x000f },
    ],
  };
}

/** A vendor-specific capability: id, next, length, then the model's bytes, all read-only. */
export function vendorCapability(body: Uint8Array, number: number): Capability {
  const length = body.length + 3;
  const bytes = new Uint8Array(body.length + 1);
  bytes[0] = length;
  bytes.set(body, 1);
  return { name: `vendor${number}`, id: capabilityId.vendor, length, registers: [], body: bytes };
}

/** The capabilities of a description in the order of their chain; that order is part of the saved layout. */
export function standardCapabilities(description: PciDescription): Capability[] {
  const wanted = description.capabilities;
  const capabilities: Capability[] = [];
  if (wanted?.powerManagement) capabilities.push(powerManagementCapability());
  if (wanted?.pcie) capabilities.push(pcieCapability(wanted.pcie));
  if (wanted?.msi) capabilities.push(msiCapability(wanted.msi));
  if (wanted?.msix) capabilities.push(msixCapability(wanted.msix));
  wanted?.vendor?.forEach((body, number) => {
    capabilities.push(vendorCapability(body, number));
  });
  return capabilities;
}
