import { errno } from '../../src/errors.ts';
import { command } from '../../src/vfio-user/constants.ts';
import { type Difference, lax, withBody } from './library-differences.ts';
import { bytes, featureOf, irqs, map, regionAt, short, u32, u64, unmap } from './raw-messages.ts';

/** A request that no server may carry out, and its answer. */
export interface BadRequest {
  readonly what: string;
  readonly cmd: number;
  readonly payload: Buffer;
  readonly errno: number;
  readonly fds?: number;
  readonly flags?: number;
  readonly differs?: Difference | readonly Difference[];
}

const { EINVAL, EEXIST, ENOENT } = errno;
const c = command;
const GET = 0x1_0000;
const SET = 0x2_0000;
const PROBE = 0x4_0000;
const huge = 2n ** 64n - 4096n;

export const badRequests: readonly BadRequest[] = [
  { what: 'unknown command', cmd: 99, payload: short(0), errno: EINVAL },
  { what: 'DIRTY_PAGES of migration v1', cmd: 14, payload: short(16), errno: EINVAL },
  { what: 'a command of the server', cmd: c.DMA_READ, payload: short(16), errno: EINVAL },
  { what: 'VERSION twice', cmd: c.VERSION, payload: short(4), errno: EINVAL },
  { what: 'COMPANION on the device socket', cmd: c.COMPANION, payload: short(4), errno: EINVAL },
  {
    what: 'message type 2',
    cmd: c.DEVICE_GET_INFO,
    payload: short(16),
    flags: 2,
    errno: EINVAL,
    differs: {
      errno: EINVAL,
      outOfStep: true,
      reason: 'it refuses by the header and leaves the body in the stream',
    },
  },
  { what: 'GET_INFO cut off', cmd: c.DEVICE_GET_INFO, payload: short(15), errno: EINVAL },
  { what: 'GET_INFO without payload', cmd: c.DEVICE_GET_INFO, payload: short(0), errno: EINVAL },
  { what: 'GET_INFO argsz 0', cmd: c.DEVICE_GET_INFO, payload: short(16), errno: EINVAL },
  {
    what: 'GET_REGION_INFO argsz 31',
    cmd: c.DEVICE_GET_REGION_INFO,
    payload: Buffer.concat([bytes(u32(31)), short(28)]),
    errno: EINVAL,
  },
  {
    what: 'GET_REGION_INFO index 9',
    cmd: c.DEVICE_GET_REGION_INFO,
    payload: Buffer.concat([bytes(u32(32), u32(0), u32(9)), short(20)]),
    errno: EINVAL,
    differs: lax('region 9 is the migration region of protocol v1, of size 0', 'v1'),
  },
  {
    what: 'GET_REGION_IO_FDS count 1',
    cmd: c.DEVICE_GET_REGION_IO_FDS,
    payload: bytes(u32(16), u32(0), u32(0), u32(1)),
    errno: EINVAL,
  },
  {
    what: 'GET_REGION_IO_FDS flags 1',
    cmd: c.DEVICE_GET_REGION_IO_FDS,
    payload: bytes(u32(16), u32(1), u32(0), u32(0)),
    errno: EINVAL,
  },
  {
    what: 'GET_REGION_IO_FDS absent region',
    cmd: c.DEVICE_GET_REGION_IO_FDS,
    payload: bytes(u32(16), u32(0), u32(3), u32(0)),
    errno: EINVAL,
  },
  {
    what: 'GET_REGION_IO_FDS huge argsz',
    cmd: c.DEVICE_GET_REGION_IO_FDS,
    payload: bytes(u32(2 ** 31), u32(0), u32(0), u32(0)),
    errno: EINVAL,
  },
  {
    what: 'GET_IRQ_INFO index 5',
    cmd: c.DEVICE_GET_IRQ_INFO,
    payload: bytes(u32(16), u32(0), u32(5), u32(0)),
    errno: EINVAL,
  },
  { what: 'SET_IRQS cut off', cmd: c.DEVICE_SET_IRQS, payload: short(19), errno: EINVAL },
  { what: 'SET_IRQS two actions', cmd: c.DEVICE_SET_IRQS, payload: irqs(1 | 8 | 16, 1, 0, 1), errno: EINVAL },
  { what: 'SET_IRQS no action', cmd: c.DEVICE_SET_IRQS, payload: irqs(1, 1, 0, 1), errno: EINVAL },
  {
    what: 'SET_IRQS two kinds of data',
    cmd: c.DEVICE_SET_IRQS,
    payload: irqs(3 | 32, 1, 0, 1),
    errno: EINVAL,
  },
  {
    what: 'SET_IRQS unknown flag',
    cmd: c.DEVICE_SET_IRQS,
    payload: irqs(1 | 32 | 64, 1, 0, 1),
    errno: EINVAL,
    differs: lax('it ignores flags that it does not know'),
  },
  { what: 'SET_IRQS index 5', cmd: c.DEVICE_SET_IRQS, payload: irqs(1 | 32, 5, 0, 1), errno: EINVAL },
  { what: 'SET_IRQS beyond the last', cmd: c.DEVICE_SET_IRQS, payload: irqs(1 | 32, 2, 7, 2), errno: EINVAL },
  {
    what: 'SET_IRQS overflowing range',
    cmd: c.DEVICE_SET_IRQS,
    payload: irqs(1 | 32, 2, 0xffff_ffff, 2),
    errno: EINVAL,
  },
  { what: 'SET_IRQS count 0 to mask', cmd: c.DEVICE_SET_IRQS, payload: irqs(1 | 8, 2, 0, 0), errno: EINVAL },
  { what: 'SET_IRQS count 0 from 1', cmd: c.DEVICE_SET_IRQS, payload: irqs(1 | 32, 2, 1, 0), errno: EINVAL },
  {
    what: 'SET_IRQS too few booleans',
    cmd: c.DEVICE_SET_IRQS,
    payload: irqs(2 | 32, 2, 0, 3, short(2)),
    errno: EINVAL,
  },
  {
    what: 'SET_IRQS descriptors with booleans',
    cmd: c.DEVICE_SET_IRQS,
    payload: irqs(2 | 32, 2, 0, 1, short(1)),
    fds: 1,
    errno: EINVAL,
  },
  {
    what: 'SET_IRQS fewer descriptors than count',
    cmd: c.DEVICE_SET_IRQS,
    payload: irqs(4 | 32, 2, 0, 3),
    fds: 2,
    errno: EINVAL,
  },
  { what: 'SET_IRQS to mask ERR', cmd: c.DEVICE_SET_IRQS, payload: irqs(1 | 8, 3, 0, 1), errno: EINVAL },
  {
    what: 'SET_IRQS with more descriptors than negotiated',
    cmd: c.DEVICE_SET_IRQS,
    payload: irqs(4 | 32, 2, 0, 17),
    fds: 17,
    errno: EINVAL,
  },
  { what: 'REGION_READ cut off', cmd: c.REGION_READ, payload: short(15), errno: EINVAL },
  {
    what: 'REGION_READ of a region that is not there',
    cmd: c.REGION_READ,
    payload: regionAt(0, 0xdead_beef, 4),
    errno: EINVAL,
  },
  { what: 'REGION_READ beyond the end', cmd: c.REGION_READ, payload: regionAt(4093, 0, 4), errno: EINVAL },
  { what: 'REGION_READ at 2^64', cmd: c.REGION_READ, payload: regionAt(huge, 0, 4), errno: EINVAL },
  {
    what: 'REGION_READ of more than was negotiated',
    cmd: c.REGION_READ,
    payload: regionAt(0, 0, 2 ** 20 + 1),
    errno: EINVAL,
  },
  {
    what: 'REGION_READ with a descriptor',
    cmd: c.REGION_READ,
    payload: regionAt(0, 0, 4),
    fds: 1,
    errno: EINVAL,
    differs: lax('closes it and goes on'),
  },
  { what: 'REGION_WRITE cut off', cmd: c.REGION_WRITE, payload: short(12), errno: EINVAL },
  {
    what: 'REGION_WRITE with too few bytes',
    cmd: c.REGION_WRITE,
    payload: Buffer.concat([regionAt(0, 0, 4), short(3)]),
    errno: EINVAL,
  },
  {
    what: 'REGION_WRITE with too many bytes',
    cmd: c.REGION_WRITE,
    payload: Buffer.concat([regionAt(0, 0, 4), short(5)]),
    errno: EINVAL,
  },
  {
    what: 'REGION_WRITE beyond the end',
    cmd: c.REGION_WRITE,
    payload: Buffer.concat([regionAt(4096, 0, 4), short(4)]),
    errno: EINVAL,
  },
  {
    what: 'WRITE_MULTI with a write of 9 bytes',
    cmd: c.REGION_WRITE_MULTI,
    payload: Buffer.concat([bytes(u64(1)), regionAt(0, 0, 9), short(8)]),
    errno: EINVAL,
  },
  {
    what: 'WRITE_MULTI cut off',
    cmd: c.REGION_WRITE_MULTI,
    payload: Buffer.concat([bytes(u64(2)), short(24)]),
    errno: EINVAL,
  },
  {
    what: 'WRITE_MULTI of 201',
    cmd: c.REGION_WRITE_MULTI,
    payload: Buffer.concat([bytes(u64(201)), short(201 * 24)]),
    errno: EINVAL,
  },
  { what: 'WRITE_MULTI of 2^63', cmd: c.REGION_WRITE_MULTI, payload: bytes(u64(2n ** 63n)), errno: EINVAL },
  {
    what: 'WRITE_MULTI with one bad region',
    cmd: c.REGION_WRITE_MULTI,
    payload: Buffer.concat([bytes(u64(2)), regionAt(0, 0, 4), short(8), regionAt(0, 5, 4), short(8)]),
    errno: EINVAL,
  },
  { what: 'DMA_MAP cut off', cmd: c.DMA_MAP, payload: short(31), errno: EINVAL },
  { what: 'DMA_MAP argsz 31', cmd: c.DMA_MAP, payload: map(3, 0, 0x1000, 4096, 31), errno: EINVAL },
  {
    what: 'DMA_MAP size 0',
    cmd: c.DMA_MAP,
    payload: map(3, 0, 0x1000, 0),
    errno: EINVAL,
    differs: lax('it checks sizes only where it maps; the device refuses'),
  },
  { what: 'DMA_MAP unknown flags', cmd: c.DMA_MAP, payload: map(0x103, 0, 0x1000, 4096), errno: EINVAL },
  {
    what: 'DMA_MAP mappable without descriptor',
    cmd: c.DMA_MAP,
    payload: map(7, 0, 0x1000, 4096),
    errno: EINVAL,
  },
  {
    what: 'DMA_MAP wrapping round',
    cmd: c.DMA_MAP,
    payload: map(3, 0, huge, 8192),
    errno: EINVAL,
    differs: lax('it does not check; the device refuses', 'v1'),
  },
  {
    what: 'DMA_MAP of 2^63 bytes',
    cmd: c.DMA_MAP,
    payload: map(3, 0, 0, 2n ** 63n),
    errno: EINVAL,
    differs: { errno: errno.ENOSPC, reason: 'it has a limit of 8 TiB' },
  },
  {
    what: 'DMA_MAP with two descriptors',
    cmd: c.DMA_MAP,
    payload: map(3, 0, 0x1000, 4096),
    fds: 2,
    errno: EINVAL,
    differs: lax('uses the first'),
  },
  {
    what: 'DMA_MAP over another',
    cmd: c.DMA_MAP,
    payload: map(3, 0, 0x70_0800, 4096),
    errno: EEXIST,
    differs: { errno: EINVAL, reason: 'the specification says EEXIST' },
  },
  { what: 'DMA_UNMAP cut off', cmd: c.DMA_UNMAP, payload: short(23), errno: EINVAL },
  { what: 'DMA_UNMAP of nothing', cmd: c.DMA_UNMAP, payload: unmap(0x1000, 4096), errno: ENOENT },
  { what: 'DMA_UNMAP of a part', cmd: c.DMA_UNMAP, payload: unmap(0x70_0000, 2048), errno: ENOENT },
  { what: 'DMA_UNMAP of nothing up to 2^64', cmd: c.DMA_UNMAP, payload: unmap(huge, 4096), errno: ENOENT },
  { what: 'DMA_UNMAP all with an address', cmd: c.DMA_UNMAP, payload: unmap(0x1000, 0, 2), errno: EINVAL },
  { what: 'DMA_UNMAP unknown flags', cmd: c.DMA_UNMAP, payload: unmap(0, 0, 4), errno: EINVAL },
  {
    what: 'DMA_UNMAP huge argsz',
    cmd: c.DMA_UNMAP,
    payload: unmap(0x70_0000, 4096, 0, 2 ** 31),
    errno: EINVAL,
  },
  { what: 'DEVICE_FEATURE cut off', cmd: c.DEVICE_FEATURE, payload: short(7), errno: EINVAL },
  {
    what: 'DEVICE_FEATURE unknown',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(GET | 77, short(0), 64),
    errno: EINVAL,
  },
  { what: 'DEVICE_FEATURE without method', cmd: c.DEVICE_FEATURE, payload: featureOf(1), errno: EINVAL },
  {
    what: 'DEVICE_FEATURE GET and SET',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(GET | SET | 2, short(8)),
    errno: EINVAL,
  },
  {
    what: 'DEVICE_FEATURE GET without room',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(GET | 1),
    errno: EINVAL,
  },
  {
    what: 'DEVICE_FEATURE SET of MIGRATION',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(SET | 1, short(8)),
    errno: EINVAL,
  },
  {
    what: 'PROBE of SET of MIGRATION',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(PROBE | SET | 1),
    errno: EINVAL,
  },
  {
    what: 'PROBE of an unknown feature',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(PROBE | 5),
    errno: EINVAL,
  },
  {
    what: 'SET state cut off',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(SET | 2, short(7)),
    errno: EINVAL,
    differs: withBody,
  },
  {
    what: 'SET state ERROR',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(SET | 2, short(8)),
    errno: EINVAL,
    differs: withBody,
  },
  {
    what: 'LOGGING_START with missing ranges',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(SET | 6, bytes(u64(4096), u32(2), u32(0), u64(0), u64(4096))),
    errno: EINVAL,
    differs: lax('it logs everything, whatever the ranges', 'v2'),
  },
  {
    what: 'LOGGING_START with 2^32 - 1 ranges',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(SET | 6, bytes(u64(4096), u32(0xffff_ffff), u32(0))),
    errno: EINVAL,
    differs: lax('it logs everything, whatever the ranges', 'v2'),
  },
  {
    what: 'LOGGING_START page size 0',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(SET | 6, short(16)),
    errno: EINVAL,
    differs: withBody,
  },
  {
    what: 'LOGGING_REPORT page size 3',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(GET | 8, bytes(u64(0), u64(4096), u64(3)), 4096),
    errno: EINVAL,
    differs: {
      generation: 'v2',
      errno: ENOENT,
      reason: 'it looks for the range first, which must be one of the maps',
    },
  },
  {
    what: 'LOGGING_REPORT larger than argsz',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(GET | 8, bytes(u64(0), u64(2 ** 30), u64(4096)), 100),
    errno: EINVAL,
  },
  {
    what: 'LOGGING_REPORT of 2^52 bytes',
    cmd: c.DEVICE_FEATURE,
    payload: featureOf(GET | 8, bytes(u64(0), u64(2 ** 52), u64(4096)), 0xffff_ffff),
    errno: EINVAL,
  },
  { what: 'MIG_DATA_READ cut off', cmd: c.MIG_DATA_READ, payload: short(7), errno: EINVAL },
  {
    what: 'MIG_DATA_READ too large',
    cmd: c.MIG_DATA_READ,
    payload: bytes(u32(0x80_0000), u32(0x40_0000)),
    errno: EINVAL,
  },
  {
    what: 'MIG_DATA_READ argsz too small',
    cmd: c.MIG_DATA_READ,
    payload: bytes(u32(107), u32(100)),
    errno: EINVAL,
  },
  {
    what: 'MIG_DATA_WRITE cut off',
    cmd: c.MIG_DATA_WRITE,
    payload: bytes(u32(108), u32(100), u64(0)),
    errno: EINVAL,
  },
  {
    what: 'MIG_PRECOPY_INFO while running',
    cmd: c.MIG_PRECOPY_INFO,
    payload: bytes(u32(24), u32(0), u64(0), u64(0)),
    errno: EINVAL,
  },
];
