import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DirtyLog } from '../../../src/dma/dirty-log.ts';
import { createDirtyLog } from '../../../src/dma/dirty-scopes.ts';
import type { DmaRegion } from '../../../src/dma/types.ts';
import { errno } from '../../../src/errors.ts';
import { errnoThrownBy } from '../../thrown.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const TiB = 1024 * GiB;

function precise(pageSize = 4096, ranges: { iova: number; length: number }[] = []): DirtyLog {
  const log = new DirtyLog({ scope: 'precise' });
  log.start(pageSize, ranges);
  return log;
}

/** The addresses that a report of the range names. */
function report(log: Pick<DirtyLog, 'report'>, iova: number, length: number, pageSize = 4096): number[] {
  const bitmap = new Uint8Array(Math.ceil(length / pageSize / 64) * 8);
  log.report(iova, length, pageSize, bitmap);
  const pages: number[] = [];
  for (let bit = 0; bit < bitmap.length * 8; bit++) {
    if (((bitmap[bit >>> 3] ?? 0) >>> (bit & 7)) & 1) pages.push(iova + bit * pageSize);
  }
  return pages;
}

/** The 4 KiB pages of a tracked page. */
function small(address: number, pageSize: number): number[] {
  return Array.from({ length: pageSize / 4096 }, (_, index) => address + index * 4096);
}

describe('a precise log', () => {
  it('reports each written page once', () => {
    const log = precise();
    log.mark(0x1fff, 2);
    log.mark(0x5000, 4096);
    log.mark(0x5001, 1);
    log.mark(0x9000, 0);
    expect(log.count).toBe(3);
    expect(report(log, 0, 1 * MiB)).toEqual([0x1000, 0x2000, 0x5000]);
    expect(log.count).toBe(0);
    expect(report(log, 0, 1 * MiB)).toEqual([]);
  });

  it('clears only what was reported', () => {
    const log = precise();
    for (const page of [1, 31, 32, 33, 64, 40_000]) log.mark(page * 4096, 1);
    expect(report(log, 31 * 4096, 2 * 4096)).toEqual([31 * 4096, 32 * 4096]);
    expect([...log.takeDirtyPages()]).toEqual([1, 33, 64, 40_000].map((page) => page * 4096));
  });

  it('adds to the bitmap that it is given', () => {
    const log = precise();
    log.mark(0, 1);
    const bitmap = Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0, 0x10);
    log.report(0, 64 * 4096, 4096, bitmap);
    expect([...bitmap]).toEqual([0x81, 0, 0, 0, 0, 0, 0, 0x10]);
  });

  it('fills bitmaps that lie at odd addresses, and such that are no multiple of a word', () => {
    const log = precise();
    log.mark(0, 70 * 4096);
    for (const length of [9, 10, 12]) {
      const bitmap = new Uint8Array(20).subarray(3, 3 + length);
      log.report(0, 70 * 4096, 4096, bitmap);
      expect([...bitmap.subarray(0, 9)]).toEqual([255, 255, 255, 255, 255, 255, 255, 255, 0x3f]);
      log.mark(0, 70 * 4096);
    }
  });

  it('is a set of pages: as a simple model says, for any writes and reports', () => {
    const address = fc.oneof(
      fc.nat(4 * MiB),
      fc.nat(600 * MiB),
      fc.nat(2 ** 31 - 1).map((n) => n * 2 ** 21),
    );
    const write = fc.tuple(
      address,
      fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.integer({ min: 1, max: 2 * MiB })),
    );
    fc.assert(
      fc.property(
        fc.constantFrom(4096, 8192, 65536, 2 * MiB),
        fc.array(write, { minLength: 1, maxLength: 12 }),
        fc.nat(300),
        fc.integer({ min: 1, max: 300 }),
        (pageSize, writes, firstPage, pages) => {
          const log = precise(pageSize);
          const model = new Set<number>();
          for (const [iova, length] of writes) {
            log.mark(iova, length);
            for (let p = Math.floor(iova / pageSize); p * pageSize < iova + length; p++) model.add(p);
          }
          const from = firstPage * pageSize;
          const expected = [...model].filter((p) => p >= firstPage && p < firstPage + pages);
          expect(report(log, from, pages * pageSize, pageSize)).toEqual(
            expected.sort((a, b) => a - b).map((p) => p * pageSize),
          );
          for (const page of expected) model.delete(page);
          expect(log.count).toBe(model.size * (pageSize / 4096));
          const left = [...model].sort((a, b) => a - b).flatMap((p) => small(p * pageSize, pageSize));
          const middle = left[left.length >>> 1] ?? 0;
          expect([...log.peekDirtyPages(0, left.length + 1)]).toEqual(left);
          expect([...log.peekDirtyPages(middle, 7)]).toEqual(left.filter((at) => at >= middle).slice(0, 7));
          expect(log.count).toBe(left.length);
          expect([...log.takeDirtyPages()].filter((at) => at % pageSize === 0)).toEqual(
            [...model].sort((a, b) => a - b).map((p) => p * pageSize),
          );
        },
      ),
      { numRuns: 150 },
    );
  });

  it('finds a page anywhere in 1 TiB and above', () => {
    const log = precise();
    const pages = [0, TiB / 2 + 4096, TiB - 4096];
    for (const page of pages) log.mark(page, 1);
    log.mark(2 ** 52, 1);
    expect([...log.takeDirtyPages(2)]).toEqual(pages.slice(0, 2));
    const bitmap = new Uint8Array(TiB / 4096 / 8);
    log.report(0, TiB, 4096, bitmap);
    expect(bitmap.at(-1)).toBe(0x80);
    expect([...log.takeDirtyPages()]).toEqual([2 ** 52]);
  });
});

