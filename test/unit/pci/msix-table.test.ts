import { pack, unpack } from 'msgpackr';
import { describe, expect, test } from 'vitest';
import type { BarHandler } from '../../../src/device/model.ts';
import { overlayBar, PciStateError } from '../../../src/pci/index.ts';
import { MsixTable } from '../../../src/pci/msix-table.ts';
import { pciIrq } from '../../../src/vfio-user/constants.ts';
import { makeFunction, plainDescription } from './fixtures.ts';

function control(vector: number, masked: boolean): [number, number, Buffer, number] {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(masked ? 1 : 0);
  return [vector * 16 + 12, 4, bytes, 0];
}

describe('MSI-X table written through the BAR', () => {
  test('a written mask bit holds back, opening it sends; unwritten ones mask nothing', () => {
    const { fds, interrupts, connect } = makeFunction();
    const table = interrupts.msixTable;
    const made = connect(pciIrq.msix, 0, 8);
    interrupts.trigger(1);
    expect(fds.taken()).toEqual([made[1]]);
    table?.write(...control(1, true));
    interrupts.trigger(1);
    interrupts.trigger(2);
    expect([fds.taken(), interrupts.pendingVectors]).toEqual([[made[2]], [1]]);
    table?.write(...control(1, false));
    expect([fds.taken(), interrupts.pendingVectors]).toEqual([[made[1]], []]);
  });

  test('keeps address and data, has one bit of vector control, and wakes up masked', () => {
    const { interrupts } = makeFunction();
    const table = interrupts.msixTable;
    const entry = Buffer.alloc(16);
    table?.read(16, 16, entry, 0);
    expect(entry.toString('hex')).toBe('00000000000000000000000001000000');
    table?.write(16, 16, Buffer.alloc(16, 0xff), 0);
    table?.read(16, 16, entry, 0);
    expect(entry.toString('hex')).toBe('fcffffffffffffffffffffff01000000');
    expect(() => table?.read(120, 16, entry, 0)).toThrow(/128 bytes/);
    interrupts.reset();
    table?.read(16, 16, entry, 0);
    expect(entry.toString('hex')).toBe('00000000000000000000000001000000');
  });

  test('a dword that crosses from data to control obeys both', () => {
    const { interrupts } = makeFunction();
    interrupts.msixTable?.write(10, 4, Buffer.of(0x11, 0x22, 0xfe, 0xff), 0);
    const entry = Buffer.alloc(16);
    interrupts.msixTable?.read(0, 16, entry, 0);
    expect(entry.toString('hex')).toBe('00000000000000000000112200000000');
    expect(interrupts.msixTable?.masks(0)).toBe(false);
  });
});

describe('entries that are out of date', () => {
  const powerOn = '00000000000000000000000001000000';
  const entryOf = (table: MsixTable, vector: number): string => {
    const entry = Buffer.alloc(16);
    table.read(16 * vector, 16, entry, 0);
    return entry.toString('hex');
  };
  const writtenTable = (): MsixTable => {
    const table = new MsixTable(8, () => {});
    table.write(...control(1, true));
    table.write(16, 12, Buffer.alloc(12, 0x5a), 0);
    return table;
  };

  test('are gone after a reset, with what they masked, and travel no more', () => {
    const table = writtenTable();
    expect([table.masks(1), table.save()?.controlWritten]).toEqual([true, [1]]);
    table.reset();
    expect([entryOf(table, 1), table.masks(1), table.save()]).toEqual([powerOn, false, undefined]);
    // A mask bit that nobody has written since masks nothing.
    table.write(16, 4, Buffer.alloc(4), 0);
    expect([table.masks(1), table.save()?.controlWritten]).toEqual([false, []]);
  });

  test.each([
    ['a table', { entries: new Uint8Array(128), controlWritten: [2] }, '0'.repeat(32), [2]],
    ['none', undefined, powerOn, undefined],
  ])('are gone when %s is loaded over them', (_what, state, entry, controlWritten) => {
    const table = writtenTable();
    table.load(state);
    expect([entryOf(table, 1), table.masks(1), table.save()?.controlWritten]).toEqual([
      entry,
      false,
      controlWritten,
    ]);
  });

  test('have no reserved bits from a state', () => {
    const table = new MsixTable(8, () => {});
    table.load({ entries: new Uint8Array(128).fill(0xff), controlWritten: [7] });
    expect([0, 7].map((vector) => entryOf(table, vector))).toEqual(
      new Array(2).fill('fcffffffffffffffffffffff01000000'),
    );
    expect([table.masks(0), table.masks(7)]).toEqual([false, true]);
  });

  test('are not reached from outside of the table', () => {
    const table = new MsixTable(8, () => {});
    const bytes = Buffer.alloc(16);
    for (const [offset, count] of [
      [-1, 1],
      [0, -1],
      [0.5, 1],
      [127, 2],
    ] as const) {
      expect(() => table.read(offset, count, bytes, 0)).toThrow(/128 bytes/);
      expect(() => table.write(offset, count, bytes, 0)).toThrow(/128 bytes/);
    }
    table.read(127, 1, bytes, 0);
  });
});

