import { packPlain, unpackPlain } from '../../msgpack.ts';
import type { Capabilities, OfferedCapabilities } from '../capabilities.ts';
import { formatCapabilities, parseCapabilities } from '../capabilities.ts';
import {
  dmaUnmapFlags,
  feature,
  featureFlags,
  irqSetFlags,
  noDataFd,
  protocolVersion,
  sparseMmapCapability,
} from '../constants.ts';
import { type MessageSpec, messages } from '../messages.ts';
import type { FieldTable, StructValue } from '../struct.ts';
import * as s from '../structs.ts';
import { ProtocolError } from './errors.ts';

/** A checked reply: structure decoded, what follows it, descriptors (which become the receiver's). */
export interface ReplyMessage<R extends FieldTable> {
  readonly value: StructValue<R>;
  readonly data: Buffer;
  readonly fds: readonly number[];
  /** False when the reply was a header alone, which some messages allow. */
  readonly complete: boolean;
}

/** One request with its meaning: what is sent, and what the reply is turned into. Both clients run these. */
export interface Operation<T> {
  readonly spec: MessageSpec;
  readonly value: StructValue<FieldTable>;
  readonly data: Uint8Array | undefined;
  readonly fds: readonly number[] | undefined;
  /** Throws `ProtocolError` for a reply that does not fit. */
  parse(reply: ReplyMessage<FieldTable>): T;
}

function operation<Q extends FieldTable, R extends FieldTable, T>(
  spec: MessageSpec<Q, R>,
  value: StructValue<Q>,
  parse: (reply: ReplyMessage<R>) => T,
  extra: { data?: Uint8Array; fds?: readonly number[] } = {},
): Operation<T> {
  return {
    spec: spec as unknown as MessageSpec,
    value: value as StructValue<FieldTable>,
    data: extra.data,
    fds: extra.fds,
    parse: (reply) => parse(reply as unknown as ReplyMessage<R>),
  };
}

function demand(condition: boolean, what: string): void {
  if (!condition) throw new ProtocolError(`bad reply: ${what}`);
}

export interface Negotiated {
  readonly minor: number;
  readonly capabilities: Capabilities;
}

/** VERSION: proposes `offer`. */
export function negotiate(offer: OfferedCapabilities): Operation<Negotiated> {
  return operation(
    messages.VERSION,
    { ...protocolVersion },
    ({ value, data }) => {
      demand(value.major === protocolVersion.major, `major version ${value.major}`);
      demand(value.minor <= protocolVersion.minor, `minor version ${value.minor} is above ours`);
      return { minor: value.minor, capabilities: parseCapabilities(data) };
    },
    { data: formatCapabilities(offer) },
  );
}

export interface DeviceInfo {
  readonly flags: number;
  readonly regions: number;
  readonly irqs: number;
}

export function deviceInfo(): Operation<DeviceInfo> {
  return operation(
    messages.DEVICE_GET_INFO,
    { argsz: s.deviceInfo.size, flags: 0, num_regions: 0, num_irqs: 0 },
    ({ value }) => {
      demand(value.argsz === s.deviceInfo.size, `argsz ${value.argsz}`);
      return { flags: value.flags, regions: value.num_regions, irqs: value.num_irqs };
    },
  );
}

export interface RegionDescription {
  readonly flags: number;
  readonly size: number;
  /** Offset of the region in the descriptor. */
  readonly offset: number;
  /** Room that the whole description needs; larger than asked for: ask again. */
  readonly argsz: number;
  readonly areas: readonly { readonly offset: number; readonly size: number }[];
  /** The descriptor to map, ours to close. */
  readonly fd: number | undefined;
}

function parseAreas(data: Buffer): { offset: number; size: number }[] {
  demand(data.length >= s.sparseMmap.size, 'a region capability that is cut off');
  const { id, version, next, nr_areas: count } = s.sparseMmap.decode(data, 0);
  demand(
    id === sparseMmapCapability.id && version === sparseMmapCapability.version,
    `region capability ${id}`,
  );
  demand(next === 0, 'more than one region capability');
  demand(
    data.length === s.sparseMmap.size + count * s.sparseMmapArea.size,
    `${count} areas in ${data.length} bytes`,
  );
  return Array.from({ length: count }, (_, i) =>
    s.sparseMmapArea.decode(data, s.sparseMmap.size + i * s.sparseMmapArea.size),
  );
}

