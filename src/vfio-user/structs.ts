import { struct } from './struct.ts';

/**
 * Every structure of the protocol, declared once. Names are those of libvfio-user's include/vfio-user.h (which
 * follow `struct vfio_*` of linux/vfio.h) without the prefix; layouts are those of QEMU
 * docs/interop/vfio-user.rst, in the section of the command of the same name.
 */

/** `struct vfio_user_header`. */
export const header = struct('vfio_user_header', {
  msg_id: 'u16',
  cmd: 'u16',
  msg_size: 'u32',
  flags: 'u32',
  error_no: 'u32',
});

export const empty = struct('(no payload)', {});

/** Followed by the capabilities: JSON with a terminating NUL. */
export const version = struct('vfio_user_version', { major: 'u16', minor: 'u16' });

export const dmaMap = struct('vfio_user_dma_map', {
  argsz: 'u32',
  flags: 'u32',
  offset: 'u64',
  addr: 'u64',
  size: 'u64',
});

/** A client may take back more than it has given: up to the end of all addresses. */
export const dmaUnmap = struct('vfio_user_dma_unmap', {
  argsz: 'u32',
  flags: 'u32',
  addr: 'u64big',
  size: 'u64big',
});

export const deviceInfo = struct('vfio_user_device_info', {
  argsz: 'u32',
  flags: 'u32',
  num_regions: 'u32',
  num_irqs: 'u32',
});

/** `struct vfio_region_info`. */
export const regionInfo = struct('vfio_region_info', {
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  cap_offset: 'u32',
  size: 'u64',
  offset: 'u64',
});

/** `struct vfio_region_info_cap_sparse_mmap` with its `vfio_info_cap_header`; `nr_areas` areas follow. */
export const sparseMmap = struct('vfio_region_info_cap_sparse_mmap', {
  id: 'u16',
  version: 'u16',
  next: 'u32',
  nr_areas: 'u32',
  reserved: 'u32',
});
export const sparseMmapArea = struct('vfio_region_sparse_mmap_area', { offset: 'u64', size: 'u64' });

export const regionIoFds = struct('vfio_user_region_io_fds', {
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  count: 'u32',
});

/**
 * `vfio_user_sub_region_ioeventfd` of the specification, 40 bytes. libvfio-user's header has grown `shadow_offset` in the
 * middle, for an experimental kernel; that layout is not spoken here.
 */
export const subRegionIoFd = struct('vfio_user_sub_region_ioeventfd', {
  offset: 'u64',
  size: 'u64',
  fd_index: 'u32',
  type: 'u32',
  flags: 'u32',
  padding: 'u32',
  datamatch: 'u64big',
});

/** `struct vfio_irq_info`. */
export const irqInfo = struct('vfio_irq_info', { argsz: 'u32', flags: 'u32', index: 'u32', count: 'u32' });

/** `struct vfio_irq_set`; with DATA_BOOL one byte for each interrupt follows. */
export const irqSet = struct('vfio_irq_set', {
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  start: 'u32',
  count: 'u32',
});

/** Followed by the data in a write and in the reply to a read. */
export const regionAccess = struct('vfio_user_region_access', { offset: 'u64', region: 'u32', count: 'u32' });

/** 64-bit count as the specification has it; QEMU 10.1 and 10.2 put 32 bits there (see `transport/dma/channel.ts`). */
export const dmaAccess = struct('vfio_user_dma_region_access', { addr: 'u64', count: 'u64' });

export const regionWriteMulti = struct('vfio_user_region_write_multi', { wr_cnt: 'u64' });
/** One write of REGION_WRITE_MULTI; eight bytes of data follow each. */
export const singleWrite = struct('vfio_user_single_write', { offset: 'u64', region: 'u32', count: 'u32' });
/** Bytes of data in one write of REGION_WRITE_MULTI, used or not. */
export const singleWriteData = 8;

export const deviceFeature = struct('vfio_user_device_feature', { argsz: 'u32', flags: 'u32' });
export const featureMigration = struct('vfio_user_device_feature_migration', { flags: 'u64' });
export const featureMigState = struct('vfio_user_device_feature_mig_state', {
  device_state: 'u32',
  data_fd: 'u32',
});
export const featureDataSize = struct('vfio_device_feature_mig_data_size', { stop_copy_length: 'u64' });
/** `num_ranges` ranges follow. */
export const loggingControl = struct('vfio_user_device_feature_dma_logging_control', {
  page_size: 'u64',
  num_ranges: 'u32',
  reserved: 'u32',
});
export const loggingRange = struct('vfio_user_device_feature_dma_logging_range', {
  iova: 'u64',
  length: 'u64',
});
/** The bitmap follows in the reply. */
export const loggingReport = struct('vfio_user_device_feature_dma_logging_report', {
  iova: 'u64',
  length: 'u64',
  page_size: 'u64',
});

/** The data follow in a write and in the reply to a read. */
export const migData = struct('vfio_user_mig_data', { argsz: 'u32', size: 'u32' });

/** `struct vfio_precopy_info`. */
export const precopyInfo = struct('vfio_precopy_info', {
  argsz: 'u32',
  flags: 'u32',
  initial_bytes: 'u64',
  dirty_bytes: 'u64',
});
