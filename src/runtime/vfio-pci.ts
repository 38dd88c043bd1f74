import type { BarIndex } from '../device/pci-description.ts';

/** Region indices of a PCI device (vfio.h `VFIO_PCI_*_REGION_INDEX`). */
export const pciRegion = { bar0: 0, bar5: 5, rom: 6, config: 7, vga: 8, count: 9 } as const;

/** Interrupt indices INTX, MSI, MSIX, ERR and REQ (vfio.h `VFIO_PCI_NUM_IRQS`). */
export const pciIrqCount = 5;

/** `VFIO_DEVICE_FLAGS_*` (vfio.h). */
export const deviceFlags = { reset: 1, pci: 2 } as const;

export function isBarRegion(index: number): index is BarIndex {
  return index >= pciRegion.bar0 && index <= pciRegion.bar5;
}
