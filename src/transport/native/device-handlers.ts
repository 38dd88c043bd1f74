import { errno, RequestError } from '../../errors.ts';
import {
  dmaMapFlags,
  dmaUnmapFlags,
  irqSetFlags,
  pciIrq,
  sparseMmapCapability,
} from '../../vfio-user/constants.ts';
import { messages } from '../../vfio-user/messages.ts';
import * as s from '../../vfio-user/structs.ts';
import { type IrqSet, type MmapArea, type RegionIoFd, regionFlags } from '../served-device.ts';
import { type Handler, handler } from './handler.ts';

function refuse(message: string): never {
  throw new RequestError(errno.EINVAL, message);
}

/** `argsz` of a request: room that the client has for the reply; less than the structure makes no sense. */
function checkArgsz(what: string, argsz: number, needed: number): void {
  if (argsz < needed) refuse(`${what}: argsz ${argsz} is less than ${needed}`);
}

function checkIndex(what: string, index: number, count: number): void {
  if (index >= count) refuse(`${what}: index ${index} of ${count}`);
}

const onDevice = { roles: ['device'], nested: true } as const;

const getInfo = handler(messages.DEVICE_GET_INFO, onDevice, ({ device }, { value }) => {
  checkArgsz('DEVICE_GET_INFO', value.argsz, s.deviceInfo.size);
  const { flags, regions, irqs } = device.info;
  return { value: { argsz: s.deviceInfo.size, flags, num_regions: regions, num_irqs: irqs } };
});

function sparseMmap(areas: readonly MmapArea[]): Buffer {
  const bytes = Buffer.alloc(s.sparseMmap.size + areas.length * s.sparseMmapArea.size);
  const { id, version } = sparseMmapCapability;
  let at = s.sparseMmap.encode({ id, version, next: 0, nr_areas: areas.length, reserved: 0 }, bytes, 0);
  for (const { offset, size } of areas) at = s.sparseMmapArea.encode({ offset, size }, bytes, at);
  return bytes;
}

/** The capabilities and the descriptor are left out when the client has no room; `argsz` says what it needs. */
const getRegionInfo = handler(messages.DEVICE_GET_REGION_INFO, onDevice, ({ device }, { value }) => {
  const { index, argsz } = value;
  checkArgsz('DEVICE_GET_REGION_INFO', argsz, s.regionInfo.size);
  checkIndex('DEVICE_GET_REGION_INFO', index, device.info.regions);
  const { size, flags, mmap } = device.regionInfo(index);
  const access = flags & (regionFlags.read | regionFlags.write);
  const reply = { argsz: s.regionInfo.size, flags: access, index, cap_offset: 0, size, offset: 0 };
  if (mmap === undefined) return { value: reply };
  const capability = sparseMmap(mmap.areas);
  reply.argsz += capability.length;
  reply.flags |= regionFlags.mmap;
  reply.offset = mmap.fdOffset;
  if (argsz < reply.argsz) return { value: reply };
  reply.flags |= regionFlags.caps;
  reply.cap_offset = s.regionInfo.size;
  return { value: reply, data: capability, fds: [mmap.fd] };
});

/** The distinct descriptors of sub-regions, in order of appearance: what `fd_index` counts in. */
function distinctFds(subRegions: readonly RegionIoFd[]): number[] {
  return [...new Set(subRegions.map((region) => region.fd))];
}

const getRegionIoFds = handler(
  messages.DEVICE_GET_REGION_IO_FDS,
  onDevice,
  ({ device, peer, offer }, { value }) => {
    const { index, argsz, flags, count } = value;
    if (flags !== 0 || count !== 0)
      refuse(`DEVICE_GET_REGION_IO_FDS: flags ${flags} and count ${count} must be 0`);
    checkIndex('DEVICE_GET_REGION_IO_FDS', index, device.info.regions);
    checkArgsz('DEVICE_GET_REGION_IO_FDS', argsz, s.regionIoFds.size);
    if (argsz > offer.maxDataXferSize) refuse(`DEVICE_GET_REGION_IO_FDS: argsz ${argsz} is too large`);
    if ((device.regionInfo(index).flags & (regionFlags.read | regionFlags.write)) === 0) {
      refuse(`DEVICE_GET_REGION_IO_FDS: there is no region ${index}`);
    }
    const subRegions = device.regionIoFds(index);
    const needed = s.regionIoFds.size + subRegions.length * s.subRegionIoFd.size;
    const reply = { argsz: needed, flags: 0, index, count: subRegions.length };
    if (argsz < needed || subRegions.length === 0) return { value: reply };
    const fds = distinctFds(subRegions);
    if (fds.length > peer.maxMsgFds) {
      throw new RequestError(
        errno.ENOSPC,
        `DEVICE_GET_REGION_IO_FDS: ${fds.length} descriptors, the client takes ${peer.maxMsgFds}`,
      );
    }
    const data = Buffer.alloc(needed - s.regionIoFds.size);
    let at = 0;
    for (const { offset, size, fd, type, flags: subFlags, datamatch } of subRegions) {
      const entry = { offset, size, fd_index: fds.indexOf(fd), type, flags: subFlags, padding: 0, datamatch };
      at = s.subRegionIoFd.encode(entry, data, at);
    }
    return { value: reply, data, fds };
  },
);

const getIrqInfo = handler(messages.DEVICE_GET_IRQ_INFO, onDevice, ({ device }, { value }) => {
  checkArgsz('DEVICE_GET_IRQ_INFO', value.argsz, s.irqInfo.size);
  checkIndex('DEVICE_GET_IRQ_INFO', value.index, device.info.irqs);
  const { count, flags } = device.irqInfo(value.index);
  return { value: { argsz: s.irqInfo.size, flags, index: value.index, count } };
});

