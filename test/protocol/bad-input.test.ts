import { afterEach, describe, expect, it } from 'vitest';
import { errno, errnoName } from '../../src/errors.ts';
import { closeFd, memfdCreate } from '../../src/posix/index.ts';
import type { LibraryGeneration } from '../../src/setup/libvfio-user-library.ts';
import { PeerError, type VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { command, headerFlags } from '../../src/vfio-user/constants.ts';
import { FakeDevice, FakeMigration } from './fake-device.ts';
import { type RunningServer, regionsOf, type ServerUnderTest, serversUnderTest } from './harness.ts';

/** Wire bytes made without the codec: numbers with their width, little-endian. */
function bytes(...parts: readonly (readonly [value: number | bigint, width: 1 | 2 | 4 | 8])[]): Buffer {
  const total = parts.reduce((sum, [, width]) => sum + width, 0);
  const buffer = Buffer.alloc(total);
  let at = 0;
  for (const [value, width] of parts) {
    if (width === 8) buffer.writeBigUInt64LE(BigInt(value), at);
    else buffer.writeUIntLE(Number(value), at, width);
    at += width;
  }
  return buffer;
}

const u32 = (value: number) => [value, 4] as const;
const u64 = (value: number | bigint) => [value, 8] as const;

function raw(id: number, cmd: number, payload: Buffer, size = 16 + payload.length, flags = 0): Buffer {
  return Buffer.concat([bytes([id, 2], [cmd, 2], u32(size), u32(flags), u32(0)), payload]);
}

interface Row {
  readonly what: string;
  readonly cmd: number;
  readonly payload: Buffer;
  readonly errno: number;
  readonly fds?: number;
  readonly flags?: number;
  readonly differs?: Difference | readonly Difference[];
}

/** What the C library does instead, and why that is right or can't be helped. */
interface Difference {
  /** Only one of its generations. */
  readonly generation?: LibraryGeneration;
  /** 0: success. */
  readonly errno: number;
  readonly reason: string;
  /** The body of the message is taken for the next message. */
  readonly outOfStep?: boolean;
  /** The error has a body. */
  readonly body?: boolean;
}

function differenceOf({ differs }: Row, under: ServerUnderTest): Difference | undefined {
  if (under.kind === 'native' || differs === undefined) return undefined;
  const all = [differs].flat();
  return all.find(({ generation }) => generation === undefined || generation === under.generation);
}

const { EINVAL, EEXIST, ENOENT } = errno;
const c = command;
const regionAt = (offset: number | bigint, region: number, count: number) =>
  bytes(u64(offset), u32(region), u32(count));
const map = (
  flags: number,
  offset: number | bigint,
  addr: number | bigint,
  size: number | bigint,
  argsz = 32,
) => bytes(u32(argsz), u32(flags), u64(offset), u64(addr), u64(size));
const unmap = (addr: number | bigint, size: number | bigint, flags = 0, argsz = 24) =>
  bytes(u32(argsz), u32(flags), u64(addr), u64(size));
const irqs = (flags: number, index: number, start: number, count: number, data: Buffer = Buffer.alloc(0)) =>
  Buffer.concat([bytes(u32(20 + data.length), u32(flags), u32(index), u32(start), u32(count)), data]);
const featureOf = (flags: number, data: Buffer = Buffer.alloc(0), argsz = 8 + data.length) =>
  Buffer.concat([bytes(u32(argsz), u32(flags)), data]);
const short = (length: number): Buffer => Buffer.alloc(length);
const GET = 0x1_0000;
const SET = 0x2_0000;
const PROBE = 0x4_0000;
const huge = 2n ** 64n - 4096n;

const lax = (reason: string, generation?: LibraryGeneration): Difference =>
  generation === undefined ? { errno: 0, reason } : { errno: 0, reason, generation };
const withBody: Difference = {
  generation: 'v2',
  errno: errno.EINVAL,
  body: true,
  reason: 'an error of DEVICE_FEATURE SET carries what a success would',
};

const rows: readonly Row[] = [
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

describe.each(serversUnderTest)('$name server, bad requests', (under) => {
  let server: RunningServer;
  afterEach(() => server.close());

  it.each(rows)('$what', (row) => {
    const { cmd, payload, fds = 0, flags = 0, errno: expected } = row;
    const differs = differenceOf(row, under);
    const device = new FakeDevice(new FakeMigration());
    server = under.serve(device);
    const client = server.connect();
    client.dmaMap({ iova: 0x70_0000, size: 4096, prot: 3 });
    const extra = Array.from({ length: fds }, (_, i) => memfdCreate(`extra ${i}`, 4096));
    client.sendRaw(raw(777, cmd, payload, undefined, flags), extra);
    if (differs?.outOfStep) {
      expect(() => [client.rawReply(777), client.readRegister(0, 0)]).toThrow(/which answers nothing/);
      for (const fd of extra) closeFd(fd);
      return;
    }
    const { head, payload: rest } = client.rawReply(777);
    const wanted = differs?.errno ?? expected;
    expect(errnoName(head.error)).toBe(errnoName(wanted));
    expect(head.flags).toBe(wanted === 0 ? headerFlags.typeReply : headerFlags.typeReply | headerFlags.error);
    if (wanted !== 0) expect(rest.length > 0).toBe(differs?.body ?? false);
    // The stream is still in step, nothing was changed, and the same without an answer is borne as well.
    client.sendRaw(raw(778, cmd, payload, undefined, flags | headerFlags.noReply), extra);
    expect(client.readRegister(0, 0)).toBe(0);
    if (wanted !== 0) expect(device.maps.size).toBe(1);
    expect(device.irqSets).toHaveLength(0);
    expect(device.calls.filter((call) => call.startsWith('write'))).toEqual([]);
    for (const fd of extra) closeFd(fd);
  });

  it('skips an oversized message and stays in step', ({ skip }) => {
    skip(under.kind === 'libvfio-user', 'it refuses by the header and takes the body for messages');
    server = under.serve(new FakeDevice());
    const client = server.connect();
    const size = 3 * 1024 * 1024;
    client.expect(5);
    client.sendRaw(raw(5, command.REGION_WRITE, Buffer.alloc(size - 16, 0x55)));
    expect(client.rawReply(5).head.error).toBe(errno.EINVAL);
    expect(client.readRegister(0, 0)).toBe(0);
  });

  it('answers a message shorter than its header, and ends the connection', () => {
    server = under.serve(new FakeDevice());
    const client = server.connect();
    client.expect(5);
    client.sendRaw(raw(5, command.DEVICE_RESET, Buffer.alloc(0), 15));
    expect(client.rawReply(5).head.error).toBe(errno.EINVAL);
    // The library goes on behind the header, as if the size had been right.
    if (under.kind === 'libvfio-user') expect(client.getInfo().flags).toBe(3);
    else expect(() => client.getInfo()).toThrow(/disconnected/);
  });

  it('answers what the device throws with its errno, and a bug of the device with EIO', () => {
    const device = new FakeDevice(new FakeMigration());
    server = under.serve(device);
    const client = server.connect();
    device.onRead = () => {
      throw new TypeError('a bug');
    };
    expect(refusal(client, () => client.readRegister(0, 0))).toBe(errno.EIO);
    device.onRead = undefined;
    expect(client.readRegister(0, 0)).toBe(0);
  });
});

function refusal(client: VfioUserClient, act: () => void): number | undefined {
  try {
    act();
  } catch (error) {
    if (error instanceof PeerError) return error.errno;
    throw error;
  }
  expect(client.open).toBe(true);
  return undefined;
}

/** Keys that the library does not read, or does not check; it takes an array for an object without members. */
const unread = /^\[\]|"max_data_xfer_size":0|"pgsizes"|"write_multiple"/;

const versions: readonly {
  readonly what: string;
  readonly payload: Buffer;
  readonly cmd?: number;
  readonly fds?: number;
  /** What the library does instead. */
  readonly library?: 'accepts' | 'hangs up';
}[] = [
  { what: 'another command first', cmd: command.DEVICE_GET_INFO, payload: short(16) },
  { what: 'a payload cut off', payload: short(3) },
  { what: 'major version 1', payload: bytes([1, 2], [0, 2]) },
  { what: 'a descriptor', payload: bytes([0, 2], [0, 2]), fds: 1, library: 'hangs up' },
  ...[
    '{"capabilities":{}}',
    'nonsense\0',
    '[]\0',
    'null\0',
    '{"capabilities":[]}\0',
    '{"capabilities":7}\0',
    '{"capabilities":{"max_msg_fds":-1}}\0',
    '{"capabilities":{"max_msg_fds":1025}}\0',
    '{"capabilities":{"max_msg_fds":"8"}}\0',
    '{"capabilities":{"max_data_xfer_size":0}}\0',
    '{"capabilities":{"max_data_xfer_size":1.5}}\0',
    '{"capabilities":{"pgsizes":null}}\0',
    '{"capabilities":{"write_multiple":1}}\0',
    '{"capabilities":{"migration":true}}\0',
    '{"capabilities":{"migration":{"pgsize":"4k"}}}\0',
  ].map((json) => ({
    what: json.replace('\0', '\\0'),
    payload: Buffer.concat([short(4), Buffer.from(json)]),
    ...(unread.test(json) && { library: 'accepts' as const }),
  })),
];

describe.each(serversUnderTest)('$name server, bad negotiation', (under) => {
  let server: RunningServer;
  afterEach(() => server.close());

  it.each(versions)(
    'refuses $what, and serves the next client',
    ({ payload, cmd = command.VERSION, fds = 0, library }) => {
      const instead = under.kind === 'libvfio-user' ? library : undefined;
      const device = new FakeDevice();
      server = under.serve(device);
      const client = server.raw();
      const extra = Array.from({ length: fds }, () => memfdCreate('extra', 4096));
      client.expect(1);
      client.sendRaw(raw(1, cmd, payload), extra);
      for (const fd of extra) closeFd(fd);
      if (instead === 'hangs up') expect(() => client.rawReply(1)).toThrow(/disconnected/);
      else {
        const { head } = client.rawReply(1);
        expect(head).toMatchObject({ error: instead === 'accepts' ? 0 : errno.EINVAL, command: cmd });
        if (instead === 'accepts') return;
      }
      server.turn();
      expect(() => client.getInfo()).toThrow(/disconnected/);
      expect(device.calls).toEqual([]);
      const next = server.connect();
      expect(next.getInfo().regions).toBe(regionsOf(under));
    },
  );

  it.each([
    { minor: 0, expected: 0 },
    { minor: 1, expected: 1 },
    { minor: 2, expected: 2 },
    { minor: 9, expected: 2 },
  ])('answers minor $minor with $expected', ({ minor, expected }) => {
    server = under.serve(new FakeDevice());
    const client = server.raw();
    client.expect(1);
    client.sendRaw(raw(1, command.VERSION, bytes([0, 2], [minor, 2])));
    const { payload } = client.rawReply(1);
    const most = under.generation === 'v1' ? 1 : 2;
    expect([payload.readUInt16LE(0), payload.readUInt16LE(2)]).toEqual([0, Math.min(expected, most)]);
    const { capabilities } = JSON.parse(payload.subarray(4, -1).toString());
    // Nothing was proposed, so nothing is announced; the library always says what it has.
    expect(Object.keys(capabilities).length > 0).toBe(under.kind === 'libvfio-user');
  });

  it('answers a proposal like QEMU’s with nothing longer', () => {
    server = under.serve(new FakeDevice());
    const client = server.raw();
    const json =
      '{"capabilities": {"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "max_msg_fds": 16, ' +
      '"max_data_xfer_size": 1048576, "pgsizes": 4096, "max_dma_maps": 65535, "write_multiple": true}}\0';
    client.expect(1);
    client.sendRaw(raw(1, command.VERSION, Buffer.concat([short(4), Buffer.from(json)])));
    const { payload } = client.rawReply(1);
    expect(payload.length).toBeLessThanOrEqual(4 + json.length);
    const answer = JSON.parse(payload.subarray(4, -1).toString());
    const both = { max_msg_fds: 8, max_data_xfer_size: 1048576 };
    if (under.kind === 'libvfio-user') expect(answer).toEqual({ capabilities: both });
    else expect(answer).toEqual(JSON.parse(json.slice(0, -1)));
  });
});
