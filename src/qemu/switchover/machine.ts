/** What two VMs must have in common for a guest to move from one to the other. */

import { listAt, numberAt } from '../answers.ts';
import { refusal } from '../errors.ts';
import type { QmpSession } from '../qmp.ts';

/** A VM as its command line has made it. */
export interface Machine {
  /** With its version: "pc-q35-11.1". */
  readonly type: string;
  readonly processors: number;
  /** RAM that it was started with, bytes; and what was plugged in since. */
  readonly baseMemory: number;
  readonly pluggedMemory: number;
}

/** How the two VMs that are compared are called. */
export interface MachineNames {
  readonly from: string;
  readonly to: string;
}

export async function describeMachine(qmp: QmpSession): Promise<Machine> {
  const [type, processors, memory] = await Promise.all([
    qmp.execute('qom-get', { path: '/machine', property: 'type' }),
    qmp.execute('query-cpus-fast'),
    qmp.execute('query-memory-size-summary'),
  ]);
  return {
    type: String(type).replace(/-machine$/, ''),
    processors: listAt(processors).length,
    baseMemory: numberAt(memory, 'base-memory'),
    pluggedMemory: numberAt(memory, 'plugged-memory'),
  };
}

/** QEMU tells of these on the destination's standard error, when that has been touched, or not at all. */
export function compareMachines(
  from: Machine,
  to: Machine,
  names: MachineNames = { from: 'the source', to: 'the destination' },
): void {
  if (from.type !== to.type)
    throw refusal(
      'VC_MACHINES_DIFFER',
      `${names.from} is a ${from.type} and ${names.to} a ${to.type}`,
      `start ${names.to} with -machine ${from.type}`,
    );
  if (from.processors !== to.processors)
    throw refusal(
      'VC_MACHINES_DIFFER',
      `the VMs have ${from.processors} and ${to.processors} processors`,
      'give both the same -smp',
    );
  if (from.baseMemory !== to.baseMemory)
    throw refusal(
      'VC_MACHINES_DIFFER',
      `the VMs have ${from.baseMemory} and ${to.baseMemory} bytes of memory`,
      'give both the same -m',
    );
}

/** The ECAM window of a q35 as it stands in the memory tree now; firmware places it. */
export async function findEcam(qmp: QmpSession): Promise<number | undefined> {
  const tree = await qmp.hmp('info mtree');
  const digits = /^\s*([0-9a-f]{16})-[0-9a-f]{16} \(prio [^)]*\): pcie-mmcfg-mmio\b/m.exec(tree)?.[1];
  return digits === undefined ? undefined : Number.parseInt(digits, 16);
}
