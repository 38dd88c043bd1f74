import { describe, expect, it } from 'vitest';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { Layout } from '../../../device-models/mlx5/prm/index.ts';
import { headerConstant, headersFolder, parseIfc, parsePlainStruct, readHeader } from './ifc-header.ts';

const headers = headersFolder();
const layouts = Object.entries(prm as Readonly<Record<string, unknown>>).filter(
  (entry): entry is [string, Layout] => entry[1] instanceof Layout,
);

/**
 * Fields that the kernel's headers name only since later than 6.1, and what these bits are in it: 6.10 has `cq_period_mode_modify`
 * right behind `cq_moderation`.
 */
const namedLater: Readonly<Record<string, string>> = {
  'mlx5_ifc_cmd_hca_cap_bits.cq_period_mode_modify': 'reserved_at_223',
};

/** The field of the header that `name` of `struct` lies in, as the header calls it now or did. */
function inHeader(
  struct: string,
  name: string,
  offset: number,
  width: number,
  fields: ReadonlyMap<string, unknown>,
): { offset: number; width: number } | undefined {
  const own = fields.get(name) as { offset: number; width: number } | undefined;
  const earlier = fields.get(namedLater[`${struct}.${name}`] ?? '') as typeof own;
  if (own !== undefined || earlier === undefined) return own;
  const within = offset >= earlier.offset && offset + width <= earlier.offset + earlier.width;
  return within ? { offset, width } : earlier;
}

/** Every difference between a declared layout and the same structure of the header, in words. */
function differences(
  layout: Layout,
  header:
    | { size: number; fields: ReadonlyMap<string, prm.BitField | { offset: number; width: number }> }
    | undefined,
): string[] {
  if (header === undefined) return [`${layout.source.struct}: not in the header`];
  const found: string[] = [];
  if (layout.size * 8 !== header.size)
    found.push(`${layout.source.struct}: size ${layout.size * 8} != ${header.size}`);
  for (const [name, [offset, width]] of Object.entries(layout.fields)) {
    const theirs = inHeader(layout.source.struct, name, offset, width, header.fields);
    if (theirs === undefined) found.push(`${layout.source.struct}.${name}: not in the header`);
    else if (theirs.offset !== offset || theirs.width !== width) {
      found.push(`${layout.source.struct}.${name}: ${offset}+${width} != ${theirs.offset}+${theirs.width}`);
    }
  }
  return found;
}

describe.skipIf('reason' in headers)(
  `layouts against the kernel's headers${'reason' in headers ? ` (${headers.reason})` : ''}`,
  () => {
    const folder = 'folder' in headers ? headers.folder : '';
    const text = (name: string) => readHeader(folder, name);

    it('declares every field where mlx5_ifc.h has it', () => {
      const ifc = parseIfc(text('mlx5_ifc.h'));
      const checked = layouts.filter(([, layout]) => layout.source.header === 'mlx5_ifc.h');
      expect(checked.flatMap(([, layout]) => differences(layout, ifc(layout.source.struct)))).toEqual([]);
      expect(checked.length).toBeGreaterThan(100);
    });

    it('declares every field where device.h and qp.h have it', () => {
      const plain = layouts.filter(([, layout]) => layout.source.header !== 'mlx5_ifc.h');
      const found = plain.flatMap(([, layout]) =>
        differences(layout, parsePlainStruct(text(layout.source.header), layout.source.struct)),
      );
      expect(found).toEqual([]);
    });

    it('would notice a field that is one bit off, and one of another width', () => {
      const ifc = parseIfc(text('mlx5_ifc.h'));
      const wrong = prm.eqc.fields;
      const shifted = new Layout(prm.eqc.source, prm.eqc.size * 8, { ...wrong, log_eq_size: [0x62, 5] });
      const wider = new Layout(prm.eqc.source, prm.eqc.size * 8, { ...wrong, intr: [0xb0, 16] });
      expect(differences(shifted, ifc(shifted.source.struct))).toHaveLength(1);
      expect(differences(wider, ifc(wider.source.struct))).toHaveLength(1);
    });

    it('numbers opcodes, statuses, events and syndromes as the headers do', () => {
      const all = `${text('mlx5_ifc.h')}\n${text('device.h')}\n${text('qp.h')}\n${text('cq.h')}`;
      const tables: [string, Readonly<Record<string, number>>][] = [
        ['MLX5_CMD_OP_', prm.opcode],
        ['MLX5_CMD_STAT_', prm.commandStatus],
        ['MLX5_EVENT_TYPE_', prm.eventType],
        ['MLX5_CQE_SYNDROME_', prm.cqeSyndrome],
        ['MLX5_CQE_', prm.cqeOpcode],
        ['MLX5_OPCODE_', prm.wqeOpcode],
      ];
      for (const [prefix, table] of tables) {
        for (const [name, value] of Object.entries(table)) {
          expect([prefix + name, headerConstant(all, prefix + name)]).toEqual([prefix + name, value]);
        }
      }
    });
  },
);

describe('bit fields', () => {
  const sample = new Layout({ header: 'mlx5_ifc.h', struct: 'sample' }, 128, {
    high: [0, 1],
    middle: [9, 15],
    word: [32, 32],
    long: [64, 64],
  });

  it('read back what was set and leave their neighbours alone', () => {
    const buffer = Buffer.alloc(20, 0xff);
    sample.set(buffer, 'middle', 0x1234, 4);
    expect(sample.get(buffer, 'middle', 4)).toBe(0x1234);
    expect(sample.get(buffer, 'high', 4)).toBe(1);
    sample.set(buffer, 'word', 0xdeadbeef, 4);
    expect(buffer.subarray(8, 12).toString('hex')).toBe('deadbeef');
    sample.set64(buffer, 'long', 2 ** 52 + 5, 4);
    expect(sample.get64(buffer, 'long', 4)).toBe(2 ** 52 + 5);
    expect(buffer.subarray(0, 4).toString('hex')).toBe('ffffffff');
  });

  it('gives Infinity for an address that a number can not hold', () => {
    expect(sample.get64(Buffer.alloc(20, 0xff), 'long')).toBe(Number.POSITIVE_INFINITY);
  });

  it('refuse a layout that does not fit', () => {
    expect(() => new Layout(sample.source, 32, { wide: [16, 32] })).toThrow(RangeError);
    expect(() => new Layout(sample.source, 64, { crossing: [20, 24] })).toThrow(RangeError);
  });
});
