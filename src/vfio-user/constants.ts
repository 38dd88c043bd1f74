/**
 * Numbers of the vfio-user protocol, with the names of its specification (QEMU docs/interop/vfio-user.rst),
 * of libvfio-user's include/vfio-user.h and of Linux include/uapi/linux/vfio.h.
 */

/** Commands: specification, section "Commands"; 14 was DIRTY_PAGES of migration v1 and is not served. */
export const command = {
  VERSION: 1,
  DMA_MAP: 2,
  DMA_UNMAP: 3,
  DEVICE_GET_INFO: 4,
  DEVICE_GET_REGION_INFO: 5,
  DEVICE_GET_REGION_IO_FDS: 6,
  DEVICE_GET_IRQ_INFO: 7,
  DEVICE_SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  DMA_READ: 11,
  DMA_WRITE: 12,
  DEVICE_RESET: 13,
  REGION_WRITE_MULTI: 15,
  DEVICE_FEATURE: 16,
  MIG_DATA_READ: 17,
  MIG_DATA_WRITE: 18,
  /** Not in the specification: libvfio-user pull request 823 gives `VFIO_MIG_GET_PRECOPY_INFO` this number. */
  MIG_PRECOPY_INFO: 19,
  /** Ours, on the migration socket only, and only when `vfio_companion` was negotiated. */
  COMPANION: 0x8000,
} as const;

export type CommandName = keyof typeof command;

/** Header flags (specification, section "Header"). */
export const headerFlags = {
  typeMask: 0xf,
  typeCommand: 0,
  typeReply: 1,
  noReply: 0x10,
  error: 0x20,
} as const;

/** Protocol version that we speak; libvfio-user speaks 0.2, QEMU 0.0, with the same messages. */
export const protocolVersion = { major: 0, minor: 2 } as const;

/** Values that hold when a peer does not announce one (specification, section "Version"). */
export const defaultLimits = {
  maxMsgFds: 1,
  maxDataXferSize: 1024 * 1024,
  maxDmaMaps: 65535,
  pageSizes: 4096,
} as const;

/** The largest transfer that QEMU's client lets a server announce (hw/vfio-user/protocol.h VFIO_USER_MAX_MAX_XFER). */
export const largestDataXferSize = 64 * 1024 * 1024;
/** As many descriptors as QEMU's client sends or takes in one message (VFIO_USER_MAX_MAX_FDS). */
export const maxMsgFds = 16;

/** `VFIO_DEVICE_FLAGS_*`. */
export const deviceFlags = { reset: 1, pci: 2 } as const;

/** `VFIO_USER_F_DMA_REGION_*`; MAPPABLE is libvfio-user's and says that a descriptor must be there. */
export const dmaMapFlags = { read: 1, write: 2, mappable: 4 } as const;
/** `VFIO_DMA_UNMAP_FLAG_*`. */
export const dmaUnmapFlags = { getDirtyBitmap: 1, all: 2 } as const;

/** `VFIO_IRQ_SET_*`. */
export const irqSetFlags = {
  dataNone: 1,
  dataBool: 2,
  dataEventfd: 4,
  dataMask: 7,
  actionMask: 8,
  actionUnmask: 16,
  actionTrigger: 32,
  allActions: 56,
} as const;

/** Indices of regions and interrupts of a PCI device (`VFIO_PCI_*_INDEX`). */
export const pciRegion = { bar0: 0, bar5: 5, rom: 6, config: 7, vga: 8, count: 9 } as const;
export const pciIrq = { intx: 0, msi: 1, msix: 2, err: 3, req: 4, count: 5 } as const;

/** `VFIO_REGION_INFO_CAP_SPARSE_MMAP`, version 1. */
export const sparseMmapCapability = { id: 1, version: 1 } as const;

/** Types of sub-regions in DEVICE_GET_REGION_IO_FDS (specification); we offer only the first. */
export const ioFdType = { ioeventfd: 0, ioregionfd: 1, ioeventfdShadow: 2 } as const;
/** `KVM_IOEVENTFD_FLAG_*` (linux/kvm.h). */
export const ioeventfdFlags = { datamatch: 1, pio: 2 } as const;

/** `VFIO_DEVICE_FEATURE_*`: operation bits. */
export const featureFlags = { indexMask: 0xffff, get: 1 << 16, set: 1 << 17, probe: 1 << 18 } as const;

/** `VFIO_DEVICE_FEATURE_*`: indices. MIG_DATA_SIZE is not in vfio-user's specification; libvfio-user PR 823 has it. */
export const feature = {
  MIGRATION: 1,
  MIG_DEVICE_STATE: 2,
  DMA_LOGGING_START: 6,
  DMA_LOGGING_STOP: 7,
  DMA_LOGGING_REPORT: 8,
  MIG_DATA_SIZE: 9,
} as const;

/** `data_fd` of MIG_DEVICE_STATE: unused in vfio-user, -1. */
export const noDataFd = 0xffff_ffff;

/** Most writes that one REGION_WRITE_MULTI may carry: QEMU's VFIO_USER_MULTI_MAX. */
export const maxMultiWrites = 200;

/** Kernel buffers of a migration socket: a few chunks of state, so that neither side waits for each of them. */
export const stateBuffers = 4 * 1024 * 1024;
