import { describe, expect, it } from 'vitest';
import { ram } from '../../../device-models/ram/index.ts';
import { command, registers, status } from '../../../device-models/ram/registers.ts';
import type { Device, StateRecord } from '../../../src/device/index.ts';
import { createTestDevice, readRegister, transplant, writeRegister } from '../../../src/device/testing.ts';

const at = (name: keyof typeof registers): number => registers[name].offset;

function transfer(device: Device, direction: number, guest: number, board: number, length: number): void {
  writeRegister(device.bars[0], at('GUEST_ADDRESS'), guest, 8);
  writeRegister(device.bars[0], at('DEVICE_ADDRESS'), board, 8);
  writeRegister(device.bars[0], at('LENGTH'), length, 8);
  writeRegister(device.bars[0], at('COMMAND'), direction);
}

describe('ram', () => {
  it('moves memory both ways and interrupts on the chosen vector', () => {
    const { device, host } = createTestDevice(ram);
    host.dma.bytes.write('from the guest', 0x100);
    writeRegister(device.bars[0], at('VECTOR'), 3);
    transfer(device, command.fromGuest, 0x100, 0x20_0000, 14);
    expect(readRegister(device.bars[0], at('STATUS'))).toBe(status.busy);
    host.settle();
    expect(readRegister(device.bars[0], at('STATUS'))).toBe(status.done);
    transfer(device, command.toGuest, 0x900, 0x20_0000, 14);
    host.settle();
    expect(host.dma.bytes.toString('latin1', 0x900, 0x90e)).toBe('from the guest');
    expect(host.triggered).toEqual([3, 3]);
    expect(readRegister(device.bars[0], at('COMPLETED'))).toBe(2);
  });

  it('holds INTx up until its cause is cleared', () => {
    const { device, host } = createTestDevice(ram, { interrupt: 'intx' });
    host.mode = 'intx';
    transfer(device, command.fromGuest, 0, 0, 64);
    host.settle();
    expect(host.intx).toBe(true);
    writeRegister(device.bars[0], at('INTERRUPT'), 1);
    expect(host.intx).toBe(false);
  });

  it.each([
    ['past the end of its memory', command.fromGuest, 0, 16 * 2 ** 20 - 8, 16, status.badRange],
    ['of nothing', command.toGuest, 0, 0, 0, status.badRange],
    ['at an address that no guest has', command.toGuest, 2 ** 52, 0, 2 ** 40, status.badRange],
    ['outside guest memory', command.toGuest, 2 ** 40, 0, 64, status.dmaFault],
    ['of an unknown kind', 9, 0, 0, 64, status.badCommand],
  ])('refuses a transfer %s', (_what, direction, guest, board, length, expected) => {
    const { device, host } = createTestDevice(ram);
    transfer(device, direction, guest, board, length);
    host.settle();
    expect(readRegister(device.bars[0], at('STATUS'))).toBe(expected);
    expect(host.dma.writes).toEqual([]);
    expect(readRegister(device.bars[0], at('COMPLETED'))).toBe(0);
  });

  it('does no DMA without bus master, and none while it may not', () => {
    const { device, host } = createTestDevice(ram);
    host.mayInitiate = false;
    transfer(device, command.toGuest, 0, 0, 64);
    host.settle();
    expect(host.dma.writes).toEqual([]);
    host.mayInitiate = true;
    host.pci.busMaster = false;
    device.resume?.();
    host.settle();
    expect(host.dma.writes).toEqual([]);
    expect(readRegister(device.bars[0], at('STATUS'))).toBe(status.dmaFault);
    // A message is a write like any other; a pin is none.
    expect(host.triggered).toEqual([]);
    expect(readRegister(device.bars[0], at('INTERRUPT'))).toBe(1);
  });

  it('tells by its pin of what it could not do without bus master', () => {
    const { device, host } = createTestDevice(ram, { interrupt: 'intx' });
    host.mode = 'intx';
    host.pci.busMaster = false;
    transfer(device, command.toGuest, 0, 0, 64);
    host.settle();
    expect(host.intx).toBe(true);
  });

  it('churns a ring of guest pages at its interval, and stops when quiesced', () => {
    const { device, host } = createTestDevice(ram);
    writeRegister(device.bars[0], at('CHURN_ADDRESS'), 0x10000, 8);
    writeRegister(device.bars[0], at('CHURN_PAGES'), 4);
    writeRegister(device.bars[0], at('CHURN_INTERVAL'), 100);
    host.advance(1_000_000);
    expect(readRegister(device.bars[0], at('CHURN_COUNT'))).toBe(10);
    expect(host.dma.bytes.readUInt32LE(0x10000 + (10 % 4) * 4096)).toBe(10);
    device.quiesce?.();
    host.advance(1_000_000);
    expect(readRegister(device.bars[0], at('CHURN_COUNT'))).toBe(10);
  });

  it('migrates in the middle of a transfer, which ends at the destination', () => {
    const source = createTestDevice(ram);
    const target = createTestDevice(ram);
    const size = 3 * 2 ** 20;
    writeRegister(source.device.bars[2], 5, 0xab, 1);
    writeRegister(source.device.bars[2], size - 1, 0xcd, 1);
    source.host.mayInitiate = false;
    transfer(source.device, command.toGuest, 0x1000, 5, 0x8000);
    source.host.settle();
    source.device.quiesce?.();
    transplant(source.device, target.device, ram.stateVersion);
    target.device.resume?.();
    target.host.settle();
    expect(target.host.dma.bytes[0x1000]).toBe(0xab);
    expect(readRegister(target.device.bars[2], size - 1, 1)).toBe(0xcd);
    expect(readRegister(target.device.bars[0], at('STATUS'))).toBe(status.done);
  });

  it('sends every page once, then those that changed, and ends equal', () => {
    const { device } = createTestDevice(ram);
    const board = device.bars[2];
    for (let page = 0; page < 40; page += 3) writeRegister(board, page * 4096, page + 1);
    const session = device.migration?.preCopy?.();
    if (!session || !device.migration) throw new Error('ram has no precopy');
    expect(session.initialBytes()).toBe(14 * 4096);
    expect(session.dirtyBytes()).toBe(0);
    const target = createTestDevice(ram).device;
    target.migration?.beginLoad(1);
    const take = (record: StateRecord): void => target.migration?.load(record);
    for (let record = session.next(); record; record = session.next()) take(record);
    expect(session.initialBytes()).toBe(0);
    writeRegister(board, 3 * 4096, 99);
    writeRegister(board, 100 * 4096, 77);
    expect(session.dirtyBytes()).toBe(2 * 4096);
    for (const record of session.final()) take(record);
    session.end();
    target.migration?.endLoad();
    for (const page of [0, 3, 6, 39, 100]) {
      expect(readRegister(target.bars[2], page * 4096)).toBe(readRegister(board, page * 4096));
    }
  });

  it.each([
    ['memory outside the device', { section: 'memory', offset: 16 * 2 ** 20 - 1, bytes: new Uint8Array(2) }],
    ['a negative offset', { section: 'memory', offset: -1, bytes: new Uint8Array(2) }],
    ['an unknown section', { section: 'nonsense', value: 1 }],
    ['registers of the wrong type', { section: 'registers', value: { bank: 'x', transfer: null } }],
    [
      'a transfer out of range',
      {
        section: 'registers',
        value: {
          bank: { MEMORY_SIZE: 16 * 2 ** 20 },
          transfer: { direction: 1, guestAddress: 0, deviceAddress: 2 ** 30, left: 5 },
        },
      },
    ],
  ] satisfies [string, StateRecord][])('refuses a state with %s', (_what, record) => {
    const { device } = createTestDevice(ram);
    device.migration?.beginLoad(1);
    expect(() => device.migration?.load(record)).toThrow();
  });
});
