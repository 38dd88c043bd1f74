import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dmaProt, GuestMemoryMap } from '../../../src/dma/index.ts';
import { closeFd, dupFd, memfdCreate, PAGE_SIZE } from '../../../src/posix/index.ts';

const PAGES = 12;
const SIZE = PAGES * PAGE_SIZE;
/** Model permission of an address that no region holds. */
const NOTHING = -1;

const page = fc.nat(PAGES - 1);
const address = fc.oneof(
  fc.integer({ min: -8, max: SIZE + 8 }),
  // Near a page border, where regions meet.
  fc.tuple(page, fc.integer({ min: -6, max: 6 })).map(([at, by]) => at * PAGE_SIZE + by),
);
const length = fc.oneof(fc.nat(40), fc.nat(3 * PAGE_SIZE));
const step = fc.oneof(
  fc.record({
    kind: fc.constant('map' as const),
    page,
    pages: fc.integer({ min: 1, max: 4 }),
    prot: fc.nat(3),
    fdOffset: fc.nat(300),
    byFile: fc.boolean(),
  }),
  fc.record({
    kind: fc.constant('unmap' as const),
    region: fc.nat(PAGES),
    before: fc.constantFrom(0, 0, PAGE_SIZE),
    behind: fc.constantFrom(0, 0, PAGE_SIZE, -PAGE_SIZE, 4 * PAGE_SIZE),
  }),
  fc.record({ kind: fc.constant('read' as const), address, length }),
  fc.record({ kind: fc.constant('write' as const), address, length, seed: fc.nat(255) }),
  fc.record({ kind: fc.constant('word' as const), address, value: fc.nat(0xffffffff), little: fc.boolean() }),
  fc.record({ kind: fc.constant('view' as const), address, length, seed: fc.nat(255) }),
);

/** Flat memory with a permission for each byte: what guest memory is, without any of its machinery. */
class Model {
  readonly bytes = Buffer.alloc(SIZE);
  readonly prot = new Int8Array(SIZE).fill(NOTHING);
  readonly regions: { iova: number; size: number; prot: number }[] = [];

  may(at: number, count: number, prot: number): boolean {
    if (count === 0) return true;
    if (at < 0 || at + count > SIZE) return false;
    return this.prot.subarray(at, at + count).every((each) => each !== NOTHING && (each & prot) === prot);
  }
}

function fails(action: () => void): boolean {
  try {
    action();
    return false;
  } catch {
    return true;
  }
}

