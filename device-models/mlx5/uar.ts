import type { Mlx5Core } from './core.ts';
import { adapterPageBytes } from './memory.ts';
import { DeviceObject } from './objects.ts';

/** BAR 0: initialization segment, MSI-X structures, then UAR pages. */
export const barBytes = 1024 * 1024;
/** Index of the first UAR page, clear of the initialization segment and the MSI-X structures. */
export const firstUar = 16;
export const uarCount = barBytes / adapterPageBytes - firstUar;

/** Registers of a UAR page (`MLX5_CQ_DOORBELL`, `MLX5_EQ_DOORBEL_OFFSET`, `MLX5_BF_OFFSET`). */
export const uarRegister = { CQ_ARM: 0x20, EQ_ARM: 0x40, EQ_UPDATE: 0x48, SQ_DOORBELL: 0x800 } as const;

const doorbellBytes = 8;
/** The two buffers of a blue flame register, and further registers, repeat every 256 bytes. */
const bfBufferBytes = 0x100;
const indexMask = 0xffffff;
const solicitedCommand = 1;

/** A doorbell page. A 32-bit CPU writes 64-bit registers in halves: the first is kept. */
export class Uar extends DeviceObject {
  cqArmHigh = 0;
}

/*
 * A queue is rung through the UAR page that it was made with and through no other: that is what keeps the queues of several
 * processes apart which have a page each.
 */

function armCq(core: Mlx5Core, page: number, high: number, low: number): void {
  const cqn = low & indexMask;
  if (core.cqs.table.find(cqn)?.settings.uarPage !== page) return;
  core.cqs.arm(cqn, high & indexMask, ((high >>> 24) & 0xf) === solicitedCommand);
}

function eqDoorbell(core: Mlx5Core, page: number, word: number, arm: boolean): void {
  const eqn = word >>> 24;
  if (core.eqs.table.find(eqn)?.settings.uarPage === page) core.eqs.doorbell(eqn, word & indexMask, arm);
}

function ringSq(core: Mlx5Core, page: number, word: number): void {
  const sqn = word >>> 8;
  const own = core.sqs.table.find(sqn)?.settings.uarPage;
  if (own === undefined || own === page) core.sqs.doorbell(sqn);
}

/** A write into UAR page `index` at `register`. Only the registers that exist do something. */
export function writeUar(
  core: Mlx5Core,
  index: number,
  register: number,
  count: number,
  source: Buffer,
  at: number,
): void {
  const uar = core.uars.find(index);
  if (uar === undefined || count < 4) return;
  const first = source.readUInt32BE(at);
  if (register === uarRegister.CQ_ARM) {
    if (count >= doorbellBytes) armCq(core, index, first, source.readUInt32BE(at + 4));
    else uar.cqArmHigh = first;
  } else if (register === uarRegister.CQ_ARM + 4) {
    armCq(core, index, uar.cqArmHigh, first);
  } else if (register === uarRegister.EQ_ARM || register === uarRegister.EQ_UPDATE) {
    eqDoorbell(core, index, first, register === uarRegister.EQ_ARM);
  } else if (register >= uarRegister.SQ_DOORBELL) {
    const inBuffer = register % bfBufferBytes;
    // First 8 bytes of the control segment: the SQ number is in the second word.
    if (inBuffer === 0 && count >= doorbellBytes) ringSq(core, index, source.readUInt32BE(at + 4));
    else if (inBuffer === 4) ringSq(core, index, first);
  }
}
