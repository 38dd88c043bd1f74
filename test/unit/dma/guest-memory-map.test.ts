import { readdirSync, readFileSync, readSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DmaFault, dmaProt, GuestMemoryMap, type MessageDma } from '../../../src/dma/index.ts';
import { errno } from '../../../src/errors.ts';
import {
  closeFd,
  dupFd,
  ftruncate,
  MappedMemory,
  memfdCreate,
  mmapProt,
  PAGE_SIZE,
  WINDOW_SIZE,
} from '../../../src/posix/index.ts';
import { errnoThrownBy } from '../../thrown.ts';

const P = PAGE_SIZE;
const both = dmaProt.read | dmaProt.write;
const NAME = 'guest-memory-test';
const mappings = () =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(NAME)).length;
const descriptors = () => readdirSync('/proc/self/fd').length;

let memory: GuestMemoryMap;
let file: number;
let guest: Buffer;
let mapping: MappedMemory;
let marks: [number, number][];
beforeEach(() => {
  memory = new GuestMemoryMap();
  file = memfdCreate(NAME, 16 * P);
  mapping = MappedMemory.map(file, 0, 16 * P, mmapProt.READ | mmapProt.WRITE);
  guest = mapping.windows[0] ?? Buffer.alloc(0);
  marks = [];
  memory.setDirtySink({ mark: (iova, length) => marks.push([iova, length]) });
});
afterEach(() => {
  memory.unmapAll();
  memory.collect();
  mapping.unmap();
  closeFd(file);
});
const map = (iova: number, pages: number, prot = both, fdOffset = 0) =>
  memory.map({ iova, size: pages * P, prot, fd: dupFd(file), fdOffset });

/** A client that answers messages from `bytes`, and keeps a record. */
function messenger(bytes = Buffer.alloc(64 * P)) {
  const log: string[] = [];
  const messages = {
    mayWait: true,
    read(iova: number, target: Uint8Array) {
      log.push(`read ${iova.toString(16)}+${target.length}`);
      target.set(bytes.subarray(iova, iova + target.length));
    },
    write(iova: number, source: Uint8Array) {
      log.push(`write ${iova.toString(16)}+${source.length}`);
      bytes.set(source, iova);
    },
  } satisfies MessageDma;
  return { messages, log, bytes };
}

