import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  closeFd,
  fstatSize,
  ftruncate,
  MappedMemory,
  memfdCreate,
  mmapProt,
  PAGE_SIZE,
  sealSize,
  WINDOW_SIZE,
} from '../../../src/posix/index.ts';
import { addressOf, libc, viewOf } from '../../../src/posix/libc.ts';

const both = mmapProt.READ | mmapProt.WRITE;
const mappingsOf = (name: string) =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(`memfd:${name}`)).length;

describe('MappedMemory', () => {
  let fd: number;
  beforeEach(() => {
    fd = memfdCreate('mapped-memory', 4 * PAGE_SIZE);
  });
  afterEach(() => closeFd(fd));

  const first = (memory: MappedMemory) => memory.windows[0] ?? Buffer.alloc(0);

  it('shares the file’s bytes, from an offset', () => {
    const whole = MappedMemory.map(fd, 0, 4 * PAGE_SIZE, both);
    const part = MappedMemory.map(fd, PAGE_SIZE, PAGE_SIZE, both);
    first(part).writeUInt32BE(0xc0ffee, 8);
    expect(first(whole).readUInt32BE(PAGE_SIZE + 8)).toBe(0xc0ffee);
    expect(Number(whole.address)).toBe(addressOf(first(whole)));
    whole.unmap();
    part.unmap();
  });

  it('refuses what reaches beyond the file, empty ranges and odd offsets', () => {
    for (const [offset, length] of [
      [0, 4 * PAGE_SIZE + 1],
      [4 * PAGE_SIZE, PAGE_SIZE],
      [0, 0],
      [-PAGE_SIZE, PAGE_SIZE],
      [1, 16],
      [0, Number.NaN],
      [2 ** 53, PAGE_SIZE],
    ] as const)
      expect(() => MappedMemory.map(fd, offset, length, both), `${offset}+${length}`).toThrow("can't map");
    expect(() => MappedMemory.map(-1, 0, PAGE_SIZE, both)).toThrow('EBADF');
    expect(mappingsOf('mapped-memory')).toBe(0);
  });

  it('lets go of the file at once, and late accesses are harmless', () => {
    const memory = MappedMemory.map(fd, 0, PAGE_SIZE, both);
    const window = first(memory);
    window[0] = 1;
    expect(mappingsOf('mapped-memory')).toBe(1);
    memory.unmap();
    memory.unmap();
    expect(mappingsOf('mapped-memory')).toBe(0);
    expect(window[0]).toBe(0);
    window[0] = 2;
    const again = MappedMemory.map(fd, 0, PAGE_SIZE, both);
    expect(first(again)[0]).toBe(1);
    again.unmap();
  });

  it('cuts large files into windows', () => {
    const large = memfdCreate('windows', 2 * WINDOW_SIZE + PAGE_SIZE);
    const memory = MappedMemory.map(large, 0, fstatSize(large), both);
    closeFd(large);
    expect(memory.windows.map((window) => window.length)).toEqual([WINDOW_SIZE, WINDOW_SIZE, PAGE_SIZE]);
    const last = memory.windows[2];
    last?.writeUInt8(9, 0);
    expect(last?.[0]).toBe(9);
    memory.unmap();
  });

  it('maps read-only memory that can be read', () => {
    const memory = MappedMemory.map(fd, 0, PAGE_SIZE, mmapProt.READ);
    expect(first(memory)[5]).toBe(0);
    expect(readFileSync('/proc/self/maps', 'utf8')).toMatch(/ r--s .*memfd:mapped-memory/);
    memory.unmap();
  });

  it('seals a size for good', () => {
    ftruncate(fd, PAGE_SIZE);
    sealSize(fd);
    expect(() => ftruncate(fd, 0)).toThrow('EPERM');
    expect(fstatSize(fd)).toBe(PAGE_SIZE);
    writeFileSync(fd, 'still writable');
  });
});

describe('raw memory', () => {
  it('is reached by the address of a buffer', () => {
    const source = Buffer.from('0123456789');
    const target = Buffer.alloc(10);
    libc.memcpy(addressOf(target) + 2, addressOf(source) + 4, 3);
    expect(target.toString('latin1')).toBe('\0\x00456\0\0\0\0\0');
    expect(viewOf(addressOf(source), 4).toString()).toBe('0123');
  });
});
