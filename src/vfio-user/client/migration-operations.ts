/** Operations of whoever drives a migration: DEVICE_FEATURE and what is in it, MIG_*, the companion extension. */
import { packPlain, unpackPlain } from '../../msgpack.ts';
import { feature, featureFlags, noDataFd } from '../constants.ts';
import { messages } from '../messages.ts';
import * as s from '../structs.ts';
import { ProtocolError } from './errors.ts';
import { demand, type Operation, operation } from './operation.ts';

/** DEVICE_FEATURE. `room` is what the reply's data may take. The reply's data are the result. */
export function deviceFeature(
  flags: number,
  data: Uint8Array,
  room: number = data.length,
): Operation<Buffer> {
  const argsz = s.deviceFeature.size + room;
  return operation(
    messages.DEVICE_FEATURE,
    { argsz, flags },
    (reply) => {
      demand(
        reply.value.flags === flags,
        `flags 0x${reply.value.flags.toString(16)} instead of 0x${flags.toString(16)}`,
      );
      demand(reply.data.length <= room, 'longer than argsz allows');
      return reply.data;
    },
    { data },
  );
}

function map<T, U>(from: Operation<T>, convert: (value: T) => U): Operation<U> {
  return { ...from, parse: (reply) => convert(from.parse(reply)) };
}

const nothing = Buffer.alloc(0);

/** Whether the feature is there with all methods named in `methods` (`featureFlags.get | set`): refused if not. */
export function probeFeature(index: number, methods = 0): Operation<void> {
  return map(deviceFeature(index | methods | featureFlags.probe, nothing), () => undefined);
}

/** The feature MIGRATION: `VFIO_MIGRATION_*` bits. */
export function migrationFlags(): Operation<number> {
  const size = s.featureMigration.size;
  return map(deviceFeature(feature.MIGRATION | featureFlags.get, nothing, size), (data) => {
    demand(data.length === size, `${data.length} bytes of MIGRATION`);
    return s.featureMigration.decode(data, 0).flags;
  });
}

/** The feature MIG_DEVICE_STATE: a `VFIO_DEVICE_STATE_*`. */
export function migrationState(): Operation<number> {
  const size = s.featureMigState.size;
  return map(deviceFeature(feature.MIG_DEVICE_STATE | featureFlags.get, nothing, size), (data) => {
    demand(data.length === size, `${data.length} bytes of MIG_DEVICE_STATE`);
    return s.featureMigState.decode(data, 0).device_state;
  });
}

/** Has the device go to a state, by way of others where `vfio.h` says so. */
export function setMigrationState(state: number): Operation<void> {
  const data = Buffer.alloc(s.featureMigState.size);
  s.featureMigState.encode({ device_state: state, data_fd: noDataFd }, data, 0);
  return map(deviceFeature(feature.MIG_DEVICE_STATE | featureFlags.set, data), (reply) => {
    demand(reply.length === data.length, `${reply.length} bytes of MIG_DEVICE_STATE`);
  });
}

/** Estimate of the STOP_COPY data, bytes. */
export function migrationDataSize(): Operation<number> {
  const size = s.featureDataSize.size;
  return map(deviceFeature(feature.MIG_DATA_SIZE | featureFlags.get, nothing, size), (data) => {
    demand(data.length === size, `${data.length} bytes of MIG_DATA_SIZE`);
    return s.featureDataSize.decode(data, 0).stop_copy_length;
  });
}

/** I/O virtual addresses, in bytes. */
export interface LoggingRange {
  readonly iova: number;
  readonly length: number;
}

/** Results in the page size, in bytes, that the device chose. No ranges: everything. */
export function startDmaLogging(pageSize: number, ranges: readonly LoggingRange[] = []): Operation<number> {
  const data = Buffer.alloc(s.loggingControl.size + ranges.length * s.loggingRange.size);
  let at = s.loggingControl.encode({ page_size: pageSize, num_ranges: ranges.length, reserved: 0 }, data, 0);
  for (const { iova, length } of ranges) at = s.loggingRange.encode({ iova, length }, data, at);
  return map(deviceFeature(feature.DMA_LOGGING_START | featureFlags.set, data), (reply) => {
    demand(reply.length === data.length, `${reply.length} bytes of DMA_LOGGING_START`);
    return s.loggingControl.decode(reply, 0).page_size;
  });
}

/** Ends the dirty log and forgets what is in it. */
export function stopDmaLogging(): Operation<void> {
  return map(deviceFeature(feature.DMA_LOGGING_STOP | featureFlags.set, nothing), () => undefined);
}

/** Results in the bitmap (one bit for each page, least significant first), and clears the log for the range. */
export function reportDmaLogging(iova: number, length: number, pageSize: number): Operation<Buffer> {
  const data = Buffer.alloc(s.loggingReport.size);
  s.loggingReport.encode({ iova, length, page_size: pageSize }, data, 0);
  const bitmap = Math.ceil(Math.ceil(length / pageSize) / 64) * 8;
  const room = s.loggingReport.size + bitmap;
  return map(deviceFeature(feature.DMA_LOGGING_REPORT | featureFlags.get, data, room), (reply) => {
    demand(reply.length === room, `${reply.length} bytes of DMA_LOGGING_REPORT instead of ${room}`);
    return reply.subarray(s.loggingReport.size);
  });
}

/** Up to `size` bytes of state; fewer (or none) at the end, which in the PRE_COPY states is only temporary. */
export function readState(size: number): Operation<Buffer> {
  return operation(messages.MIG_DATA_READ, { argsz: s.migData.size + size, size }, ({ value, data }) => {
    demand(
      value.size <= size && value.size <= data.length,
      `${value.size} bytes of ${size}, ${data.length} are there`,
    );
    return data.subarray(0, value.size);
  });
}

/** MIG_DATA_WRITE: the next bytes of state, at most as many as was negotiated. */
export function writeState(data: Uint8Array): Operation<void> {
  const value = { argsz: s.migData.size + data.length, size: data.length };
  return operation(messages.MIG_DATA_WRITE, value, () => undefined, { data });
}

/** `struct vfio_precopy_info`; `flags` are `VFIO_PRECOPY_INFO_*`. */
export interface PrecopyInfo {
  readonly initialBytes: number;
  readonly dirtyBytes: number;
  readonly flags: number;
}

/** MIG_PRECOPY_INFO: refused (EINVAL) outside of the PRE_COPY states. */
export function precopyInfo(): Operation<PrecopyInfo> {
  return operation(
    messages.MIG_PRECOPY_INFO,
    { argsz: s.precopyInfo.size, flags: 0, initial_bytes: 0, dirty_bytes: 0 },
    ({ value }) => ({ initialBytes: value.initial_bytes, dirtyBytes: value.dirty_bytes, flags: value.flags }),
  );
}

/** One operation of the companion extension: the map `{op, ...args}` there, one msgpack value back. */
export function companion(op: string, args: Readonly<Record<string, unknown>> = {}): Operation<unknown> {
  return operation(
    messages.COMPANION,
    {},
    ({ data }) => {
      try {
        return unpackPlain(data);
      } catch {
        throw new ProtocolError(`bad reply: the result of ${op} is not msgpack`);
      }
    },
    { data: packPlain({ ...args, op }) },
  );
}
