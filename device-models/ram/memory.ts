import { type BarHandler, PageTracker } from '../../src/device/index.ts';

/**
 * On-board memory, trapped: every write is noted by page, once for "was ever written" (so that reset
 * and migration touch no more than that) and once for whoever tracks changes.
 */
export class BoardMemory implements BarHandler {
  readonly bytes: Buffer;
  /** Pages that differ from zero, perhaps. */
  readonly written: PageTracker;
  /** Set while a precopy session wants to know what changes. */
  changes: PageTracker | undefined;

  /** @param populate have every page now; a first write then costs no page fault (0.5 to 2.5 µs each) */
  constructor(size: number, populate = false) {
    // Left to the kernel: pages that nobody writes cost nothing.
    this.bytes = Buffer.from(new ArrayBuffer(size));
    if (populate) this.bytes.fill(0);
    this.written = new PageTracker(size);
  }

  /** Notes that `[offset, offset + length)` was, or is about to be, written. */
  touch(offset: number, length: number): void {
    this.written.mark(offset, length);
    this.changes?.mark(offset, length);
  }

  read(offset: number, count: number, target: Buffer, at: number): void {
    this.bytes.copy(target, at, offset, offset + count);
  }

  write(offset: number, count: number, source: Buffer, at: number): void {
    this.touch(offset, count);
    source.copy(this.bytes, offset, at, at + count);
  }

  clear(): void {
    const { written } = this;
    for (let page = written.next(0); page >= 0; page = written.next(page + 1)) {
      const start = page * written.pageSize;
      this.bytes.fill(0, start, start + written.pageSize);
      this.changes?.mark(start, written.pageSize);
    }
    written.clearAll();
  }
}