describe('over a BAR', () => {
  const inner = (): BarHandler & { seen: string[] } => {
    const seen: string[] = [];
    return {
      seen,
      read: (offset, count, target, at) => {
        seen.push(`r${offset}+${count}`);
        target.fill(0x77, at, at + count);
      },
      write: (offset, count) => {
        seen.push(`w${offset}+${count}`);
      },
    };
  };

  test('accesses are split at the windows', () => {
    const { interrupts } = makeFunction();
    const model = inner();
    const bar = overlayBar(0, model, interrupts.windows);
    interrupts.trigger(0);
    const bytes = Buffer.alloc(0x1100);
    bar.read(0x1ffc, 0x1100, bytes, 0);
    // Before the table, table (128 bytes), between, PBA (8 bytes), after.
    expect(model.seen).toEqual(['r8188+4', 'r8320+3968', 'r12296+244']);
    expect(bytes[3]).toBe(0x77);
    expect(bytes[4 + 12]).toBe(1);
    expect(bytes[0x1004]).toBe(1);
    expect(bytes[0x100c]).toBe(0x77);
    model.seen.length = 0;
    bar.write(0x207e, 4, Buffer.alloc(4), 0);
    bar.write(0x3000, 8, Buffer.alloc(8, 0xff), 0);
    bar.write(0x10, 4, Buffer.alloc(4), 0);
    expect(model.seen).toEqual(['w8320+2', 'w16+4']);
    expect(interrupts.pendingVectors).toEqual([0]);
  });

  test('other BARs, and functions without MSI-X, are left alone', () => {
    const model = inner();
    expect(overlayBar(2, model, makeFunction().interrupts.windows)).toBe(model);
    expect(makeFunction(plainDescription).interrupts.windows).toEqual([]);
    const bytes = Buffer.alloc(4, 0xff);
    overlayBar(2, undefined, []).read(0, 4, bytes, 0);
    expect(bytes.readUInt32LE()).toBe(0);
  });
});

describe('saved interrupts', () => {
  test('carry what waits, the level and a written table, and no descriptor', () => {
    const source = makeFunction();
    source.interrupts.setIntx(true);
    source.interrupts.trigger(6);
    source.interrupts.msixTable?.write(...control(2, true));
    source.interrupts.msixTable?.write(...control(3, false));
    const saved = unpack(pack(source.interrupts.save()));
    expect(saved).toMatchObject({ intxAsserted: true, msixPending: [6], msiPending: [] });
    const target = makeFunction();
    target.interrupts.hold();
    target.interrupts.load(saved);
    expect(target.interrupts.save()).toEqual(source.interrupts.save());
    expect(target.config.snapshot().readUInt16LE(6) & 8).toBe(8);
    const made = target.connect(pciIrq.msix, 0, 8);
    target.interrupts.trigger(2);
    expect(target.fds.taken()).toEqual([]);
    target.interrupts.release();
    expect(target.fds.taken()).toEqual([made[6]]);
    expect(target.interrupts.pendingVectors).toEqual([2]);
  });

  test('without a written table there is none in it', () => {
    expect(Object.keys(makeFunction().interrupts.save())).not.toContain('msixTable');
  });

  test('INTx fires at the destination when its descriptor comes', () => {
    const { fds, interrupts, connect } = makeFunction();
    interrupts.load({ intxAsserted: true, msiPending: [], msixPending: [] });
    const [fd] = connect(pciIrq.intx, 0, 1);
    expect(fds.taken()).toEqual([fd]);
  });

  const good = { intxAsserted: false, msiPending: [1], msixPending: [7] };
  const table = { entries: new Uint8Array(128), controlWritten: [0] };
  const broken: [string, unknown][] = [
    ['nothing', undefined],
    ['a number', 7],
    ['no level', { ...good, intxAsserted: 1 }],
    ['a vector too far', { ...good, msixPending: [8] }],
    ['a fraction', { ...good, msiPending: [0.5] }],
    ['too many vectors', { ...good, msixPending: new Array(9).fill(0) }],
    ['a short table', { ...good, msixTable: { ...table, entries: new Uint8Array(16) } }],
    ['a table that is text', { ...good, msixTable: { ...table, entries: 'x'.repeat(128) } }],
    ['a table without its list', { ...good, msixTable: { entries: table.entries } }],
    ['a table that is a number', { ...good, msixTable: 5 }],
  ];
  test.each(broken)('refuses %s and stays as it was', (_name, state) => {
    const { interrupts } = makeFunction();
    interrupts.trigger(3);
    expect(() => interrupts.load(state)).toThrow(PciStateError);
    expect(interrupts.pendingVectors).toEqual([3]);
    interrupts.load({ ...good, msixTable: table });
    expect(interrupts.pendingVectors).toEqual([7]);
  });
});
