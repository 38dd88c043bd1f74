import { describe, expect, it } from 'vitest';
import { type Due, DueQueue } from '../../../src/transport/libvfio-user/due-queue.ts';
import { pciRegion } from '../../../src/vfio-user/constants.ts';

/** As many as a client may have due. */
const most = 65536;

function write(region: number, offset: number): Due {
  return { region, offset, count: 4, source: Buffer.alloc(0) };
}

const bar = (offset: number) => write(pciRegion.bar0, offset);
const config = (offset: number) => write(pciRegion.config, offset);

/** Offsets of all that `take` gives. */
function taken(take: () => Due | undefined): (number | string)[] {
  const found: (number | string)[] = [];
  for (let next = take(); next !== undefined; next = take()) {
    found.push(typeof next === 'object' ? next.offset : 'work');
  }
  return found;
}

describe('what is due after its answer', () => {
  it('comes in order, writes to configuration space before their turn if asked for, none twice', () => {
    const queue = new DueQueue();
    for (const due of [bar(0), config(1), bar(2), () => {}, config(3), bar(4), config(5)]) queue.push(due);
    expect(queue.length).toBe(7);
    expect(queue.take()).toMatchObject({ offset: 0 });
    expect(queue.take()).toMatchObject({ offset: 1 });
    expect(taken(() => queue.takeConfig())).toEqual([3, 5]);
    expect(queue.length).toBe(3);
    queue.push(config(6));
    queue.push(bar(7));
    expect(queue.take()).toMatchObject({ offset: 2 });
    expect(taken(() => queue.takeConfig())).toEqual([6]);
    expect(taken(() => queue.take())).toEqual(['work', 4, 7]);
    expect([queue.length, queue.take(), queue.takeConfig()]).toEqual([0, undefined, undefined]);
  });

  it('comes in order however much it is, also while configuration space is written in between', () => {
    const queue = new DueQueue();
    let wrong = 0;
    for (let number = 0; number < most; number++) {
      queue.push(bar(number));
      queue.push(config(number));
      // Only what still waits counts.
      if (queue.length !== number + 2) wrong++;
      const next = queue.takeConfig();
      if (typeof next !== 'object' || next.offset !== number || queue.takeConfig() !== undefined) wrong++;
    }
    for (let number = 0; number < most; number++) {
      const next = queue.take();
      if (typeof next !== 'object' || next.region !== pciRegion.bar0 || next.offset !== number) wrong++;
    }
    expect({ wrong, left: queue.length, more: queue.take() }).toEqual({ wrong: 0, left: 0, more: undefined });
  });

  it('is forgotten with its session', () => {
    const queue = new DueQueue();
    for (const due of [bar(0), config(1), bar(2)]) queue.push(due);
    queue.takeConfig();
    queue.clear();
    queue.push(config(3));
    expect(queue.length).toBe(1);
    expect(taken(() => queue.takeConfig())).toEqual([3]);
    expect(taken(() => queue.take())).toEqual([]);
  });
});
