import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { CheckedMemory } from '../../fuzz/mlx5/checked-memory.ts';
import { type Action, anyAction, Workload } from './workload.ts';

const page = 4096;
const memories: CheckedMemory[] = [];

afterEach(() => {
  for (const memory of memories.splice(0)) memory.close();
});

interface Pages {
  /** Pages that the device changed, and pages that it logged, each counted once per thing that happened. */
  changed: number;
  logged: number;
  /** Changed and not logged. */
  missed: number;
}

/**
 * Runs `actions` and compares, around everything that a guest or the network does to the device, guest memory before and after
 * with what the dirty log has noted.
 */
function compare(actions: readonly Action[], spoil: (memory: CheckedMemory) => void = () => {}): Pages {
  const memory = CheckedMemory.create(3 * 1024 * 1024);
  memories.push(memory);
  spoil(memory);
  memory.log.start(page, []);
  const pages: Pages = { changed: 0, logged: 0, missed: 0 };
  const before = Buffer.alloc(memory.bytes.length);
  let within = false;
  const watch = <T>(action: () => T): T => {
    // What an interrupt handler does inside is a guest's doing, and waits until the fake driver polls.
    if (within) return action();
    within = true;
    memory.bytes.copy(before);
    memory.log.takeDirtyPages();
    try {
      return action();
    } finally {
      within = false;
      const dirty = memory.takeDirty();
      pages.logged += dirty.size;
      for (let at = before.equals(memory.bytes) ? before.length : 0; at < before.length; at += page) {
        if (before.compare(memory.bytes, at, at + page, at, at + page) === 0) continue;
        pages.changed++;
        if (!dirty.has(at / page)) pages.missed++;
      }
    }
  };
  const workload = new Workload(memory);
  const { device, port, host } = workload;
  const bar = device.bars[0];
  const write = bar.write.bind(bar);
  bar.write = (...args) => watch(() => write(...args));
  const inject = port.inject.bind(port);
  port.inject = (frame) => watch(() => inject(frame));
  const advance = host.advance.bind(host);
  host.advance = (ns) => watch(() => advance(ns));
  const setLink = port.setLink.bind(port);
  port.setLink = (up) => watch(() => setLink(up));
  workload.run(actions);
  return pages;
}

const script: readonly Action[] = fc.sample(anyAction, { numRuns: 15, seed: 7 });

describe('the dirty log of the mlx5 model', () => {
  it('has every page that the device changes, whatever it does, and hardly more', () => {
    const sum: Pages = { changed: 0, logged: 0, missed: 0 };
    fc.assert(
      fc.property(fc.array(anyAction, { minLength: 10, maxLength: 20 }), (actions) => {
        const pages = compare(actions);
        sum.changed += pages.changed;
        sum.logged += pages.logged;
        expect(pages.missed).toBe(0);
      }),
      { numRuns: 4 },
    );
    expect(sum.changed).toBeGreaterThan(50);
    // Bytes written again as they were: logged, but not changed.
    expect(sum.logged).toBeLessThan(1.3 * sum.changed);
  });

  it('would show a write that bypasses it', () => {
    const bypass = (memory: CheckedMemory) => {
      memory.writableView = (iova, length) => memory.bytes.subarray(iova, iova + length);
    };
    expect(compare(script).missed).toBe(0);
    expect(compare(script, bypass).missed).toBeGreaterThan(10);
  });
});
