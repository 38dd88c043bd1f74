/** `nic_interface` of the initialization segment: by it a driver learns that its function was reset under it. */
import { describe, expect, it } from 'vitest';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import type { FakeDriver } from './driver.ts';
import type { DriverBase } from './driver-base.ts';
import { commandQueue } from './driver-base.ts';
import { FakeHost } from './fake-host.ts';
import { buildFrame } from './frames.ts';
import { bench, running } from './setup.ts';

const full = 0;
const disabled = 1;
const swReset = 7;
const queueLow = 0x14;
const nicInterface = (driver: DriverBase): number => (driver.read32(queueLow) >>> 8) & 7;
const request = (driver: DriverBase, wanted: number): void =>
  driver.write32(queueLow, commandQueue | (wanted << 8));

/** As a driver does that has noticed a reset: it polls for its commands until it has EQs again. */
function startAnew(driver: FakeDriver): void {
  driver.eventMode = false;
  driver.probe(3);
  driver.up(1);
}

describe('the NIC interface', () => {
  it('is disabled until a driver says where its command queue is, and again after a reset', () => {
    const { device, driver } = bench();
    expect(nicInterface(driver)).toBe(disabled);
    driver.probe(3);
    driver.up(1);
    expect(nicInterface(driver)).toBe(full);
    device.reset('flr');
    expect(nicInterface(driver)).toBe(disabled);
    startAnew(driver);
    expect(nicInterface(driver)).toBe(full);
  });

  it.each([disabled, swReset])(
    'asked for as %i lets go of all memory that the driver takes back',
    (wanted) => {
      const { device, driver, port } = running();
      request(driver, wanted);
      expect(nicInterface(driver)).toBe(disabled);
      const { core } = device;
      expect([core.eqs.table.size, core.cqs.table.size, core.sqs.table.size, core.rqs.table.size]).toEqual([
        0, 0, 0, 0,
      ]);
      const before = Buffer.from(driver.memory);
      port.inject(buildFrame({ dst: driver.mac }));
      driver.write32(0x18, 1);
      expect(driver.memory.equals(before)).toBe(true);
      startAnew(driver);
      port.inject(buildFrame({ dst: driver.mac }));
      driver.poll();
      expect(driver.received).toHaveLength(1);
    },
  );

  it('remembers no command that was rung while it was disabled', () => {
    const { device, driver } = running();
    device.reset('flr');
    driver.write32(0x18, 1);
    driver.write32(queueLow, commandQueue);
    expect(device.core.function.phase).toBe(0);
    expect(device.commandInterface.state.pending).toBe(0);
  });

  it.each([
    ['of a running driver', full],
    ['that a reset has disabled', disabled],
  ])('%s travels', (_what, expected) => {
    const { device, driver, host } = running();
    if (expected === disabled) device.reset('flr');
    host.mayInitiate = false;
    device.quiesce();
    const records = [...device.migration.save()];
    const target = bench(device.core.vectors, new FakeHost(host.dma));
    target.device.migration.beginLoad(stateVersions.current);
    for (const record of records) target.device.migration.load(record);
    target.device.migration.endLoad();
    expect(nicInterface(target.driver)).toBe(expected);
    expect(target.driver.read32(queueLow)).toBe(driver.read32(queueLow));
  });
});
