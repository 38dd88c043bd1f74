import { errno, RequestError } from '../errors.ts';

/** Where a function sits. */
export interface PciAddress {
  readonly bus: number;
  readonly device: number;
  readonly function: number;
}

/** "00:04.0" */
export function formatAddress(address: PciAddress): string {
  const hex = (value: number): string => value.toString(16).padStart(2, '0');
  return `${hex(address.bus)}:${hex(address.device)}.${address.function}`;
}

/** Value for port 0xCF8 (PCI Local Bus 3.0, 3.2.2.3.2, CONFIG_ADDRESS); offset is rounded to its dword. */
export function configAddressValue(address: PciAddress, offset: number): number {
  if (offset < 0 || offset > 0xff)
    throw new RequestError(
      errno.EINVAL,
      `configuration offset 0x${offset.toString(16)} is out of reach of port 0xcf8`,
    );
  const where = (address.bus << 16) | (address.device << 11) | (address.function << 8) | (offset & 0xfc);
  return (0x8000_0000 | where) >>> 0;
}

/** Offset of a function's configuration space in the ECAM window (PCI Express Base, 7.2.2). */
export function ecamOffset(address: PciAddress): number {
  return address.bus * 0x10_0000 + address.device * 0x8000 + address.function * 0x1000;
}
