import fc from 'fast-check';
import { expect, it } from 'vitest';
import { PageTracker } from '../../../src/device/index.ts';

it('agrees with a set of pages under any marks and clears', () => {
  const pages = 200;
  const step = fc.oneof(
    fc.record({ mark: fc.nat(pages * 4096 - 1), length: fc.nat(5 * 4096) }),
    fc.record({ clear: fc.nat(pages - 1) }),
  );
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const tracker = new PageTracker(pages * 4096);
      const model = new Set<number>();
      for (const one of steps) {
        if ('clear' in one) {
          tracker.clear(one.clear);
          model.delete(one.clear);
          continue;
        }
        const length = Math.min(one.length, pages * 4096 - one.mark);
        tracker.mark(one.mark, length);
        for (let at = one.mark; at < one.mark + length; at++) {
          model.add(at >>> 12);
          at |= 4095;
        }
      }
      const listed: number[] = [];
      for (let page = tracker.next(0); page >= 0; page = tracker.next(page + 1)) listed.push(page);
      expect(listed).toEqual([...model].sort((a, b) => a - b));
      expect(tracker.count).toBe(model.size);
    }),
    { numRuns: 200 },
  );
});
