import { expect, it } from 'vitest';
import { migrateAndProve, proveEqual } from '../../../qemu-scripts/demo-scene.ts';
import type { Testbed } from '../../../src/qemu/index.ts';
import type { DeviceReport } from '../../../src/report/types.ts';
import { aReport } from '../report/a-report.ts';

const device: DeviceReport = {
  id: 'nic0',
  model: 'mlx5',
  stateBytes: 1,
  finalBytes: 1,
  markedPages: 0,
  markingUs: 0,
  carriedPages: 0,
  replayedRegisters: 0,
  replayPath: 'none',
  configCompared: true,
  configDifferences: [],
  msixTableEqual: true,
  stateEqual: true,
};
const ram = { pages: 9, differing: 0, milliseconds: 1, first: [] };
const prove = (change: Partial<DeviceReport>): string[] =>
  proveEqual({ ram, devices: [{ ...device, ...change }] });

it('claims what was compared, and no more', () => {
  expect(prove({})[1]).toBe('nic0: state, PCI configuration and MSI-X table are equal on both sides');
  expect(prove({ msixTableEqual: null })[1]).toBe(
    'nic0: state and PCI configuration are equal on both sides',
  );
});

it.each<[string, Partial<DeviceReport>, RegExp]>([
  ['a state that differs or was not compared', { stateEqual: null }, /state was not found equal/],
  ['a configuration that was not compared', { configCompared: false }, /configuration was not compared/],
  ['one that nobody asked for', { configCompared: null }, /configuration was not compared/],
  ['one that differs', { configDifferences: ['BAR 0'] }, /configuration differs/],
  ['an MSI-X table that differs', { msixTableEqual: false }, /MSI-X table differs/],
])('throws for %s', (_name, change, message) => {
  expect(() => prove(change)).toThrow(message);
});

it('throws for RAM that differs or was not compared', () => {
  expect(() => proveEqual({ ram: null, devices: [] })).toThrow(/not compared/);
  expect(() => proveEqual({ ram: { ...ram, differing: 1 }, devices: [] })).toThrow(/1 of 9 pages/);
});

it('aims at the blackout that was asked for, with everything compared', async () => {
  let asked: Parameters<Testbed['migrate']>[0];
  const migrate: Testbed['migrate'] = async (options) => {
    asked = options;
    return { ...aReport, ram, devices: [device] };
  };
  await migrateAndProve({ migrate }, 2000);
  expect(asked).toMatchObject({ downtimeLimitMs: 2000, verify: { ram: true, state: true, config: true } });
});
