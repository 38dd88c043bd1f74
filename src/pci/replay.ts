/**
 * The writes that give a fresh function, behind a client which knows nothing of a migration, the state of
 * this one. The order is the one in which nothing has a side effect too early: addresses before decoding,
 * decoding before messages, and a power state, in which nothing else can be written, at the very end.
 */

import { type ConfigLayout, type PlacedRegister, type ReplayRole, readRegister } from './layout.ts';

export interface ReplayEntry {
  /** As in saved state: `bar0`, `command`, `pcie.devctl` … */
  readonly name: string;
  readonly offset: number;
  readonly size: 1 | 2 | 4;
  /** What to write: act-on-write bits (FLR) and write-one-to-clear bits are 0. */
  readonly value: number;
  /** Value after power-on; where it equals `value`, a fresh function need not be written. */
  readonly initial: number;
  readonly role: ReplayRole;
}

const order: readonly ReplayRole[] = [
  'bar',
  'plain',
  'msi',
  'command',
  'msi-control',
  'msix-control',
  'power',
];

/** The plan for the contents in `bytes`. */
export function replayPlan(layout: ConfigLayout, bytes: Buffer): ReplayEntry[] {
  const entries: ReplayEntry[] = [];
  for (const register of layout.registers.values()) {
    if (register.replay === undefined) continue;
    entries.push({
      name: register.name,
      offset: register.offset,
      size: register.size,
      value: harmless(register, readRegister(bytes, register.offset, register.size)),
      initial: harmless(register, register.value),
      role: register.replay,
    });
  }
  return entries.sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role) || a.offset - b.offset);
}

function harmless(register: PlacedRegister, value: number): number {
  return (value & ~(register.act | register.clearOnOne)) >>> 0;
}
