import { afterEach, expect, it } from 'vitest';
import { type DeviceModel, defineModel, RegisterBlock } from '../../src/device/index.ts';
import { migrationState } from '../../src/migration/index.ts';
import * as operations from '../../src/vfio-user/client/operations.ts';
import { pciRegion } from '../../src/vfio-user/constants.ts';
import { noState } from '../unit/device/no-state.ts';
import { Bench, somePciFunction } from './runtime-harness.ts';

const busMasterAndMemory = 6;
const guest = 0x8000;
/** What the model did, in order. */
const log: string[] = [];

const registers = {
  START: { offset: 0, width: 4, access: 'trigger' },
  DOORBELL: { offset: 4, width: 4, access: 'trigger' },
} as const;

/** Does DMA some time after START. */
const late = defineModel({
  name: 'late',
  description: 'waits for a client where no request does',
  stateVersion: 1,
  options: {},
  pci: () => ({
    ...somePciFunction,
    bars: { 0: { size: 0x1000, kind: 'memory32' } },
  }),
  create: (host) => ({
    bars: {
      0: new RegisterBlock(registers, {
        START: {
          write: () =>
            host.defer(() => {
              host.dma.read(guest, Buffer.alloc(4));
              log.push('read');
            }),
        },
        DOORBELL: { write: () => void log.push('rung') },
      }),
    },
    reset: () => {},
    quiesce: () => void log.push('stopped'),
    migration: { ...noState, p2p: false },
  }),
});

let bench: Bench;
afterEach(() => bench.close());

it('carries out what came during a wait for DMA before the orchestrator can stop the device', () => {
  bench = new Bench(late as unknown as DeviceModel);
  const { client, orchestrator } = bench;
  client.dmaMap({ iova: guest, size: 4096, prot: 3, bytes: Buffer.alloc(4096) });
  client.writeRegister(pciRegion.config, 4, busMasterAndMemory, 2);
  client.onDma = ({ count }) => {
    if (count === 4) client.post(operations.regionWrite(0, registers.DOORBELL.offset, Buffer.alloc(4)));
  };
  log.length = 0;
  // Both are there when the loop looks.
  client.post(operations.regionWrite(0, registers.START.offset, Buffer.alloc(4)));
  orchestrator.submit(operations.setMigrationState(migrationState.STOP)).wait();
  bench.settle();
  expect(log).toEqual(['read', 'rung', 'stopped']);
});