describe('mapping', () => {
  it('reaches the client’s own bytes, at the file offset given', () => {
    map(0x10000, 2, both, 3 * P);
    guest.writeUInt32BE(0x01020304, 3 * P + 8);
    expect(memory.readUint32BE(0x10008)).toBe(0x01020304);
    expect(memory.readUint32LE(0x10008)).toBe(0x04030201);
    expect(memory.readUint16BE(0x1000a)).toBe(0x0304);
    memory.writeUint32BE(0x11000, 0xa1b2c3d4);
    memory.writeUint32LE(0x11004, 0xa1b2c3d4);
    memory.writeUint8(0x11008, 0xee);
    expect(guest.toString('hex', 4 * P, 4 * P + 9)).toBe('a1b2c3d4d4c3b2a1ee');
    expect(marks).toEqual([
      [0x11000, 4],
      [0x11004, 4],
      [0x11008, 1],
    ]);
  });

  it('takes a file offset that is not page aligned', () => {
    memory.map({ iova: 0, size: P, prot: both, fd: dupFd(file), fdOffset: 100 });
    guest[100] = 1;
    guest[100 + P - 1] = 2;
    expect(memory.view(0, 1)).toEqual(Uint8Array.of(1));
    expect(memory.view(P - 1, 1)).toEqual(Uint8Array.of(2));
    expect(errnoThrownBy(() => memory.view(P, 1))).toBe(errno.EFAULT);
  });

  it('closes the descriptor it takes, and leaves what it refuses', () => {
    const before = descriptors();
    map(0, 4);
    map(0, 4);
    expect(descriptors()).toBe(before);
    expect(memory.regions()).toHaveLength(1);
    const fd = dupFd(file);
    expect(errnoThrownBy(() => memory.map({ iova: P, size: P, prot: both, fd, fdOffset: 0 }))).toBe(
      errno.EEXIST,
    );
    closeFd(fd);
    expect(descriptors()).toBe(before);
  });

  it('refuses overlaps, and the same range with anything else different', () => {
    map(4 * P, 4);
    const other = memfdCreate(NAME, 16 * P);
    const attempts = [
      { iova: 4 * P, size: 4 * P, prot: dmaProt.read, fd: file, fdOffset: 0 },
      { iova: 4 * P, size: 4 * P, prot: both, fd: file, fdOffset: P },
      { iova: 4 * P, size: 4 * P, prot: both, fd: other, fdOffset: 0 },
      { iova: 4 * P, size: 4 * P, prot: both, fdOffset: 0 },
      { iova: 4 * P, size: P, prot: both, fdOffset: 0 },
      { iova: 7 * P, size: P, prot: both, fdOffset: 0 },
      { iova: 7 * P, size: 2 * P, prot: both, fdOffset: 0 },
      { iova: 3 * P, size: 2 * P, prot: both, fdOffset: 0 },
      { iova: 0, size: 64 * P, prot: both, fdOffset: 0 },
      { iova: 5 * P, size: P, prot: both, fdOffset: 0 },
    ];
    for (const attempt of attempts) expect(errnoThrownBy(() => memory.map(attempt))).toBe(errno.EEXIST);
    closeFd(other);
    memory.map({ iova: 3 * P, size: P, prot: both, fdOffset: 0 });
    memory.map({ iova: 8 * P, size: P, prot: both, fdOffset: 0 });
    expect(memory.regions().map(({ iova, mapped }) => [iova / P, mapped])).toEqual([
      [3, false],
      [4, true],
      [8, false],
    ]);
  });

  it('refuses what is misaligned, empty, out of range, unknown or longer than its file', () => {
    const good = { iova: 0, size: P, prot: both, fdOffset: 0 };
    const bad = [
      { ...good, iova: 1 },
      { ...good, size: P + 1 },
      { ...good, size: 0 },
      { ...good, size: -P },
      { ...good, iova: -P },
      { ...good, iova: 2 ** 53 - P, size: 2 * P },
      { ...good, iova: 2 ** 53 },
      { ...good, iova: Number.NaN },
      { ...good, prot: 4 },
      { ...good, fdOffset: -1 },
      { ...good, fd: file, fdOffset: 16 * P },
      { ...good, fd: file, size: 17 * P },
      { ...good, fd: file, size: 16 * P, fdOffset: 1 },
    ];
    for (const request of bad)
      expect(
        errnoThrownBy(() => memory.map(request)),
        JSON.stringify(request),
      ).toBe(errno.EINVAL);
    expect(errnoThrownBy(() => memory.map({ ...good, fd: 9999 }))).toBe(errno.EBADF);
    expect(memory.regions()).toEqual([]);
    memory.map({ ...good, iova: 2 ** 53 - 2 * P, size: P });
  });

  it('bounds the number of mappings', () => {
    const small = new GuestMemoryMap({ maxRegions: 2 });
    for (const iova of [0, P]) small.map({ iova, size: P, prot: both, fdOffset: 0 });
    expect(errnoThrownBy(() => small.map({ iova: 2 * P, size: P, prot: both, fdOffset: 0 }))).toBe(
      errno.ENOSPC,
    );
    small.map({ iova: 0, size: P, prot: both, fdOffset: 0 });
    small.unmap(0, P);
    small.map({ iova: 2 * P, size: P, prot: both, fdOffset: 0 });
  });

  it('refuses more memory than it can map, at once and leaving nothing behind', () => {
    const before = mappings();
    const size = 1025 * WINDOW_SIZE;
    const huge = memfdCreate(NAME, size);
    expect(errnoThrownBy(() => memory.map({ iova: 0, size, prot: both, fd: huge, fdOffset: 0 }))).toBe(
      errno.ENOSPC,
    );
    closeFd(huge);
    expect(mappings()).toBe(before);
    map(0, 1);
    memory.writeUint32BE(0, 1);
  });

  it('takes the room of windows that nobody uses any more', () => {
    const before = mappings();
    const small = new GuestMemoryMap({ maxWindows: 2 });
    const wide = memfdCreate(NAME, 6 * WINDOW_SIZE);
    const add = (index: number) => {
      const fd = dupFd(wide);
      const at = index * WINDOW_SIZE;
      const refused = errnoThrownBy(() => small.map({ iova: at, size: P, prot: both, fd, fdOffset: at }));
      if (refused !== undefined) closeFd(fd);
      return refused;
    };
    const remove = (index: number) => small.unmap(index * WINDOW_SIZE, P);
    // The file stays in memory, and with it the windows of other regions: while there is room.
    add(0);
    for (let index = 1; index < 5; index += 1) {
      expect(add(index)).toBeUndefined();
      expect(add(5)).toBe(errno.ENOSPC);
      remove(index);
      small.collect();
      expect(mappings()).toBe(before + 2);
    }
    // Before `collect` nothing is unmapped, so what waits for it is bounded, too.
    expect(add(1)).toBeUndefined();
    remove(1);
    expect(add(2)).toBeUndefined();
    remove(2);
    expect(add(3)).toBe(errno.ENOSPC);
    small.collect();
    expect(add(3)).toBeUndefined();
    small.unmapAll();
    small.collect();
    closeFd(wide);
    expect(mappings()).toBe(before);
  });

  it('never takes that of a window that is in use again', () => {
    const before = mappings();
    const small = new GuestMemoryMap({ maxWindows: 2 });
    const wide = memfdCreate(NAME, 4 * WINDOW_SIZE);
    const add = (index: number) => {
      const at = index * WINDOW_SIZE;
      small.map({ iova: at, size: P, prot: both, fd: dupFd(wide), fdOffset: at });
    };
    const remove = (index: number) => small.unmap(index * WINDOW_SIZE, P);
    add(0);
    add(1);
    remove(0);
    add(0);
    remove(1);
    add(2);
    small.collect();
    expect(mappings()).toBe(before + 2);
    const out = Buffer.alloc(1);
    for (const index of [0, 2]) {
      small.write(index * WINDOW_SIZE, Buffer.of(index + 1));
      readSync(wide, out, 0, 1, index * WINDOW_SIZE);
      expect(out[0]).toBe(index + 1);
    }
    small.unmapAll();
    small.collect();
    closeFd(wide);
    expect(mappings()).toBe(before);
  });
});

