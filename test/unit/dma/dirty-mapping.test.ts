import { afterEach, describe, expect, it } from 'vitest';
import { createDirtyLog } from '../../../src/dma/dirty-scopes.ts';
import type { DirtyScopeName } from '../../../src/dma/dirty-tracker.ts';
import { dmaProt, GuestMemoryMap } from '../../../src/dma/index.ts';
import { memfdCreate } from '../../../src/posix/index.ts';

const page = 4096;
const prot = dmaProt.read | dmaProt.write;
const maps: GuestMemoryMap[] = [];

afterEach(() => {
  for (const memory of maps.splice(0)) {
    memory.unmapAll();
    memory.collect();
  }
});

function setUp(scope: DirtyScopeName = 'precise') {
  const memory = new GuestMemoryMap();
  maps.push(memory);
  const log = createDirtyLog({ scope, memory, attach: (sink) => memory.setDirtySink(sink) });
  const map = (iova: number, pages: number) => {
    memory.map({ iova, size: pages * page, prot, fd: memfdCreate('dirty', pages * page), fdOffset: 0 });
    log.mapped(iova, pages * page, prot);
  };
  const report = (): number[] => {
    const bitmap = new Uint8Array(32);
    log.report(0, 256 * page, page, bitmap);
    return Array.from({ length: 256 }, (_, i) => i).filter((i) => ((bitmap[i >> 3] ?? 0) >> (i & 7)) & 1);
  };
  return { memory, log, map, report };
}

describe('the dirty log under guest memory', () => {
  it('sees every way to write, and no reads', () => {
    const { memory, log, map, report } = setUp();
    map(0, 64);
    log.start(page, []);
    memory.read(0, new Uint8Array(10));
    memory.view(page, 10);
    expect(report()).toEqual([]);
    memory.write(2 * page - 1, new Uint8Array(2));
    memory.writeUint8(4 * page, 1);
    memory.writeUint32LE(6 * page - 4, 1);
    memory.writeUint32BE(8 * page, 1);
    memory.writableView(10 * page, page + 1);
    expect(report()).toEqual([1, 2, 4, 5, 8, 10, 11]);
    expect(report()).toEqual([]);
    memory.writeUint8(4 * page, 2);
    expect(report()).toEqual([4]);
  });

  it('keeps what was written through unmap and remap, until it is reported once', () => {
    const { memory, log, map, report } = setUp();
    map(0, 16);
    map(32 * page, 16);
    log.start(page, []);
    memory.writeUint8(3 * page, 1);
    memory.writeUint8(40 * page, 1);
    memory.unmap(0, 16 * page);
    map(0, 8);
    memory.writeUint8(5 * page, 1);
    memory.unmapAll();
    expect(report()).toEqual([3, 5, 40]);
    expect(report()).toEqual([]);
  });

  it('notes nothing while it is off', () => {
    const { memory, log, map, report } = setUp();
    map(0, 16);
    memory.writeUint8(0, 1);
    log.start(page, []);
    expect(report()).toEqual([]);
    log.stop();
    memory.writeUint8(0, 1);
    log.start(page, []);
    expect(report()).toEqual([]);
  });

  it('of the scope all has mappings that came and went between two reports', () => {
    const { memory, log, map, report } = setUp('all');
    map(0, 2);
    log.start(page, []);
    map(16 * page, 1);
    memory.unmap(16 * page, page);
    expect(report()).toEqual([0, 1, 16]);
    expect(report()).toEqual([0, 1]);
  });
});
