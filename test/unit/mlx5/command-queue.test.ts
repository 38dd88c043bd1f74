import { describe, expect, it } from 'vitest';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { commandQueue } from './driver-base.ts';
import { bench, running } from './setup.ts';

describe('the command queue', () => {
  it('is let alone where a slot belongs to the driver', () => {
    const { device, driver } = running();
    driver.command('ALLOC_PD');
    const pds = device.core.pds.size;
    const entry = driver.memory.subarray(commandQueue, commandQueue + prm.commandEntry.size);
    expect(entry.readUInt8(prm.commandEntry.byte('status_own'))).toBe(0);
    const before = Buffer.from(entry);
    driver.write32(0x18, 1);
    expect(device.core.pds.size).toBe(pds);
    expect(entry.equals(before)).toBe(true);
  });

  it('does not tell by event of the command that makes the EQ for that: the driver polls for it', () => {
    const { device, driver } = bench();
    driver.write32(0x10, 0);
    driver.write32(0x14, commandQueue);
    driver.command('ENABLE_HCA', Buffer.alloc(16), 12);
    driver.command('INIT_HCA', Buffer.alloc(32));
    driver.uar = prm.allocUarOut.get(driver.command('ALLOC_UAR'), 'uar');
    const { eqn } = driver.createEq(8, 2 ** prm.eventType.CMD, 0);
    const eq = device.core.eqs.table.get(eqn);
    expect(eq.pi).toBe(0);
    driver.command('NOP');
    expect(eq.pi).toBe(1);
  });
});