describe('unmapping', () => {
  it('cuts no mapping, and finds one', () => {
    map(4 * P, 4);
    for (const [iova, size] of [
      [4 * P, P],
      [5 * P, 3 * P],
      [5 * P, P],
      [0, 6 * P],
      [6 * P, 2 ** 60],
      [0, P],
      [4 * P, 0],
      [2 ** 53, -4096],
      [2 ** 60, 4096],
    ] as const)
      expect(errnoThrownBy(() => memory.unmap(iova, size))).toBe(errno.ENOENT);
    expect(memory.readUint32BE(4 * P)).toBe(0);
    memory.unmap(4 * P, 4 * P);
    expect(errnoThrownBy(() => memory.readUint32BE(4 * P))).toBe(errno.EFAULT);
    expect(errnoThrownBy(() => memory.unmap(4 * P, 4 * P))).toBe(errno.ENOENT);
  });

  it.each([
    ['from before the first to behind the last', 0, 16 * P],
    ['up to where nothing can be', 4 * P, 2 ** 60],
  ])('takes all mappings in a range at once, %s', (_how, iova, size) => {
    for (const [at, pages] of [
      [4 * P, 1],
      [5 * P, 2],
      [9 * P, 3],
    ] as const)
      map(at, pages);
    memory.unmap(iova, size);
    expect(memory.regions()).toEqual([]);
    expect(errnoThrownBy(() => memory.readUint32BE(9 * P))).toBe(errno.EFAULT);
  });

  it('keeps the mappings beside a range', () => {
    for (const at of [4, 5, 6, 7]) map(at * P, 1);
    memory.unmap(5 * P, 2 * P);
    expect(memory.regions().map(({ iova }) => iova)).toEqual([4 * P, 7 * P]);
  });

  it('keeps views good until memory is collected, and harmless afterwards', () => {
    const before = mappings();
    map(0, 4);
    const view = memory.view(0, 8);
    guest[0] = 7;
    memory.unmap(0, 4 * P);
    expect(view?.[0]).toBe(7);
    expect(mappings()).toBe(before + 1);
    memory.collect();
    expect(mappings()).toBe(before);
    expect(view?.[0]).toBe(0);
  });

  it('shares one mapping among regions of a file and keeps it while one of them is there', () => {
    const before = mappings();
    // What may only be read needs no mapping of its own, and can still not be written.
    map(8 * P, 1, dmaProt.read, 0);
    map(0, 1, both, 0);
    map(12 * P, 1, dmaProt.read, 0);
    expect(errnoThrownBy(() => memory.writeUint32BE(12 * P, 1))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => memory.writableView(12 * P, 4))).toBe(errno.EACCES);
    map(4 * P, 2, both, 8 * P);
    expect(mappings()).toBe(before + 2);
    memory.unmap(0, P);
    memory.collect();
    memory.writeUint32BE(4 * P, 1);
    expect(guest.readUInt32BE(8 * P)).toBe(1);
    memory.unmap(8 * P, P);
    memory.collect();
    // Not in use, but the file is.
    expect(mappings()).toBe(before + 2);
    memory.unmapAll();
    map(0, 1);
    memory.collect();
    memory.writeUint32BE(0, 2);
    memory.unmapAll();
    memory.collect();
    expect(mappings()).toBe(before);
  });

  it('maps what a file has grown by', () => {
    const growing = memfdCreate(NAME, P);
    const add = (iova: number, fdOffset: number) =>
      memory.map({ iova, size: P, prot: both, fd: dupFd(growing), fdOffset });
    add(0, 0);
    expect(errnoThrownBy(() => memory.map({ iova: P, size: P, prot: both, fd: growing, fdOffset: P }))).toBe(
      errno.EINVAL,
    );
    ftruncate(growing, 2 * P);
    add(P, P);
    closeFd(growing);
    memory.write(P - 2, Buffer.from('abcd'));
    memory.unmap(0, P);
    memory.collect();
    expect(memory.readUint16BE(P)).toBe(0x6364);
  });

  it('leaves no mapping and no descriptor, in bursts as firmware makes them', () => {
    const before = { mappings: mappings(), descriptors: descriptors() };
    for (let round = 0; round < 50; round += 1) {
      for (let region = 0; region < 8; region += 1) map(region * 2 * P, 1, both, region * P);
      memory.unmap(4 * P, P);
      memory.unmapAll();
      memory.collect();
    }
    expect({ mappings: mappings(), descriptors: descriptors() }).toEqual(before);
    expect(memory.regions()).toEqual([]);
  });
});