describe('page sizes', () => {
  it('are chosen between 4 KiB and 2 MiB', () => {
    const chosen = [1, 512, 4096, 8192, 2 * MiB, 4 * MiB, GiB].map((size) =>
      new DirtyLog({ scope: 'precise' }).start(size, []),
    );
    expect(chosen).toEqual([4096, 4096, 4096, 8192, 2 * MiB, 2 * MiB, 2 * MiB]);
    for (const size of [0, -4096, 5000, Number.NaN, 1.5, 2 ** 60, 2 ** 53 - 1, 2 ** 40 + 1]) {
      expect(errnoThrownBy(() => new DirtyLog({ scope: 'precise' }).start(size, []))).toBe(errno.EINVAL);
    }
  });

  it('of a report may be larger than those tracked', () => {
    const log = precise(4096);
    log.mark(3 * 4096, 1);
    log.mark(17 * 4096, 1);
    log.mark(4 * MiB, 1);
    expect(report(log, 0, 128 * KiB, 64 * KiB)).toEqual([0, 64 * KiB]);
    expect(report(log, 0, 8 * MiB, 2 * MiB)).toEqual([4 * MiB]);
    expect(log.count).toBe(0);
  });

  it('of a report may be smaller: nothing is lost when a tracked page is reported in parts', () => {
    const log = precise(64 * KiB);
    log.mark(64 * KiB, 1);
    expect(log.count).toBe(16);
    // Part of the tracked page: told, not cleared.
    expect(report(log, 64 * KiB, 8 * KiB)).toEqual([64 * KiB, 68 * KiB]);
    expect(report(log, 72 * KiB, 56 * KiB)).toHaveLength(14);
    expect(report(log, 72 * KiB, 8 * KiB)).toHaveLength(2);
    expect(log.count).toBe(16);
    expect(report(log, 0, 256 * KiB)).toHaveLength(16);
    expect(log.count).toBe(0);
  });

  it('are expanded to 4 KiB for marking, whole tracked pages at a time', () => {
    const log = precise(16 * KiB);
    log.mark(16 * KiB, 1);
    log.mark(48 * KiB, 1);
    expect([...log.takeDirtyPages(1)]).toEqual([16, 20, 24, 28].map((at) => at * KiB));
    expect([...log.takeDirtyPages()]).toEqual([48, 52, 56, 60].map((at) => at * KiB));
  });
});

describe('ranges', () => {
  const ranges = [
    { iova: 16 * MiB, length: 4 * MiB },
    { iova: 0, length: 64 * KiB },
    { iova: 64 * KiB, length: 64 * KiB },
  ];

  it('limit what is logged', () => {
    const log = precise(4096, ranges);
    log.mark(60 * KiB, 16 * KiB);
    log.mark(124 * KiB, 20 * KiB);
    log.mark(8 * MiB, 4096);
    log.mark(15 * MiB, 2 * MiB - 1);
    expect(report(log, 0, 128 * KiB)).toEqual([60, 64, 68, 72, 124].map((at) => at * KiB));
    expect(report(log, 16 * MiB, 4 * MiB)).toHaveLength(256);
    expect(log.count).toBe(0);
  });

  it('are checked', () => {
    const start = (list: typeof ranges, size = 4096) =>
      errnoThrownBy(() => new DirtyLog({ scope: 'precise' }).start(size, list));
    expect(start(ranges)).toBeUndefined();
    expect(
      start([
        { iova: 0, length: 8192 },
        { iova: 4096, length: 4096 },
      ]),
    ).toBe(errno.EINVAL);
    expect(
      start([
        { iova: 0, length: 4096 },
        { iova: 0, length: 4096 },
      ]),
    ).toBe(errno.EINVAL);
    expect(start([{ iova: 100, length: 4096 }])).toBe(errno.EINVAL);
    expect(start([{ iova: 4096, length: 4096 }], 8192)).toBe(errno.EINVAL);
    expect(start([{ iova: 0, length: 0 }])).toBe(errno.EINVAL);
    expect(start([{ iova: -4096, length: 4096 }])).toBe(errno.EINVAL);
    expect(start([{ iova: 2 ** 53 - 4096, length: 8192 }])).toBe(errno.EINVAL);
    const many = (count: number) =>
      Array.from({ length: count }, (_, i) => ({ iova: i * 8192, length: 4096 }));
    expect(start(many(256))).toBeUndefined();
    expect(start(many(257))).toBe(errno.E2BIG);
  });
});

