import type { Mlx5Core } from '../core.ts';
import { badParam } from '../refusal.ts';

/** A register of ACCESS_REG: bytes of its data, and what reading and writing it do. `data` holds the request, then the reply. */
export interface Register {
  readonly size: number;
  read(core: Mlx5Core, data: Buffer): void;
  write(core: Mlx5Core, data: Buffer): void;
}

/** What writing a register does that can only be read. */
export function readOnly(): void {
  throw badParam('badRegisterValue', 'the register is read-only');
}