describe('access', () => {
  it('checks permissions, and moves nothing when any part is refused', () => {
    map(0, 1, both, 0);
    map(P, 1, dmaProt.read, P);
    map(2 * P, 1, dmaProt.write, 2 * P);
    guest.fill(5, 0, 3 * P);
    const bytes = Buffer.alloc(8, 9);
    expect(errnoThrownBy(() => memory.write(P - 4, bytes))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => memory.read(2 * P - 4, bytes))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => memory.write(3 * P - 4, bytes))).toBe(errno.EFAULT);
    expect(errnoThrownBy(() => memory.writeUint32BE(P, 1))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => memory.writeUint8(P, 1))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => memory.readUint32LE(2 * P))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => memory.readUint16BE(2 * P))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => memory.writableView(P, 4))).toBe(errno.EACCES);
    expect(errnoThrownBy(() => memory.view(2 * P, 4))).toBe(errno.EACCES);
    expect(guest.subarray(0, 3 * P).every((byte) => byte === 5)).toBe(true);
    expect(bytes.every((byte) => byte === 9)).toBe(true);
    expect(marks).toEqual([]);
    expect(memory.accessible(0, 2 * P, dmaProt.read)).toBe(true);
    expect(memory.accessible(0, 2 * P, dmaProt.write)).toBe(false);
    expect(memory.accessible(P, 2 * P, dmaProt.read)).toBe(false);
    expect(memory.accessible(2 * P, P + 1, dmaProt.write)).toBe(false);
    memory.writeUint32BE(2 * P, 7);
  });

  it('crosses borders of adjacent regions', () => {
    map(0, 1, both, 5 * P);
    map(P, 1, both, 0);
    memory.write(P - 3, Buffer.from('abcdef'));
    expect(guest.toString('latin1', 6 * P - 3, 6 * P)).toBe('abc');
    expect(guest.toString('latin1', 0, 3)).toBe('def');
    expect(marks).toEqual([
      [P - 3, 3],
      [P, 3],
    ]);
    const back = Buffer.alloc(6);
    memory.read(P - 3, back);
    expect(back.toString()).toBe('abcdef');
    expect(memory.readUint32BE(P - 2)).toBe(0x62636465);
    memory.writeUint32LE(P - 2, 0x31323334);
    expect(memory.readUint32LE(P - 2)).toBe(0x31323334);
    expect(memory.view(P - 1, 2)).toBeUndefined();
  });

  it('refuses addresses that are no addresses', () => {
    map(0, 1);
    for (const iova of [-1, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY, P, P - 3]) {
      expect(
        errnoThrownBy(() => memory.readUint32BE(iova)),
        `${iova}`,
      ).toBe(errno.EFAULT);
      expect(
        errnoThrownBy(() => memory.read(iova, Buffer.alloc(20))),
        `${iova}`,
      ).toBe(errno.EFAULT);
      expect(
        errnoThrownBy(() => memory.writableView(iova, 20)),
        `${iova}`,
      ).toBe(errno.EFAULT);
    }
    expect(() => memory.read(0x123000, Buffer.alloc(2))).toThrow(
      'DMA read of 2 bytes at 0x123000: not mapped',
    );
    expect(() => memory.read(0x123000, Buffer.alloc(2))).toThrow(DmaFault);
  });

  it('of no bytes is always possible and marks nothing', () => {
    memory.read(0x5000, Buffer.alloc(0));
    memory.write(0x5000, Buffer.alloc(0));
    map(0, 1);
    memory.write(0, Buffer.alloc(0));
    expect(memory.writableView(0, 0)).toHaveLength(0);
    expect(marks).toEqual([]);
  });

  it('marks a writable view as a whole, a readable one not at all', () => {
    map(0, 2);
    memory.writableView(100, 5000)?.fill(1);
    memory.view(0, 100);
    expect(marks).toEqual([[100, 5000]]);
    expect(guest[5099]).toBe(1);
    memory.setDirtySink(undefined);
    memory.write(0, Buffer.alloc(4));
    expect(marks).toHaveLength(1);
  });

  it('goes through windows', () => {
    const large = memfdCreate(NAME, 2 * WINDOW_SIZE);
    const reader = MappedMemory.map(large, 0, 2 * WINDOW_SIZE, mmapProt.READ);
    for (const fdOffset of [0, 100]) {
      const size = 2 * WINDOW_SIZE - P;
      memory.map({ iova: 2 ** 40, size, prot: both, fd: dupFd(large), fdOffset });
      const border = 2 ** 40 + WINDOW_SIZE - fdOffset;
      memory.write(border - 2, Buffer.from('wxyz'));
      expect(reader.windows[0]?.toString('latin1', WINDOW_SIZE - 2)).toBe('wx');
      expect(reader.windows[1]?.toString('latin1', 0, 2)).toBe('yz');
      expect(memory.readUint32BE(border - 1)).toBe(0x78797a00);
      expect(memory.view(border - 1, 2)).toBeUndefined();
      expect(memory.view(border, 2)?.[0]).toBe('y'.charCodeAt(0));
      memory.writeUint32BE(2 ** 40 + size - 4, 1);
      expect(errnoThrownBy(() => memory.writeUint32BE(2 ** 40 + size - 3, 1))).toBe(errno.EFAULT);
      memory.unmap(2 ** 40, size);
    }
    reader.unmap();
    closeFd(large);
  });
});