describe('requests that are refused', () => {
  it('start twice, with the first one going on', () => {
    const log = precise();
    log.mark(0, 1);
    expect(errnoThrownBy(() => log.start(4096, []))).toBe(errno.EINVAL);
    expect(log.count).toBe(1);
    log.stop();
    log.stop();
    expect(log.active).toBe(false);
    log.mark(0, 1);
    expect(log.start(4096, [])).toBe(4096);
    expect(log.count).toBe(0);
  });

  it('reports that make no sense', () => {
    const log = precise(4096, [{ iova: 0, length: MiB }]);
    const bitmap = new Uint8Array(32);
    const refused = (iova: number, length: number, size: number, bytes = bitmap) =>
      errnoThrownBy(() => log.report(iova, length, size, bytes));
    expect(refused(0, MiB, 4096)).toBeUndefined();
    for (const [iova, length, size] of [
      [0, MiB, 2048],
      [0, MiB, 5000],
      [1, 4096, 4096],
      [0, 4097, 4096],
      [0, 0, 4096],
      [0, 2 * MiB, 4096],
      [4 * MiB, 4096, 4096],
      [-4096, 4096, 4096],
    ] as const) {
      expect(refused(iova, length, size), `${iova} ${length} ${size}`).toBe(errno.EINVAL);
    }
    expect(refused(0, MiB, 4096, new Uint8Array(31))).toBe(errno.EINVAL);
    log.stop();
    expect(refused(0, MiB, 4096)).toBe(errno.EINVAL);
  });
});

describe('draining', () => {
  it('loses nothing when the visitor throws', () => {
    const log = precise();
    log.mark(0, 100 * 4096);
    let seen = 0;
    expect(() =>
      log.drainPages(() => {
        if (++seen === 50) throw new Error('refused');
      }),
    ).toThrow('refused');
    // The group of 32 in which it happened is still there, and all behind it.
    expect([...log.takeDirtyPages()][0]).toBe(32 * 4096);
  });

  it('tells how many pages, up to the limit', () => {
    const log = precise();
    log.mark(4096, 10 * 4096);
    expect(log.drainPages(() => {}, 0)).toBe(0);
    expect(log.drainPages(() => {}, 4)).toBe(4);
    expect(log.drainPages(() => {})).toBe(6);
    expect(log.takeDirtyPages()).toHaveLength(0);
  });
});

describe('scopes', () => {
  const region = (iova: number, size: number, prot = 3): DmaRegion => ({ iova, size, prot, mapped: true });

  it('precise attaches to guest memory while logging is on, the others never', () => {
    for (const scope of ['precise', 'pinned', 'all'] as const) {
      const attached: unknown[] = [];
      const log = createDirtyLog({
        scope,
        memory: { regions: () => [] },
        pinned: { pinned: () => [] },
        attach: (sink) => attached.push(sink),
      });
      log.start(4096, []);
      log.stop();
      expect(attached).toEqual(scope === 'precise' ? [log, undefined] : []);
    }
  });

  it('pinned reports what is registered, and what was meanwhile, at every report', () => {
    let now = [{ iova: 0x1800, length: 0x1000 }];
    const log = createDirtyLog({
      scope: 'pinned',
      memory: { regions: () => [] },
      pinned: { pinned: () => now },
      attach: () => {},
    });
    log.start(4096, []);
    expect(report(log, 0, MiB)).toEqual([0x1000, 0x2000]);
    expect(report(log, 0, MiB)).toEqual([0x1000, 0x2000]);
    now = [{ iova: 0x8000, length: 1 }];
    // What was registered before may have been written until it was given back.
    expect(report(log, 0, MiB)).toEqual([0x1000, 0x2000, 0x8000]);
    expect(log.count).toBe(1);
    expect([...log.takeDirtyPages()]).toEqual([0x8000]);
    now = [];
    expect([...log.takeDirtyPages()]).toEqual([0x8000]);
    expect(log.takeDirtyPages()).toHaveLength(0);
  });

  it('pinned needs a model that tells', () => {
    expect(() =>
      createDirtyLog({ scope: 'pinned', memory: { regions: () => [] }, attach: () => {} }),
    ).toThrow(expect.objectContaining({ code: 'VC_DIRTY_SCOPE', errno: errno.EOPNOTSUPP }));
  });

  it('all reports every writable mapping, the short-lived ones too', () => {
    const byMessage = { ...region(0x50000, 0x1000), mapped: false };
    let regions = [region(0, 0x4000), region(0x10000, 0x2000, 1), byMessage];
    const log = createDirtyLog({ scope: 'all', memory: { regions: () => regions }, attach: () => {} });
    log.start(4096, []);
    expect(report(log, 0, MiB)).toEqual([0, 0x1000, 0x2000, 0x3000]);
    regions = [];
    log.mapped(0x20000, 0x1000, 3);
    log.mapped(0x30000, 0x1000, 1);
    expect(report(log, 0, MiB)).toEqual([0, 0x1000, 0x2000, 0x3000, 0x20000]);
    expect(report(log, 0, MiB)).toEqual([]);
  });
});
