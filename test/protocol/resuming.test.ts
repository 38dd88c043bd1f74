/** A client that drives a migration itself waits for the answer to its request, and answers no DMA before it has it. */
import { afterEach, describe, expect, it } from 'vitest';
import { hello } from '../../device-models/hello/index.ts';
import type { DeviceModel } from '../../src/device/index.ts';
import { dmaProt } from '../../src/dma/types.ts';
import { migrationState } from '../../src/migration/index.ts';
import { pciRegion } from '../../src/vfio-user/constants.ts';
import { nativeServer, serversUnderTest } from './harness.ts';
import { Bench } from './runtime-harness.ts';

const at = { address: 0x08, length: 0x10, doorbell: 0x14, status: 0x18 } as const;
const commandRegister = 4;
const busMasterAndMemory = 6;
const done = 1;

let bench: Bench;
afterEach(() => bench.close());

describe.each(serversUnderTest)('a device of $name that runs again', (under) => {
  // The library's migration is that of version 1.
  const drivers =
    under === nativeServer ? (['client', 'orchestrator'] as const) : (['orchestrator'] as const);
  it.each(drivers)('writes by message what it owed, when the %s has it run', (driver) => {
    bench = new Bench(hello as unknown as DeviceModel, {}, under);
    const { client } = bench;
    const bytes = Buffer.alloc(0x1000);
    client.writeRegister(pciRegion.config, commandRegister, busMasterAndMemory, 2);
    client.dmaMap({ iova: 0x4000, size: bytes.length, prot: dmaProt.read | dmaProt.write, bytes });
    client.writeRegister(0, at.address, 0x4000);
    client.writeRegister(0, at.length, bytes.length);
    bench[driver].setState(migrationState.STOP);
    client.writeRegister(0, at.doorbell, 1);
    bench.settle();
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    bench[driver].setState(migrationState.RUNNING);
    bench.settle();
    expect(bytes.toString('latin1', 0, 13)).toBe('Hello, guest!');
    expect(client.readRegister(0, at.status)).toBe(done);
  });
});
