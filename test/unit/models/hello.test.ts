import { expect, it } from 'vitest';
import { hello } from '../../../device-models/hello/index.ts';
import { createTestDevice, readRegister, transplant, writeRegister } from '../../../src/device/testing.ts';

it('greets where it is told, no further than it may, and interrupts', () => {
  const { device, host } = createTestDevice(hello, { greeting: 'Hi there' });
  writeRegister(device.bars[0], 0x08, 0x4000, 8);
  writeRegister(device.bars[0], 0x10, 2);
  writeRegister(device.bars[0], 0x14, 1);
  expect(host.dma.bytes.toString('latin1', 0x4000, 0x4004)).toBe('Hi\0\0');
  expect(readRegister(device.bars[0], 0x18)).toBe(1);
  expect(host.triggered).toEqual([0]);
});

it('reports an address outside guest memory instead of failing', () => {
  const { device, host } = createTestDevice(hello);
  writeRegister(device.bars[0], 0x08, 2 ** 40, 8);
  writeRegister(device.bars[0], 0x10, 100);
  writeRegister(device.bars[0], 0x14, 1);
  expect(readRegister(device.bars[0], 0x18)).toBe(2);
  expect(host.dma.writes).toEqual([]);
});

it('fails, and neither writes nor interrupts, when it may not be bus master', () => {
  const { device, host } = createTestDevice(hello);
  host.pci.busMaster = false;
  writeRegister(device.bars[0], 0x08, 0x4000, 8);
  writeRegister(device.bars[0], 0x10, 100);
  writeRegister(device.bars[0], 0x14, 1);
  expect(readRegister(device.bars[0], 0x18)).toBe(2);
  expect([host.dma.writes, host.triggered]).toEqual([[], []]);
});

it('travels with its registers', () => {
  const source = createTestDevice(hello).device;
  const target = createTestDevice(hello).device;
  writeRegister(source.bars[0], 0x08, 0x1234, 8);
  transplant(source, target, hello.stateVersion);
  expect(readRegister(target.bars[0], 0x08)).toBe(0x1234);
});

it('writes nothing while it may start nothing, and greets where it goes on', () => {
  const source = createTestDevice(hello, { greeting: 'Hi there' });
  const target = createTestDevice(hello, { greeting: 'Hi there' });
  source.host.mayInitiate = false;
  writeRegister(source.device.bars[0], 0x08, 0x4000, 8);
  writeRegister(source.device.bars[0], 0x10, 100);
  writeRegister(source.device.bars[0], 0x14, 1);
  expect([source.host.dma.writes, source.host.triggered]).toEqual([[], []]);
  transplant(source.device, target.device, hello.stateVersion);
  for (const { device, host } of [source, target]) {
    host.mayInitiate = true;
    device.resume?.();
    host.settle();
    expect(host.dma.bytes.toString('latin1', 0x4000, 0x4008)).toBe('Hi there');
    expect(readRegister(device.bars[0], 0x18)).toBe(1);
    device.resume?.();
    host.settle();
    expect(host.triggered).toEqual([0]);
  }
});
