import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DeviceModel, defineModel, RegisterBlock } from '../../src/device/index.ts';
import { errno } from '../../src/errors.ts';
import { closeFd, eventfdCreate, eventfdDrain } from '../../src/posix/index.ts';
import * as operations from '../../src/vfio-user/client/operations.ts';
import { pciIrq, pciRegion } from '../../src/vfio-user/constants.ts';
import { serversUnderTest } from './harness.ts';
import { Bench, somePciFunction } from './runtime-harness.ts';

/** PCI: where things are in configuration space, and what is written there. */
const commandRegister = 4;
const busMasterAndMemory = 6;
const deviceControl = 8;
const initiateFlr = 0x8000;

const guest = 0x8000;
const piece = 64;
/** More than one message. */
const much = 1 << 20;
/** Messages of a read that are sent before one has been answered. */
const inFlight = 4;

/** What the model did, in order. */
const log: string[] = [];
/** Whether it might have begun anything when it was through with that. */
let mayGoOn: boolean | undefined;
const attempt = (what: string, act: () => void): void => {
  try {
    act();
    log.push(what);
  } catch (error) {
    log.push(`${what}: ${(error as { errno?: number }).errno}`);
  }
};

const registers = {
  NOW: { offset: 0, width: 4, access: 'trigger' },
  SOON: { offset: 4, width: 4, access: 'trigger' },
  SCRATCH: { offset: 8, width: 4, access: 'rw' },
  LONG: { offset: 12, width: 4, access: 'trigger' },
} as const;

/** Writes twice by DMA, then interrupts. */
const writer = defineModel({
  name: 'writer',
  description: 'is reset in the middle of its work',
  stateVersion: 1,
  options: {},
  pci: () => ({
    ...somePciFunction,
    bars: { 0: { size: 0x2000, kind: 'memory32' } },
    capabilities: {
      pcie: { functionLevelReset: true },
      msix: { vectors: 2, table: { bar: 0, offset: 0x1000 }, pba: { bar: 0, offset: 0x1800 } },
    },
  }),
  create(host) {
    const work = (): void => {
      attempt('first', () => host.dma.write(guest, Buffer.alloc(piece, 1)));
      attempt('second', () => host.dma.write(guest + piece, Buffer.alloc(piece, 2)));
      mayGoOn = host.mayInitiate;
      // One that is connected, one that is not.
      for (const vector of [0, 1]) host.interrupts.trigger(vector);
    };
    const bank = new RegisterBlock(registers, {
      NOW: { write: work },
      SOON: { write: () => host.defer(work) },
      LONG: { write: () => attempt('long', () => host.dma.read(guest, Buffer.alloc(much))) },
    });
    return {
      bars: { 0: bank },
      reset: (kind) => {
        log.push(`reset ${kind}`);
        bank.reset();
      },
    };
  },
});