describe('memory without a descriptor', () => {
  it('is reached by messages, in as many pieces as there are regions', () => {
    const { messages, log, bytes } = messenger();
    memory.setMessageDma(messages);
    memory.map({ iova: 0, size: P, prot: both, fdOffset: 0 });
    memory.map({ iova: P, size: P, prot: both, fdOffset: 0 });
    map(2 * P, 1);
    bytes.writeUInt32BE(0xcafebabe, 16);
    expect(memory.readUint32BE(16)).toBe(0xcafebabe);
    memory.write(P - 2, Buffer.alloc(P + 4, 6));
    memory.writeUint8(1, 1);
    expect(log).toEqual(['read 10+4', 'write ffe+2', 'write 1000+4096', 'write 1+1']);
    expect(marks).toEqual([[2 * P, 2]]);
    expect(memory.view(0, 4)).toBeUndefined();
    expect(memory.writableView(0, 4)).toBeUndefined();
  });

  it('faults without a client, and where waiting would deadlock, before anything has moved', () => {
    map(0, 1);
    memory.map({ iova: P, size: P, prot: both, fdOffset: 0 });
    expect(errnoThrownBy(() => memory.read(P, Buffer.alloc(4)))).toBe(errno.ENOTCONN);
    const { messages, log } = messenger();
    memory.setMessageDma(Object.assign(messages, { mayWait: false }));
    expect(errnoThrownBy(() => memory.write(P - 4, Buffer.alloc(8, 3)))).toBe(errno.EAGAIN);
    expect(errnoThrownBy(() => memory.readUint32LE(P))).toBe(errno.EAGAIN);
    expect([guest[P - 1], log, marks]).toEqual([0, [], []]);
    expect(memory.accessible(0, 2 * P, both)).toBe(true);
    memory.readUint32LE(0);
  });

  it('copes with a client that unmaps while it is waited for', () => {
    const { messages } = messenger();
    memory.map({ iova: 0, size: P, prot: both, fdOffset: 0 });
    map(P, 1);
    memory.setMessageDma({ ...messages, write: () => memory.unmap(P, P), read: messages.read });
    expect(errnoThrownBy(() => memory.write(P - 4, Buffer.alloc(8, 3)))).toBe(errno.EFAULT);
  });
});