export function regionInfo(index: number, argsz: number = s.regionInfo.size): Operation<RegionDescription> {
  return operation(
    messages.DEVICE_GET_REGION_INFO,
    { argsz, flags: 0, index, cap_offset: 0, size: 0, offset: 0 },
    ({ value, data, fds }) => {
      demand(value.index === index, `region ${value.index} instead of ${index}`);
      demand(s.regionInfo.size + data.length <= argsz, 'longer than argsz allows');
      demand(value.argsz >= s.regionInfo.size, `argsz ${value.argsz}`);
      demand(fds.length <= 1, `${fds.length} descriptors for one region`);
      if (value.cap_offset !== 0) {
        demand(value.cap_offset === s.regionInfo.size, `capabilities at ${value.cap_offset}`);
        demand(data.length > 0, 'the capabilities are missing');
      }
      return {
        flags: value.flags,
        size: value.size,
        offset: value.offset,
        argsz: value.argsz,
        areas: value.cap_offset === 0 ? [] : parseAreas(data),
        fd: fds[0],
      };
    },
  );
}

export interface IoFdDescription {
  readonly argsz: number;
  readonly count: number;
  readonly subRegions: readonly StructValue<typeof s.subRegionIoFd.fields>[];
  readonly fds: readonly number[];
}

export function regionIoFds(index: number, argsz: number = s.regionIoFds.size): Operation<IoFdDescription> {
  return operation(
    messages.DEVICE_GET_REGION_IO_FDS,
    { argsz, flags: 0, index, count: 0 },
    ({ value, data, fds }) => {
      demand(value.index === index, `region ${value.index} instead of ${index}`);
      demand(data.length % s.subRegionIoFd.size === 0, 'a sub-region that is cut off');
      const count = data.length / s.subRegionIoFd.size;
      demand(count === 0 || count === value.count, `${count} sub-regions instead of ${value.count}`);
      const subRegions = Array.from({ length: count }, (_, i) =>
        s.subRegionIoFd.decode(data, i * s.subRegionIoFd.size),
      );
      for (const { fd_index } of subRegions)
        demand(fd_index < fds.length, `descriptor ${fd_index} is missing`);
      return { argsz: value.argsz, count: value.count, subRegions, fds };
    },
  );
}

export function irqInfo(index: number): Operation<{ flags: number; count: number }> {
  return operation(
    messages.DEVICE_GET_IRQ_INFO,
    { argsz: s.irqInfo.size, flags: 0, index, count: 0 },
    ({ value }) => {
      demand(value.index === index, `interrupt index ${value.index} instead of ${index}`);
      return { flags: value.flags, count: value.count };
    },
  );
}

export interface IrqRequest {
  readonly index: number;
  readonly start?: number;
  readonly count: number;
  readonly action: 'mask' | 'unmask' | 'trigger';
  /** Nothing given: DATA_NONE. `eventfds: []` takes the descriptors of the range away. */
  readonly bools?: readonly boolean[];
  /** Stay the caller's. */
  readonly eventfds?: readonly number[];
}

const actionFlag = {
  mask: irqSetFlags.actionMask,
  unmask: irqSetFlags.actionUnmask,
  trigger: irqSetFlags.actionTrigger,
} as const;

export function setIrqs(request: IrqRequest): Operation<void> {
  const { index, start = 0, count, action, bools, eventfds } = request;
  const data = bools === undefined ? undefined : Uint8Array.from(bools, (value) => (value ? 1 : 0));
  let kind: number = irqSetFlags.dataNone;
  if (bools !== undefined) kind = irqSetFlags.dataBool;
  if (eventfds !== undefined) kind = irqSetFlags.dataEventfd;
  const argsz = s.irqSet.size + (data?.length ?? 0);
  return operation(
    messages.DEVICE_SET_IRQS,
    { argsz, flags: kind | actionFlag[action], index, start, count },
    () => undefined,
    { ...(data === undefined ? {} : { data }), ...(eventfds === undefined ? {} : { fds: eventfds }) },
  );
}

function checkAccess(
  reply: ReplyMessage<typeof s.regionAccess.fields>,
  region: number,
  offset: number,
  count: number,
): void {
  if (!reply.complete) {
    demand(count === 0, 'a header alone');
    return;
  }
  const { value } = reply;
  demand(
    value.region === region && value.offset === offset && value.count === count,
    `${value.count} bytes at ${value.offset} of region ${value.region} instead of ${count} at ${offset} of ${region}`,
  );
}