describe.each(serversUnderTest)(
  '$name server: a function level reset in the middle of DMA by message',
  (under) => {
    let bench: Bench;
    let memory: Buffer;
    let vector: number;
    let flr: { wait(): unknown } | undefined;
    /** A register of the model, read behind the reset. */
    let early: { wait(): Buffer } | undefined;
    beforeEach(() => {
      log.length = 0;
      flr = undefined;
      bench = new Bench(writer as unknown as DeviceModel, {}, under);
      memory = Buffer.alloc(much);
      bench.client.dmaMap({ iova: guest, size: memory.length, prot: 3, bytes: memory });
      bench.client.writeRegister(pciRegion.config, commandRegister, busMasterAndMemory, 2);
      vector = eventfdCreate();
      bench.client.setIrqs({ index: pciIrq.msix, start: 0, count: 1, action: 'trigger', eventfds: [vector] });
      log.length = 0;
    });
    afterEach(() => {
      bench.close();
      closeFd(vector);
    });

    const write = (region: number, offset: number, value: number, width: 2 | 4 = 4) => {
      const bytes = Buffer.alloc(width);
      bytes.writeUIntLE(value, 0, width);
      return bench.client.submit(operations.regionWrite(region, offset, bytes));
    };
    /** The guest resets the function, and sets it up again, before the client answers the first message. */
    const resetInTheMiddle = () => {
      bench.client.onDma = ({ count }) => {
        if (count > much) return;
        bench.client.onDma = undefined;
        write(0, registers.SCRATCH.offset, 1);
        flr = write(
          pciRegion.config,
          (bench.runtime.config.pcieCapability ?? 0) + deviceControl,
          initiateFlr,
          2,
        );
        early = bench.client.submit(operations.regionRead(0, registers.SCRATCH.offset, 4));
        write(pciRegion.config, commandRegister, busMasterAndMemory, 2);
        write(0, registers.SCRATCH.offset, 2);
      };
    };
    const expectFresh = () => {
      flr?.wait();
      expect(memory[piece]).toBe(0);
      expect(bench.runtime.interrupts.pendingVectors).toEqual([]);
      expect(eventfdDrain(vector)).toBe(false);
      // What the guest did after the reset stays, what it did before does not.
      expect(bench.client.readRegister(pciRegion.config, commandRegister, 2)).toBe(busMasterAndMemory);
      expect(bench.client.readRegister(0, registers.SCRATCH.offset)).toBe(2);
      log.length = 0;
      bench.client.writeRegister(0, registers.NOW.offset, 1);
      bench.settle();
      expect(log).toEqual(['first', 'second']);
      expect(mayGoOn).toBe(true);
      expect(memory[piece]).toBe(2);
      expect(eventfdDrain(vector)).toBe(true);
    };

    it.each(['NOW', 'SOON'] as const)('stops it, and resets the model once it has unwound: %s', (how) => {
      resetInTheMiddle();
      write(0, registers[how].offset, 1).wait();
      bench.settle();
      expect(log.slice(1)).toEqual([`second: ${errno.ECANCELED}`, 'reset flr']);
      expect(mayGoOn).toBe(false);
      // What came behind the reset finds the model reset.
      expect(early?.wait().readUInt32LE(0)).toBe(0);
      expectFresh();
    });

    it('leaves a device at rest that was held meanwhile', () => {
      resetInTheMiddle();
      const { onDma } = bench.client;
      bench.client.onDma = (access) => {
        bench.runtime.hold(true);
        onDma?.(access);
      };
      write(0, registers.NOW.offset, 1).wait();
      bench.settle();
      expect(log.at(-1)).toBe('reset flr');
      bench.runtime.interrupts.trigger(0);
      expect(eventfdDrain(vector)).toBe(false);
      // Control: it is the hold that keeps it.
      bench.runtime.hold(false);
      expect(eventfdDrain(vector)).toBe(true);
    });

    it('stops a long transfer between two of its messages', () => {
      resetInTheMiddle();
      let after = 0;
      const { onDma } = bench.client;
      bench.client.onDma = (access) => {
        onDma?.(access);
        if (flr === undefined) return;
        bench.client.onDma = () => {
          after += 1;
        };
      };
      write(0, registers.LONG.offset, 1).wait();
      bench.settle();
      expect(log).toEqual([`long: ${errno.ECANCELED}`, 'reset flr']);
      // What had been sent with the first message, and no more.
      expect(after).toBe(inFlight - 1);
      expectFresh();
    });

    it('is done as well if the client leaves before the model has unwound', () => {
      bench.client.onDma = ({ count }) => {
        if (count > much) return;
        bench.client.post(
          operations.regionWrite(
            pciRegion.config,
            (bench.runtime.config.pcieCapability ?? 0) + deviceControl,
            Buffer.from([0, initiateFlr >> 8]),
          ),
        );
        bench.client.close();
      };
      bench.client.post(operations.regionWrite(0, registers.NOW.offset, Buffer.alloc(4)));
      bench.settle();
      expect(log.at(-1)).toBe('reset flr');
      expect(log.filter((what) => what === 'reset flr')).toHaveLength(1);
      expect(bench.runtime.interrupts.pendingVectors).toEqual([]);
    });

    it('lets a barrier of the orchestrator end', () => {
      resetInTheMiddle();
      expect(bench.orchestrator.companion('barrier')).toEqual({ errno: 0 });
      bench.settle();
      expect(log).toEqual(['reset flr']);
      expectFresh();
    });
  },
);
