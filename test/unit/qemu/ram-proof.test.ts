import { describe, expect, it } from 'vitest';
import { closeFd, ftruncate, MappedMemory, memfdCreate, mmapProt } from '../../../src/posix/index.ts';
import { compareRegions, type DifferingPage, ramOf } from '../../../src/qemu/ram-proof.ts';

const page = 4096;
const mib = 1024 * 1024;

describe('compareRegions', () => {
  const source = [Buffer.alloc(3 * mib, 1), Buffer.alloc(mib + page, 2)];
  const copy = (): Buffer[] => source.map((window) => Buffer.from(window));

  it('finds no difference where there is none', () => {
    expect(compareRegions('r', source, copy(), [])).toBe(0);
  });

  it('counts each differing page once and names the first', () => {
    const other = copy();
    const places = [0, page - 1, 7 * page + 5, 3 * mib - 1];
    for (const at of places) other[0]?.writeUInt8(9, at);
    other[1]?.writeUInt8(9, mib + page - 1);
    const first: DifferingPage[] = [];
    expect(compareRegions('r', source, other, first)).toBe(4);
    expect(first.map(({ offset, at }) => offset + at)).toEqual([
      0,
      7 * page + 5,
      3 * mib - 1,
      4 * mib + page - 1,
    ]);
    expect(first[0]).toMatchObject({ source: 1, destination: 9 });
  });

  it('names few of many', () => {
    const first: DifferingPage[] = [];
    expect(
      compareRegions(
        'r',
        source,
        source.map(({ length }) => Buffer.alloc(length, 7)),
        first,
      ),
    ).toBe(1025);
    expect(first).toHaveLength(16);
  });
});

describe('ramOf', () => {
  it('finds memory that is shared and mapped, by the name QEMU gives it', () => {
    const fd = memfdCreate('memory-backend-memfd', mib);
    const other = memfdCreate('some-bar', mib);
    try {
      ftruncate(fd, mib);
      ftruncate(other, mib);
      const maps = [fd, other].map((each) => MappedMemory.map(each, 0, mib, mmapProt.READ | mmapProt.WRITE));
      const found = ramOf(process.pid);
      expect(found.map(({ size }) => size)).toEqual([mib]);
      expect(found[0]?.name).toContain('memory-backend-memfd');
      for (const map of maps) map.unmap();
      expect(ramOf(process.pid)).toEqual([]);
    } finally {
      closeFd(fd);
      closeFd(other);
    }
  });
});
