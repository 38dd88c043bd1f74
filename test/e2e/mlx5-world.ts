/** What the tests of the network card share. */
import { join } from 'node:path';
import { execa } from 'execa';
import { expect } from 'vitest';
import { configureGuest, guestWarnings, Network, type NetworkOptions } from '../../qemu-scripts/network.ts';
import type { Testbed, TestbedDevice, TestbedOptions } from '../../src/qemu/index.ts';
import type { MigrationReport } from '../../src/report/types.ts';
import { checkoutRoot } from '../../src/setup/index.ts';
import { startTestbed } from './testbeds.ts';

export { guestWarnings as warnings };

const open: { close(): Promise<void> }[] = [];

/** Remembers something to be closed by `closeAll`. */
function own<T extends { close(): Promise<void> }>(thing: T): T {
  open.push(thing);
  return thing;
}

/** Last one first. One that can't be closed keeps none of the others open. */
export async function closeAll(): Promise<void> {
  const failures: unknown[] = [];
  for (const each of open.splice(0).reverse()) {
    try {
      await each.close();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
}

export async function makeNetwork(options: NetworkOptions = {}): Promise<Network> {
  return own(await Network.create(options));
}

/** A card in slot `5 + number`, with a MAC address of its own, on `network`. */
export function card(network: Network, number = 0, more: Partial<TestbedDevice> = {}): TestbedDevice {
  const id = `nic${number}`;
  return {
    id,
    model: 'mlx5',
    ...(more.bus === undefined ? { addr: String(5 + number) } : {}),
    ...more,
    set: { mac: `52:54:00:00:01:0${number}`, ...more.set },
    args: [...network.serveArguments(id), ...(more.args ?? [])],
  };
}

/** Boots a guest; with a network, its first card is configured (`configureGuest`). */
export async function boot(options: TestbedOptions, configured = true): Promise<Testbed> {
  const bed = own(await startTestbed(options));
  await bed.agent.waitReady({ timeoutMs: 120_000 });
  if (configured) await configureGuest(bed);
  return bed;
}

/** Everything compared, and room for a machine on which other things run. */
export const proven = {
  verify: { ram: true, state: true, config: true },
  downtimeLimitMs: 5000,
} as const;

/** A migration of which nothing was lost. */
export function expectWhole(report: MigrationReport): void {
  expect(report.ram?.differing).toBe(0);
  for (const device of report.devices) {
    expect(device).toMatchObject({ stateEqual: true, configDifferences: [] });
    expect(device.msixTableEqual).not.toBe(false);
  }
}

/** All values of `ethtool -S`, by name. */
export async function counters(bed: Testbed, device = 'eth0'): Promise<Map<string, number>> {
  const text = await bed.agent.check(`ethtool -S ${device}`);
  const found = new Map<string, number>();
  for (const [, name, value] of text.matchAll(/^\s+(\S+): (\d+)$/gm)) {
    if (name !== undefined) found.set(name, Number(value));
  }
  return found;
}

/**
 * Pings the peer; every one must come back. With -w `ping` goes on until it has so many answers; by -W it would wait for the last ones
 * no longer than the others took twice, which is too short on a busy machine.
 */
export async function expectPings(bed: Testbed, address: string, count = 5, more = ''): Promise<void> {
  const text = await bed.agent.check(`ping -c ${count} -i 0.02 -w 20 ${more} ${address}`);
  const answered = new Set([...text.matchAll(/icmp_seq=(\d+) ttl/g)].map(([, number]) => Number(number)));
  const sent = Array.from({ length: count }, (_, index) => index + 1);
  expect(
    sent.filter((number) => !answered.has(number)),
    text,
  ).toEqual([]);
}

/** PCI address of card `number`, unless it sits behind a port. */
export const slot = (number = 0): string => `0000:00:0${5 + number}.0`;

/** What an operator would ask of the first card's server. */
export async function ask(bed: Testbed, ...what: string[]): Promise<unknown> {
  const socket = bed.current.servers.get('nic0')?.migrationSocket ?? '';
  const main = join(checkoutRoot(), 'dist/src/cli/main.js');
  const { stdout } = await execa(process.execPath, [main, 'ask', socket, ...what]);
  return JSON.parse(stdout);
}

/**
 * Frames that a network has beside what a test sends: address resolution, router solicitations. One may pass between two
 * counters that are read one after the other, or while traffic is counted.
 */
export const background = { frames: 8, bytes: 8 * 128 } as const;

/** `actual` is `expected`, or more or less by background traffic. */
export function expectAbout(actual: number, expected: number, tolerance: number, what = ''): void {
  expect(Math.abs(actual - expected), `${what}: ${actual}, ${expected} expected`).toBeLessThanOrEqual(
    tolerance,
  );
}
