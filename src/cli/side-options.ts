/** Options of the commands that have to do with one VM. */
import { InvalidArgumentError } from 'commander';
import type { SideDevice } from '../qemu/index.ts';

export const sideDevice = {
  flags: '--device <id=socket>',
  description: 'a vfio-user device and the migration socket of its server; may be repeated',
} as const;

/** "ID=SOCKET" */
export function parseSideDevice(text: string, list: readonly SideDevice[] = []): SideDevice[] {
  const [, id, socket] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (id === undefined || socket === undefined) throw new InvalidArgumentError('write ID=MIGRATION_SOCKET');
  return [...list, { id, socket }];
}
