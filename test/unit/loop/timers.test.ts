import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../../src/loop/timers.ts';
import type { Timer } from '../../../src/loop/types.ts';

const COUNT = 12;
const step = fc.oneof(
  fc.record({ kind: fc.constant('arm' as const), timer: fc.nat(COUNT - 1), delay: fc.nat(20) }),
  fc.record({ kind: fc.constant('cancel' as const), timer: fc.nat(COUNT - 1) }),
  fc.record({ kind: fc.constant('pass' as const), time: fc.nat(15) }),
);

describe('TimerQueue', () => {
  it('fires exactly what a sorted list would, in its order', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        let now = 0;
        let armings = 0;
        const queue = new TimerQueue(() => now);
        const fired: number[] = [];
        const timers: Timer[] = Array.from({ length: COUNT }, (_, index) =>
          queue.create(() => fired.push(index)),
        );
        const model = new Map<number, { deadline: number; order: number }>();
        for (const each of steps) {
          if (each.kind === 'arm') {
            timers[each.timer]?.arm(each.delay);
            armings += 1;
            model.set(each.timer, { deadline: now + each.delay, order: armings });
          } else if (each.kind === 'cancel') {
            timers[each.timer]?.cancel();
            model.delete(each.timer);
          } else {
            now += each.time;
            const due = [...model].filter(([, { deadline }]) => deadline <= now);
            due.sort(([, a], [, b]) => a.deadline - b.deadline || a.order - b.order);
            fired.length = 0;
            expect(queue.runDue()).toBe(due.length > 0);
            expect(fired).toEqual(due.map(([index]) => index));
            for (const [index] of due) model.delete(index);
          }
          expect(timers.map((timer) => timer.armed)).toEqual(timers.map((_, index) => model.has(index)));
          const deadlines = [...model.values()].map(({ deadline }) => deadline);
          expect(queue.next()).toBe(
            deadlines.length === 0 ? undefined : Math.max(0, Math.min(...deadlines) - now),
          );
        }
      }),
    );
  });
});
