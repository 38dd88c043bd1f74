/** Operations that a client like QEMU's makes: negotiation, description, regions, interrupts, DMA, reset. */
import type { Capabilities, OfferedCapabilities } from '../capabilities.ts';
import { formatCapabilities, parseCapabilities } from '../capabilities.ts';
import { dmaUnmapFlags, irqSetFlags, protocolVersion, sparseMmapCapability } from '../constants.ts';
import { messages } from '../messages.ts';
import type { StructValue } from '../struct.ts';
import * as s from '../structs.ts';
import { demand, type Operation, operation, type ReplyMessage } from './operation.ts';

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
  /** `VFIO_DEVICE_FLAGS_*`. */
  readonly flags: number;
  readonly regions: number;
  readonly irqs: number;
}

/** DEVICE_GET_INFO: how many regions and interrupt indices there are. */
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
  /** `VFIO_REGION_INFO_FLAG_*`. */
  readonly flags: number;
  readonly size: number;
  /** Offset of the region in the descriptor. */
  readonly offset: number;
  /** Room that the whole description needs; larger than asked for: ask again. */
  readonly argsz: number;
  /** What of the region may be mapped. */
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

/** DEVICE_GET_REGION_INFO; `argsz` is the room for the reply, which leaves out what does not fit. */
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
  /** Room that the whole description needs; larger than asked for: ask again. */
  readonly argsz: number;
  /** How many sub-regions there are, whether or not they fit. */
  readonly count: number;
  readonly subRegions: readonly StructValue<typeof s.subRegionIoFd.fields>[];
  readonly fds: readonly number[];
}

/** DEVICE_GET_REGION_IO_FDS, with `argsz` as above. The descriptors are the caller's to close. */
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

/** DEVICE_GET_IRQ_INFO: `VFIO_IRQ_INFO_*` flags, and how many interrupts the index has. */
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
  /** First interrupt of the range; default 0. */
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

/** DEVICE_SET_IRQS. */
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
    { data, fds: eventfds },
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

/** REGION_READ: `count` bytes, at most what was negotiated. */
export function regionRead(region: number, offset: number, count: number): Operation<Buffer> {
  return operation(messages.REGION_READ, { offset, region, count }, (reply) => {
    checkAccess(reply, region, offset, count);
    return reply.data;
  });
}

/** REGION_WRITE: all of `data`, at most what was negotiated. */
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

/** REGION_WRITE_MULTI: at most 200 writes, which a server does whole or not at all. */
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

/** DEVICE_RESET. */
export function reset(): Operation<void> {
  return operation(messages.DEVICE_RESET, {}, () => undefined);
}

export interface DmaMapRequest {
  readonly iova: number;
  readonly size: number;
  /** `dmaProt` bits. */
  readonly prot: number;
  /** Stays the caller's. Left out: the memory is reached by messages. */
  readonly fd?: number;
  /** Where in the file the memory begins; default 0. */
  readonly fdOffset?: number;
}

/** DMA_MAP. Address and size are multiples of 4096. */
export function dmaMap({ iova, size, prot, fd, fdOffset = 0 }: DmaMapRequest): Operation<void> {
  const value = { argsz: s.dmaMap.size, flags: prot, offset: fdOffset, addr: iova, size };
  return operation(messages.DMA_MAP, value, () => undefined, fd === undefined ? {} : { fds: [fd] });
}

/** DMA_UNMAP of all mappings in that range; `flags`: `VFIO_DMA_UNMAP_FLAG_*`. */
export function dmaUnmap(iova: number, size: number, flags = 0): Operation<void> {
  const [addr, bytes] = [BigInt(iova), BigInt(size)];
  return operation(messages.DMA_UNMAP, { argsz: s.dmaUnmap.size, flags, addr, size: bytes }, ({ value }) =>
    demand(value.addr === addr && value.size === bytes, 'another region was unmapped'),
  );
}

/** DMA_UNMAP of all mappings there are. */
export function dmaUnmapAll(): Operation<void> {
  return dmaUnmap(0, 0, dmaUnmapFlags.all);
}