describe('GuestMemoryMap', () => {
  it('behaves as flat memory with permissions, whatever is mapped how and accessed how', () => {
    const file = memfdCreate('guest-memory-model', 2 * SIZE + PAGE_SIZE);
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const memory = new GuestMemoryMap();
        const model = new Model();
        const remote = Buffer.alloc(SIZE);
        const dirty = new Uint8Array(SIZE);
        const writtenByFile = new Uint8Array(SIZE);
        const byFile = new Uint8Array(SIZE);
        memory.setDirtySink({ mark: (at, count) => dirty.fill(1, at, at + count) });
        memory.setMessageDma({
          mayWait: true,
          read: (at, target) => target.set(remote.subarray(at, at + target.length)),
          write: (at, source) => remote.set(source, at),
        });
        const noteWrite = (at: number, count: number) => {
          for (let each = at; each < at + count; each += 1) writtenByFile[each] ||= byFile[each] ?? 0;
        };
        for (const each of steps) {
          if (each.kind === 'map') {
            const iova = each.page * PAGE_SIZE;
            const size = Math.min(each.pages * PAGE_SIZE, SIZE - iova);
            const free = model.prot.subarray(iova, iova + size).every((prot) => prot === NOTHING);
            const same = { iova, size, prot: each.prot };
            // Twice the address: no two regions share bytes of the file.
            const request = { ...same, fdOffset: 2 * iova + each.fdOffset };
            if (free) {
              memory.map(each.byFile ? { ...request, fd: dupFd(file) } : request);
              model.prot.fill(each.prot, iova, iova + size);
              model.regions.push(same);
              byFile.fill(each.byFile ? 1 : 0, iova, iova + size);
              // What the new region holds is the starting point.
              const other = new GuestMemoryMap();
              if (each.byFile) {
                other.map({ ...request, prot: dmaProt.read, fd: dupFd(file) });
                other.read(iova, model.bytes.subarray(iova, iova + size));
                other.unmapAll();
                other.collect();
              } else remote.copy(model.bytes, iova, iova, iova + size);
            } else if (!memory.regions().some((region) => region.iova === iova && region.size === size))
              expect(fails(() => memory.map(request))).toBe(true);
          } else if (each.kind === 'unmap') {
            const region = model.regions[each.region];
            if (region === undefined) continue;
            const iova = Math.max(0, region.iova - each.before);
            const end = region.iova + region.size + each.behind;
            const touched = model.regions.filter((one) => one.iova < end && one.iova + one.size > iova);
            const inside = touched.filter((one) => one.iova >= iova && one.iova + one.size <= end);
            const may = inside.length > 0 && inside.length === touched.length;
            expect(fails(() => memory.unmap(iova, end - iova))).toBe(!may);
            if (!may) continue;
            model.prot.fill(NOTHING, iova, end);
            for (const one of inside) model.regions.splice(model.regions.indexOf(one), 1);
            memory.collect();
          } else if (each.kind === 'read') {
            const target = Buffer.alloc(each.length, 0xaa);
            const may = model.may(each.address, each.length, dmaProt.read);
            expect(memory.accessible(each.address, each.length, dmaProt.read)).toBe(may);
            expect(fails(() => memory.read(each.address, target))).toBe(!may);
            const wanted = may
              ? model.bytes.subarray(each.address, each.address + each.length)
              : Buffer.alloc(each.length, 0xaa);
            expect(target.equals(each.length === 0 ? Buffer.alloc(0) : wanted)).toBe(true);
          } else if (each.kind === 'write') {
            const source = Buffer.alloc(each.length, Buffer.from([each.seed, 1, 2, 3, 4]));
            const may = model.may(each.address, each.length, dmaProt.write);
            expect(fails(() => memory.write(each.address, source))).toBe(!may);
            if (!may || each.length === 0) continue;
            source.copy(model.bytes, each.address);
            noteWrite(each.address, each.length);
          } else if (each.kind === 'word') {
            const write = each.little ? memory.writeUint32LE : memory.writeUint32BE;
            const read = each.little ? memory.readUint32LE : memory.readUint32BE;
            const may = model.may(each.address, 4, dmaProt.write);
            expect(fails(() => write.call(memory, each.address, each.value))).toBe(!may);
            if (may) {
              if (each.little) model.bytes.writeUInt32LE(each.value, each.address);
              else model.bytes.writeUInt32BE(each.value, each.address);
              noteWrite(each.address, 4);
            }
            const readable = model.may(each.address, 4, dmaProt.read);
            if (!readable) expect(fails(() => read.call(memory, each.address))).toBe(true);
            else
              expect(read.call(memory, each.address)).toBe(
                each.little ? model.bytes.readUInt32LE(each.address) : model.bytes.readUInt32BE(each.address),
              );
          } else {
            if (each.length === 0) continue;
            const may = model.may(each.address, each.length, dmaProt.write);
            let view: Uint8Array | undefined;
            const failed = fails(() => {
              view = memory.writableView(each.address, each.length);
            });
            expect(failed).toBe(!may);
            if (view === undefined) continue;
            view.fill(each.seed);
            model.bytes.fill(each.seed, each.address, each.address + each.length);
            noteWrite(each.address, each.length);
          }
        }
        expect(Buffer.compare(dirty, writtenByFile)).toBe(0);
        memory.unmapAll();
        memory.collect();
      }),
      { numRuns: 300 },
    );
    closeFd(file);
  });
});
