import { describe, expect, it } from 'vitest';
import older from '../../../qemu-scripts/counter/v1.ts';
import newer from '../../../qemu-scripts/counter/v2.ts';
import {
  createTestDevice,
  readRegister,
  type TestHost,
  transplant,
  writeRegister,
} from '../../../src/device/testing.ts';

const at = { count: 0x04, address: 0x08, pages: 0x10, interval: 0x14, rounds: 0x18 } as const;
const ring = 0x10_000;
const interval = 10;

/** A counter of `model` that has counted to `count` round a ring of 4 pages. */
function counted(model: typeof older, count: number) {
  const made = createTestDevice(model);
  writeRegister(made.device.bars[0], at.address, ring, 8);
  writeRegister(made.device.bars[0], at.pages, 4);
  writeRegister(made.device.bars[0], at.interval, interval);
  countOn(made.host, count);
  return made;
}

function countOn(host: TestHost, count: number): void {
  host.advance(count * interval * 1000);
}

describe('the two versions of the counter', () => {
  it.each([older, newer])('count into guest memory, and interrupt at the end of a round', (model) => {
    const { device, host } = counted(model, 11);
    expect(readRegister(device.bars[0], at.count)).toBe(11);
    expect([8, 9, 10, 11].map((_, page) => host.dma.readUint32LE(ring + page * 4096))).toEqual([
      8, 9, 10, 11,
    ]);
    expect(host.triggered).toEqual([0, 0]);
    expect(readRegister(device.bars[0], at.rounds)).toBe(model === newer ? 2 : 0);
  });

  it('the newer one loads what the older one saved, and derives what that did not know', () => {
    const { device: from } = counted(older, 11);
    const { device: to, host } = createTestDevice(newer);
    transplant(from, to, 1);
    expect(readRegister(to.bars[0], at.count)).toBe(11);
    expect(readRegister(to.bars[0], at.rounds)).toBe(2);
    to.resume?.();
    countOn(host, 1);
    expect(readRegister(to.bars[0], at.rounds)).toBe(3);
    expect(host.dma.readUint32LE(ring)).toBe(12);
  });

  it('the newer one takes its own state as it is', () => {
    const { device: from } = counted(newer, 11);
    writeRegister(from.bars[0], at.pages, 1000);
    const { device: to } = createTestDevice(newer);
    transplant(from, to, 2);
    expect(readRegister(to.bars[0], at.rounds)).toBe(2);
  });

  it('the older one does not take the newer one’s state, even if it is handed it', () => {
    const { device: from } = counted(newer, 11);
    expect(() => transplant(from, createTestDevice(older).device, 2)).toThrow('there is no register ROUNDS');
  });
});
