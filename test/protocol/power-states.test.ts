import { afterEach, expect, it } from 'vitest';
import { type DeviceModel, defineModel, RegisterBlock } from '../../src/device/index.ts';
import { pciRegion } from '../../src/vfio-user/constants.ts';
import { Bench, somePciFunction } from './runtime-harness.ts';

/** PCI: where things are in configuration space, and what is written there. */
const commandRegister = 0x04;
const busMaster = 4;
const powerControl = 4;
const [d0, d3hot] = [0, 3];

/** Whether it was a bus master, each time that it was told of a change. */
const told: boolean[] = [];
const sleeper = defineModel({
  name: 'sleeper',
  description: 'waits for bus mastering',
  stateVersion: 1,
  options: {},
  pci: () => ({
    ...somePciFunction,
    bars: { 0: { size: 4096, kind: 'memory32' } },
    capabilities: { powerManagement: true },
  }),
  create: (host) => ({
    bars: { 0: new RegisterBlock({}) },
    reset: () => {},
    commandChanged: () => void told.push(host.pci.busMaster),
  }),
});

let bench: Bench;
afterEach(() => bench.close());

it('tells a model when its function sleeps and wakes, for in between it is no bus master', () => {
  told.length = 0;
  bench = new Bench(sleeper as unknown as DeviceModel);
  const control = (bench.runtime.config.capabilities.get('pm') ?? 0) + powerControl;
  const write = (offset: number, value: number) =>
    bench.client.writeRegister(pciRegion.config, offset, value, 2);
  write(commandRegister, busMaster);
  write(control, d3hot);
  write(control, d0);
  expect(told).toEqual([true, false, true]);
});
