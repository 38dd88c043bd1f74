/** Constants and structures of libvfio-user's include/libvfio-user.h; the same in both generations unless noted. */

/** `LIBVFIO_USER_FLAG_ATTACH_NB`. */
export const attachNonBlocking = 1;
/** `VFU_TRANS_SOCK`. */
export const transportSocket = 0;
/** `VFU_DEV_TYPE_PCI`. */
export const deviceTypePci = 0;

/** `vfu_pci_type_t`: decides the size of configuration space, 256 or 4096 bytes. */
export const pciType = { conventional: 0, express: 3 } as const;

/** `VFU_REGION_FLAG_*`. The ones for 64-bit and prefetchable BARs exist in v2 only; our own config space says that. */
export const regionFlag = { readWrite: 3, memory: 4, alwaysCallback: 8 } as const;

/** `vfu_reset_type_t`. */
export const resetType = { device: 0, lostConnection: 1, functionLevel: 2 } as const;

/** `vfu_migr_state_t` of v2, as vfio.h's `vfio_device_mig_state`: index is the library's number. */
export const vfioStateOf: readonly number[] = [1, 2, 3, 6, 4];

/** `vfu_dma_info_t`: offsets in bytes. `vaddr` is 0 where the region is not mapped. */
export const dmaInfo = { iova: 0, length: 8, vaddr: 16, prot: 48, size: 56 } as const;

/** `vfu_migration_callbacks_t` of v2. */
export const migrationCallbacks = {
  version: 0,
  transition: 8,
  readData: 16,
  writeData: 24,
  size: 32,
  /** `VFU_MIGR_CALLBACKS_VERS`. */
  currentVersion: 2,
} as const;

/** syslog(3) levels. */
export const syslog = { error: 3, warning: 4, info: 6, debug: 7 } as const;

/** Most DMA regions that a client may have (v2; the 2022 copy has a fixed limit). As many as QEMU may make. */
export const maxDmaRegions = 65535;

/** `SERVER_MAX_MSG_SIZE` of lib/libvfio-user.c: longer messages are refused by their header alone. */
export const maxMessageSize = 1024 * 1024 + 16 + 16;
