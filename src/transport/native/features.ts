import { errno, RequestError } from '../../errors.ts';
import { isPowerOfTwo } from '../../power-of-two.ts';
import { feature, featureFlags, noDataFd } from '../../vfio-user/constants.ts';
import type { FieldTable, Struct, StructValue } from '../../vfio-user/struct.ts';
import * as s from '../../vfio-user/structs.ts';
import type { DmaRange, ServedMigration } from '../served-device.ts';

/** Bytes of bitmap in one DMA_LOGGING_REPORT: 1 TiB of 4 KiB pages. */
const maxReportBitmap = 32 * 1024 * 1024;
/** Bitmaps come in 64-bit words. */
const bitmapWordBits = 64;

/** Memory of at least `size` bytes that holds until the reply has been sent; what is in it is left over. */
type Scratch = (size: number) => Buffer;

interface Feature {
  /**
   * Returns the data of the reply; at most `room` bytes, which has been checked where the size is fixed. It may lie in
   * what `scratch` gives.
   */
  readonly get?: (migration: ServedMigration, data: Buffer, room: number, scratch: Scratch) => Buffer;
  /** Returns the data of the reply. */
  readonly set?: (migration: ServedMigration, data: Buffer) => Buffer;
}

function refuse(message: string): never {
  throw new RequestError(errno.EINVAL, `DEVICE_FEATURE: ${message}`);
}

function encoded<F extends FieldTable>(structure: Struct<F>, value: StructValue<F>): Buffer {
  const bytes = Buffer.alloc(structure.size);
  structure.encode(value, bytes, 0);
  return bytes;
}

function decoded<F extends FieldTable>(structure: Struct<F>, data: Buffer): StructValue<F> {
  if (data.length < structure.size) {
    refuse(`${data.length} bytes of data, ${structure.name} has ${structure.size}`);
  }
  return structure.decode(data, 0);
}

function startLogging(migration: ServedMigration, data: Buffer): Buffer {
  const control = decoded(s.loggingControl, data);
  const needed = s.loggingControl.size + control.num_ranges * s.loggingRange.size;
  if (data.length < needed)
    refuse(`${control.num_ranges} ranges need ${needed} bytes, there are ${data.length}`);
  if (control.page_size === 0) refuse('page size 0');
  const ranges: DmaRange[] = [];
  for (let at = s.loggingControl.size; at < needed; at += s.loggingRange.size) {
    ranges.push(s.loggingRange.decode(data, at));
  }
  const pageSize = migration.startDmaLogging(control.page_size, ranges);
  const reply = Buffer.from(data.subarray(0, needed));
  s.loggingControl.encode({ ...control, page_size: pageSize }, reply, 0);
  return reply;
}

function reportLogging(migration: ServedMigration, data: Buffer, room: number, scratch: Scratch): Buffer {
  const request = decoded(s.loggingReport, data);
  const { iova, length, page_size: pageSize } = request;
  if (!isPowerOfTwo(pageSize)) refuse(`page size ${pageSize} is no power of two`);
  if (length === 0 || !Number.isSafeInteger(iova + length)) refuse(`range of ${length} bytes at ${iova}`);
  const pages = Math.ceil(length / pageSize);
  const bitmapSize = Math.ceil(pages / bitmapWordBits) * (bitmapWordBits / 8);
  if (bitmapSize > maxReportBitmap) refuse(`a bitmap of ${bitmapSize} bytes is too large`);
  if (s.loggingReport.size + bitmapSize > room)
    refuse(`argsz leaves no room for ${bitmapSize} bytes of bitmap`);
  const size = s.loggingReport.size + bitmapSize;
  const reply = scratch(size).subarray(0, size).fill(0);
  s.loggingReport.encode(request, reply, 0);
  migration.reportDmaLogging(iova, length, pageSize, reply.subarray(s.loggingReport.size));
  return reply;
}

/** `VFIO_DEVICE_FEATURE_*` by index: which methods it has, and what they do. */
const features: Readonly<Record<number, Feature>> = {
  [feature.MIGRATION]: {
    get: (migration) => encoded(s.featureMigration, { flags: migration.flags }),
  },
  [feature.MIG_DEVICE_STATE]: {
    get: (migration) => encoded(s.featureMigState, { device_state: migration.state, data_fd: noDataFd }),
    set: (migration, data) => {
      const { device_state } = decoded(s.featureMigState, data);
      migration.setState(device_state);
      return Buffer.from(data);
    },
  },
  [feature.DMA_LOGGING_START]: { set: startLogging },
  [feature.DMA_LOGGING_STOP]: {
    set: (migration, data) => {
      migration.stopDmaLogging();
      return Buffer.from(data);
    },
  },
  [feature.DMA_LOGGING_REPORT]: { get: reportLogging },
  [feature.MIG_DATA_SIZE]: {
    get: (migration) => encoded(s.featureDataSize, { stop_copy_length: migration.dataSize() }),
  },
};

/** A DEVICE_FEATURE request, and what its reply holds. */
export interface FeatureMessage {
  readonly argsz: number;
  readonly flags: number;
  readonly data: Buffer;
}

/**
 * Serves DEVICE_FEATURE (specification, section of that name; linux/vfio.h `struct vfio_device_feature`).
 * Everything that is not supported is EINVAL, as libvfio-user answers it.
 */
export function serveFeature(
  migration: ServedMigration | undefined,
  request: FeatureMessage,
  scratch: Scratch,
): FeatureMessage {
  const { argsz, flags, data } = request;
  const index = flags & featureFlags.indexMask;
  const get = (flags & featureFlags.get) !== 0;
  const set = (flags & featureFlags.set) !== 0;
  const probe = (flags & featureFlags.probe) !== 0;
  const found = migration === undefined ? undefined : features[index];
  if (migration === undefined || found === undefined) refuse(`feature ${index} is not supported`);
  if (get && found.get === undefined) refuse(`feature ${index} can't do GET`);
  if (set && found.set === undefined) refuse(`feature ${index} can't do SET`);
  if (argsz < s.deviceFeature.size) refuse(`argsz ${argsz} is less than ${s.deviceFeature.size}`);
  if (probe) return { argsz, flags, data: Buffer.from(data) };
  if (get && set) refuse('GET and SET together are only for PROBE');
  const room = argsz - s.deviceFeature.size;
  if (get && found.get !== undefined) {
    const reply = found.get(migration, data, room, scratch);
    if (reply.length > room) refuse(`argsz ${argsz} leaves no room for ${reply.length} bytes`);
    return { argsz: s.deviceFeature.size + reply.length, flags, data: reply };
  }
  if (set && found.set !== undefined) return { argsz, flags, data: found.set(migration, data) };
  return refuse('neither GET, SET nor PROBE');
}
