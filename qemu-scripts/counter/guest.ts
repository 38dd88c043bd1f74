/** The `counter` device (`v1.ts`, `v2.ts`) as a guest drives it. */
import { join } from 'node:path';
import type { Testbed } from '../../src/qemu/index.ts';
import { checkoutRoot } from '../../src/setup/index.ts';

const pcitool = 'pcitool 1b36:11e3';
/** Above what Linux may use (`mem=` on its command line). */
const ringAddress = 0xc40_0000;
const pageSize = 4096;
/** Registers of BAR 0. */
const register = { count: 0x04, address: 0x08, pages: 0x10, interval: 0x14, rounds: 0x18 } as const;
/** Entry 0 of the MSI-X table, in BAR 0 (PCI Local Bus 3.0, 6.8.2). */
const tableEntry = { address: 0x1000, data: 0x1008, control: 0x100c } as const;
/** In configuration space (PCI Local Bus 3.0, 6.7 and 6.8.2). */
const config = { capabilities: 0x34, msixId: 0x11, msixEnable: 0x8000 } as const;
const message = 0xc0de_0001;

/** The module of a version, for `serve`. */
export function counterModule(version: 1 | 2): string {
  return join(checkoutRoot(), `dist/qemu-scripts/counter/v${version}.js`);
}

function write(offset: number, size: number, value: number): string {
  return `${pcitool} write 0 ${offset} ${size} ${value}`;
}

async function read(bed: Testbed, offset: number): Promise<number> {
  return Number(await bed.agent.check(`${pcitool} read 0 ${offset} 4`));
}

/** Sets the ring's size, which changes nothing else. */
export async function setPages(bed: Testbed, pages: number): Promise<void> {
  await bed.agent.check(write(register.pages, 4, pages));
}

/** Sets the time from count to count; 0 stops the counting. */
export async function setPeriod(bed: Testbed, intervalUs: number): Promise<void> {
  await bed.agent.check(write(register.interval, 4, intervalUs));
}

/**
 * Lets the device count round a ring of `pages`, each count after `intervalUs`. Its interrupt, at the end of a
 * round, is a memory write into the page in the middle of the ring: see `wordInTheMiddle`.
 */
export async function startCounter(bed: Testbed, pages: number, intervalUs: number): Promise<void> {
  await bed.agent.check(
    [
      `${pcitool} enable`,
      write(tableEntry.address, 8, ringAddress + (pages / 2) * pageSize),
      write(tableEntry.data, 4, message),
      write(tableEntry.control, 4, 0),
      `at=$((${`$(${pcitool} config-read ${config.capabilities} 1)`}))`,
      `until [ $(($(${pcitool} config-read $at 1))) = ${config.msixId} ]; do at=$(($(${pcitool} config-read $((at + 1)) 1))); done`,
      `${pcitool} config-write $((at + 2)) 2 ${config.msixEnable}`,
      write(register.address, 8, ringAddress),
      write(register.pages, 4, pages),
      write(register.interval, 4, intervalUs),
    ].join(' && '),
  );
}

export interface CounterReading {
  readonly count: number;
  /** 0 at version 1, which does not know. */
  readonly rounds: number;
  /** Read after `rounds`. */
  readonly countAfter: number;
}

export async function readCounter(bed: Testbed): Promise<CounterReading> {
  const count = await read(bed, register.count);
  const rounds = await read(bed, register.rounds);
  return { count, rounds, countAfter: await read(bed, register.count) };
}

/**
 * What stands in the page that the device both counts into and interrupts to: "interrupt" from the end of a round
 * to its middle, "count" from then on. Under KVM an interrupt is no memory write.
 */
export async function wordInTheMiddle(bed: Testbed, pages: number): Promise<'count' | 'interrupt'> {
  const text = await bed.current.vm.qmp.hmp(`xp /1wx ${ringAddress + (pages / 2) * pageSize}`);
  return Number(/: (0x[0-9a-f]+)/.exec(text)?.[1]) === message ? 'interrupt' : 'count';
}
