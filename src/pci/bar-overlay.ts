/** Puts MSI-X windows over a model's BAR, so that a model never meets its table or pending bits. */

import type { BarHandler } from '../device/model.ts';
import type { BarIndex } from '../device/pci-description.ts';
import type { BarWindow } from './msix-table.ts';

/** A BAR without a handler: reads zero, swallows writes. */
const emptyBar: BarHandler = {
  read(_offset, count, target, at) {
    target.fill(0, at, at + count);
  },
  write() {},
};

/**
 * The handler of BAR `index`: accesses to `windows` go there, others to `handler` (or read zero), one that
 * crosses a border is split. Returns `handler` itself when no window is in that BAR.
 */
export function overlayBar(
  index: BarIndex,
  handler: BarHandler | undefined,
  windows: readonly BarWindow[],
): BarHandler {
  const inner = handler ?? emptyBar;
  const mine = windows.filter((window) => window.bar === index).sort((a, b) => a.offset - b.offset);
  const first = mine[0];
  const last = mine[mine.length - 1];
  if (first === undefined || last === undefined) return inner;
  // Doorbells lie behind the windows: what is clear of them all goes straight on.
  const start = first.offset;
  const end = last.offset + last.size;
  return {
    read: (offset, count, target, at) => {
      if (offset >= end || offset + count <= start) return inner.read(offset, count, target, at);
      eachPart(mine, offset, count, (window, from, length, done) =>
        window === undefined
          ? inner.read(from, length, target, at + done)
          : window.read(from - window.offset, length, target, at + done),
      );
    },
    write: (offset, count, source, at) => {
      if (offset >= end || offset + count <= start) return inner.write(offset, count, source, at);
      eachPart(mine, offset, count, (window, from, length, done) =>
        window === undefined
          ? inner.write(from, length, source, at + done)
          : window.write(from - window.offset, length, source, at + done),
      );
    },
  };
}

type Part = (window: BarWindow | undefined, offset: number, count: number, done: number) => void;

function eachPart(windows: readonly BarWindow[], offset: number, count: number, part: Part): void {
  const end = offset + count;
  let at = offset;
  while (at < end) {
    const next = windows.find((window) => window.offset + window.size > at);
    const inside = next !== undefined && next.offset <= at;
    const border = next === undefined ? end : inside ? next.offset + next.size : next.offset;
    const length = Math.min(border, end) - at;
    part(inside ? next : undefined, at, length, at - offset);
    at += length;
  }
}