function irqAction(flags: number): IrqSet['action'] {
  switch (flags & irqSetFlags.allActions) {
    case irqSetFlags.actionMask:
      return 'mask';
    case irqSetFlags.actionUnmask:
      return 'unmask';
    case irqSetFlags.actionTrigger:
      return 'trigger';
    default:
      return refuse(`DEVICE_SET_IRQS: flags 0x${flags.toString(16)} do not name one action`);
  }
}

function irqData(flags: number, count: number, data: Buffer, fds: readonly number[]): IrqSet['data'] {
  const kind = flags & irqSetFlags.dataMask;
  if (kind !== irqSetFlags.dataEventfd && fds.length > 0) refuse('DEVICE_SET_IRQS: unexpected descriptors');
  switch (kind) {
    case irqSetFlags.dataNone:
      return { type: 'none' };
    case irqSetFlags.dataBool:
      if (data.length !== count) refuse(`DEVICE_SET_IRQS: ${data.length} booleans for ${count} interrupts`);
      return { type: 'bool', values: Array.from(data, (byte) => byte !== 0) };
    case irqSetFlags.dataEventfd:
      if (fds.length !== 0 && fds.length !== count) {
        refuse(`DEVICE_SET_IRQS: ${fds.length} descriptors for ${count} interrupts`);
      }
      // No descriptors at all takes those of the whole range away.
      return { type: 'eventfd', fds: Array.from({ length: count }, (_, i) => fds[i]) };
    default:
      return refuse(`DEVICE_SET_IRQS: flags 0x${flags.toString(16)} do not name one kind of data`);
  }
}

const setIrqs = handler(messages.DEVICE_SET_IRQS, onDevice, ({ device }, { value, data, fds }) => {
  const { argsz, flags, index, start, count } = value;
  checkArgsz('DEVICE_SET_IRQS', argsz, s.irqSet.size);
  checkIndex('DEVICE_SET_IRQS', index, device.info.irqs);
  const known = irqSetFlags.dataMask | irqSetFlags.allActions;
  if ((flags & ~known) !== 0) refuse(`DEVICE_SET_IRQS: unknown flags 0x${flags.toString(16)}`);
  const action = irqAction(flags);
  const total = device.irqInfo(index).count;
  if (start + count > total) refuse(`DEVICE_SET_IRQS: ${start} to ${start + count} of ${total} interrupts`);
  const disable = action === 'trigger' && (flags & irqSetFlags.dataNone) !== 0 && start === 0;
  if (count === 0 && !disable) refuse('DEVICE_SET_IRQS: count 0 is only for disabling a whole index');
  if ((index === pciIrq.err || index === pciIrq.req) && action !== 'trigger') {
    refuse(`DEVICE_SET_IRQS: index ${index} can only be triggered`);
  }
  device.setIrqs({ index, start, count, action, data: irqData(flags, count, data, fds) });
  return { value: {} };
});

const dmaMap = handler(messages.DMA_MAP, onDevice, ({ device }, { value, fds }) => {
  const { argsz, flags, offset, addr, size } = value;
  checkArgsz('DMA_MAP', argsz, s.dmaMap.size);
  const known = dmaMapFlags.read | dmaMapFlags.write | dmaMapFlags.mappable;
  if ((flags & ~known) !== 0) refuse(`DMA_MAP: unknown flags 0x${flags.toString(16)}`);
  const fd = fds[0];
  if (fd === undefined && (flags & dmaMapFlags.mappable) !== 0)
    refuse('DMA_MAP: a mappable region has no descriptor');
  if (size === 0) refuse('DMA_MAP: size 0');
  if (!Number.isSafeInteger(addr + size)) refuse('DMA_MAP: the region ends above 2^53');
  if (!Number.isSafeInteger(offset + size)) refuse('DMA_MAP: the file offset ends above 2^53');
  const prot = flags & (dmaMapFlags.read | dmaMapFlags.write);
  device.dmaMap({ iova: addr, size, prot, fd, fdOffset: offset });
  return { value: {} };
});

const dmaUnmap = handler(messages.DMA_UNMAP, onDevice, ({ device, offer }, { value }) => {
  const { argsz, flags, addr, size } = value;
  checkArgsz('DMA_UNMAP', argsz, s.dmaUnmap.size);
  if (argsz > offer.maxDataXferSize) refuse(`DMA_UNMAP: argsz ${argsz} is too large`);
  if (flags === dmaUnmapFlags.all) {
    if (addr !== 0n || size !== 0n) refuse('DMA_UNMAP: address and size must be 0 to unmap everything');
    device.dmaUnmapAll();
  } else if (flags === 0) device.dmaUnmap(Number(addr), Number(size));
  else refuse(`DMA_UNMAP: flags 0x${flags.toString(16)} are not supported`);
  return { value };
});

/** The old content of the device is gone when the reply goes out, so nothing may overtake it: not nested. */
const reset = handler(messages.DEVICE_RESET, { roles: ['device'] }, ({ device }) => {
  device.reset();
  return { value: {} };
});

/** The requests that only the device socket takes, region accesses aside. */
export const deviceHandlers: readonly Handler[] = [
  getInfo,
  getRegionInfo,
  getRegionIoFds,
  getIrqInfo,
  setIrqs,
  dmaMap,
  dmaUnmap,
  reset,
];