/** The reply's bytes; good until the next request. */
export function regionRead(region: number, offset: number, count: number): Operation<Buffer> {
  return operation(messages.REGION_READ, { offset, region, count }, (reply) => {
    checkAccess(reply, region, offset, count);
    return reply.data;
  });
}

export function regionWrite(region: number, offset: number, data: Uint8Array): Operation<void> {
  const value = { offset, region, count: data.length };
  return operation(messages.REGION_WRITE, value, (reply) => checkAccess(reply, region, offset, data.length), {
    data,
  });
}

export interface SmallWrite {
  readonly region: number;
  readonly offset: number;
  /** At most 8 bytes. */
  readonly data: Uint8Array;
}

export function regionWriteMulti(writes: readonly SmallWrite[]): Operation<void> {
  const stride = s.singleWrite.size + s.singleWriteData;
  const data = Buffer.alloc(writes.length * stride);
  for (const [i, { region, offset, data: bytes }] of writes.entries()) {
    const at = s.singleWrite.encode({ offset, region, count: bytes.length }, data, i * stride);
    data.set(bytes.subarray(0, s.singleWriteData), at);
  }
  return operation(
    messages.REGION_WRITE_MULTI,
    { wr_cnt: writes.length },
    ({ value }) =>
      demand(value.wr_cnt === writes.length, `${value.wr_cnt} of ${writes.length} writes were done`),
    { data },
  );
}

export function reset(): Operation<void> {
  return operation(messages.DEVICE_RESET, {}, () => undefined);
}

export interface DmaMapRequest {
  readonly iova: number;
  readonly size: number;
  /** `dmaProt` bits. */
  readonly prot: number;
  /** Stays the caller's. */
  readonly fd?: number;
  readonly fdOffset?: number;
}

export function dmaMap({ iova, size, prot, fd, fdOffset = 0 }: DmaMapRequest): Operation<void> {
  const value = { argsz: s.dmaMap.size, flags: prot, offset: fdOffset, addr: iova, size };
  return operation(messages.DMA_MAP, value, () => undefined, fd === undefined ? {} : { fds: [fd] });
}

export function dmaUnmap(iova: number, size: number, flags = 0): Operation<void> {
  return operation(messages.DMA_UNMAP, { argsz: s.dmaUnmap.size, flags, addr: iova, size }, ({ value }) =>
    demand(value.addr === iova && value.size === size, 'another region was unmapped'),
  );
}

export function dmaUnmapAll(): Operation<void> {
  return dmaUnmap(0, 0, dmaUnmapFlags.all);
}

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

export function migrationFlags(): Operation<number> {
  const size = s.featureMigration.size;
  return map(deviceFeature(feature.MIGRATION | featureFlags.get, nothing, size), (data) => {
    demand(data.length === size, `${data.length} bytes of MIGRATION`);
    return s.featureMigration.decode(data, 0).flags;
  });
}

export function migrationState(): Operation<number> {
  const size = s.featureMigState.size;
  return map(deviceFeature(feature.MIG_DEVICE_STATE | featureFlags.get, nothing, size), (data) => {
    demand(data.length === size, `${data.length} bytes of MIG_DEVICE_STATE`);
    return s.featureMigState.decode(data, 0).device_state;
  });
}

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

export interface LoggingRange {
  readonly iova: number;
  readonly length: number;
}

/** Results in the page size that the device chose. No ranges: everything. */
export function startDmaLogging(pageSize: number, ranges: readonly LoggingRange[] = []): Operation<number> {
  const data = Buffer.alloc(s.loggingControl.size + ranges.length * s.loggingRange.size);
  let at = s.loggingControl.encode({ page_size: pageSize, num_ranges: ranges.length, reserved: 0 }, data, 0);
  for (const { iova, length } of ranges) at = s.loggingRange.encode({ iova, length }, data, at);
  return map(deviceFeature(feature.DMA_LOGGING_START | featureFlags.set, data), (reply) => {
    demand(reply.length === data.length, `${reply.length} bytes of DMA_LOGGING_START`);
    return s.loggingControl.decode(reply, 0).page_size;
  });
}

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

export function writeState(data: Uint8Array): Operation<void> {
  const value = { argsz: s.migData.size + data.length, size: data.length };
  return operation(messages.MIG_DATA_WRITE, value, () => undefined, { data });
}

export interface PrecopyInfo {
  readonly initialBytes: number;
  readonly dirtyBytes: number;
  readonly flags: number;
}

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
