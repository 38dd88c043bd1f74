import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { shippedModel } from '../../device-models/index.ts';
import { command, registers, status } from '../../device-models/ram/registers.ts';
import { type DeviceModel, defineModel, type OptionTable, RegisterBlock } from '../../src/device/index.ts';
import { dmaProt } from '../../src/dma/types.ts';
import { engineIsQuiet } from '../../src/engine.ts';
import { errno } from '../../src/errors.ts';
import { migrationState } from '../../src/migration/index.ts';
import { closeFd, eventfdCreate, eventfdDrain, memfdCreate } from '../../src/posix/index.ts';
import type { RuntimeExtension } from '../../src/runtime/extension.ts';
import * as operations from '../../src/vfio-user/client/operations.ts';
import { pciIrq, pciRegion } from '../../src/vfio-user/constants.ts';
import { type ServerUnderTest, serversUnderTest } from './harness.ts';
import { Bench } from './runtime-harness.ts';

/** What serves the device socket. */
let under: ServerUnderTest;
let bench: Bench;
const extra: Bench[] = [];
const fds: number[] = [];
afterEach(() => {
  for (const each of [bench, ...extra.splice(0)]) each.close();
  for (const fd of fds.splice(0)) closeFd(fd);
});

const at = (name: keyof typeof registers): number => registers[name].offset;
const commandRegister = 4;
const ram = (await shippedModel('ram')) as DeviceModel;
const busMasterAndMemory = 6;
const bar0 = 0x10;
/** In the PCI Express capability. */
const deviceControl = 8;
const initiateFlr = 0x8000;

function start(model: DeviceModel, settings = {}): Bench {
  const made = new Bench(model, settings, under);
  made.client.writeRegister(pciRegion.config, commandRegister, busMasterAndMemory, 2);
  return made;
}

function set64(target: Bench, name: keyof typeof registers, value: number): void {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  target.client.regionWrite(0, at(name), bytes);
}

function transfer(target: Bench, direction: number, guest: number, board: number, length: number): void {
  set64(target, 'GUEST_ADDRESS', guest);
  set64(target, 'DEVICE_ADDRESS', board);
  set64(target, 'LENGTH', length);
  target.client.writeRegister(0, at('COMMAND'), direction);
  target.settle();
}

function connectVector(vector: number): number {
  const fd = eventfdCreate();
  fds.push(fd);
  bench.client.setIrqs({ index: pciIrq.msix, start: vector, count: 1, action: 'trigger', eventfds: [fd] });
  return fd;
}

describe.each(serversUnderTest)('$name server:', (each) => {
  beforeEach(() => {
    under = each;
  });

  describe('a ram device over the wire', () => {
    it('moves shared guest memory both ways and signals the vector it was told', () => {
      bench = start(ram);
      const guest = bench.guestMemory(0x10_0000, 0x4000);
      guest.write('hello board', 0x123);
      const fd = connectVector(2);
      bench.client.writeRegister(0, at('VECTOR'), 2);
      transfer(bench, command.fromGuest, 0x10_0123, 0x5000, 11);
      expect(bench.client.readRegister(0, at('STATUS'))).toBe(status.done);
      expect(bench.client.regionRead(2, 0x5000, 11).toString()).toBe('hello board');
      expect(eventfdDrain(fd)).toBe(true);
      transfer(bench, command.toGuest, 0x10_2000, 0x5000, 11);
      expect(guest.toString('latin1', 0x2000, 0x200b)).toBe('hello board');
      expect(eventfdDrain(fd)).toBe(true);
    });

    it('does the same by message where the client gave no descriptor', () => {
      bench = start(ram);
      const bytes = Buffer.alloc(0x3000);
      bytes.write('by message', 0x800);
      bench.client.dmaMap({ iova: 0x8000, size: bytes.length, prot: 3, bytes });
      transfer(bench, command.fromGuest, 0x8800, 0, 10);
      transfer(bench, command.toGuest, 0x9ffc, 0, 10);
      expect(bench.client.readRegister(0, at('STATUS'))).toBe(status.done);
      expect(bytes.toString('latin1', 0x1ffc, 0x2006)).toBe('by message');
    });

    it('refuses memory that the client took away, and no further harm is done', () => {
      bench = start(ram);
      bench.guestMemory(0, 0x1000);
      bench.client.dmaUnmap(0, 0x1000);
      transfer(bench, command.toGuest, 0, 0, 64);
      expect(bench.client.readRegister(0, at('STATUS'))).toBe(status.dmaFault);
    });

    it('lets go of all mappings in a range, as a vIOMMU that is switched off takes them', ({ skip }) => {
      skip(under.kind === 'libvfio-user', 'the library wants an exact match');
      bench = start(ram);
      const high = 2 ** 32;
      const left = bench.guestMemory(0, 0x1000);
      const old = [0, 0x1000, 0x8000].map((offset) => bench.guestMemory(high + offset, 0x1000));
      bench.client.dmaUnmap(high, 2 ** 64 - high);
      expect(() => bench.client.memory.read(high + 0x8000, Buffer.alloc(1))).toThrow('no memory');
      const fresh = bench.guestMemory(high, 0x4000);
      bench.client.writeRegister(2, 0, 0x5a5a5a5a);
      for (const address of [0, high + 0x1000]) transfer(bench, command.toGuest, address, 0, 4);
      expect([left, ...old].map((bytes) => bytes.readUInt32LE(0))).toEqual([0x5a5a5a5a, 0, 0, 0]);
      expect(fresh.readUInt32LE(0x1000)).toBe(0x5a5a5a5a);
      transfer(bench, command.toGuest, high + 0x8000, 0, 4);
      expect(bench.client.readRegister(0, at('STATUS'))).toBe(status.dmaFault);
    });

    it('resets on FLR and on DEVICE_RESET, and keeps its BARs only over FLR', () => {
      bench = start(ram);
      bench.client.writeRegister(pciRegion.config, 0x10, 0xfe00_0000);
      bench.client.writeRegister(0, at('SCRATCH'), 77);
      const pcie = bench.runtime.config.pcieCapability ?? 0;
      bench.client.writeRegister(pciRegion.config, pcie + deviceControl, initiateFlr, 2);
      expect(bench.client.readRegister(0, at('SCRATCH'))).toBe(0);
      expect(bench.client.readRegister(pciRegion.config, 0x10)).toBe(0xfe00_0000);
      bench.client.writeRegister(0, at('SCRATCH'), 78);
      bench.client.reset();
      expect(bench.client.readRegister(0, at('SCRATCH'))).toBe(0);
      expect(bench.client.readRegister(pciRegion.config, 0x10)).toBe(0);
    });

    it('refuses a descriptor that is no eventfd', () => {
      bench = start(ram);
      const fd = memfdCreate('no eventfd', 4096);
      fds.push(fd);
      const request = { index: pciIrq.msix, start: 0, count: 1, action: 'trigger', eventfds: [fd] } as const;
      // The library takes any descriptor; the device behind it does not.
      if (under.kind === 'libvfio-user') bench.client.setIrqs(request);
      else
        expect(() => bench.client.setIrqs(request)).toThrow(expect.objectContaining({ errno: errno.EINVAL }));
      bench.runtime.interrupts.trigger(0);
      expect(bench.runtime.interrupts.pendingVectors).toEqual([0]);
    });
  });

  describe('the migration of a ram device over the wire', () => {
    const drain = (from: Bench): Buffer => {
      const parts: Buffer[] = [];
      for (;;) {
        const part = from.orchestrator.readState(64 * 1024);
        if (part.length === 0) return Buffer.concat(parts);
        parts.push(part);
      }
    };

    it('carries memory, registers, configuration and a pending interrupt to a held device', () => {
      bench = start(ram);
      const target = new Bench(bench.runtime.model as DeviceModel<OptionTable>, { held: true }, under);
      extra.push(target);
      bench.guestMemory(0, 0x1000);
      const messageControl = (bench.runtime.config.msix?.capability ?? 0) + 2;
      bench.client.writeRegister(pciRegion.config, messageControl, 0x8000, 2);
      bench.client.regionWrite(2, 0x3_0000, Buffer.from('first'));
      bench.client.writeRegister(0, at('SCRATCH'), 0xabcd);
      bench.client.writeRegister(pciRegion.config, 0x10, 0xfe00_0000);
      bench.orchestrator.setState(migrationState.PRE_COPY);
      target.orchestrator.setState(migrationState.RESUMING);
      expect(bench.orchestrator.precopyInfo().initialBytes).toBeGreaterThanOrEqual(4096);
      target.orchestrator.writeState(drain(bench));
      bench.client.regionWrite(2, 0x3_0000, Buffer.from('later'));
      transfer(bench, command.toGuest, 0, 0x3_0000, 5);
      bench.orchestrator.setState(migrationState.STOP_COPY);
      target.orchestrator.writeState(drain(bench));
      target.orchestrator.setState(migrationState.RUNNING);
      expect(target.client.regionRead(2, 0x3_0000, 5).toString()).toBe('later');
      expect(target.client.readRegister(0, at('SCRATCH'))).toBe(0xabcd);
      expect(target.client.readRegister(pciRegion.config, 0x10)).toBe(0xfe00_0000);
      // Nobody had connected the vector: the message waits, through the move and until the device is let go.
      expect(target.runtime.interrupts.pendingVectors).toEqual([0]);
      const fd = eventfdCreate();
      fds.push(fd);
      target.client.setIrqs({ index: pciIrq.msix, start: 0, count: 1, action: 'trigger', eventfds: [fd] });
      expect(eventfdDrain(fd)).toBe(false);
      target.orchestrator.companion('hold', { on: false });
      expect(eventfdDrain(fd)).toBe(true);
    });

    it('starts over when the guest resets the device in precopy, and ends when the driver of the migration does', () => {
      bench = start(ram);
      bench.orchestrator.setState(migrationState.PRE_COPY);
      bench.client.reset();
      expect(bench.orchestrator.getState()).toBe(migrationState.PRE_COPY);
      expect(bench.orchestrator.precopyInfo().flags & 1).toBe(1);
      bench.orchestrator.companion('reset');
      expect(bench.orchestrator.getState()).toBe(migrationState.RUNNING);
      if (under.generation === 'v1') return;
      bench.client.setState(migrationState.PRE_COPY);
      bench.client.reset();
      expect(bench.runtime.migration?.state).toBe(migrationState.RUNNING);
      // The library's own idea of the state survives a reset.
      const told = under.kind === 'native' ? migrationState.RUNNING : migrationState.PRE_COPY;
      expect(bench.client.getState()).toBe(told);
    });

    it('goes to ERROR on garbage, from where only a reset leads', () => {
      bench = start(ram);
      bench.orchestrator.setState(migrationState.RESUMING);
      expect(() => bench.orchestrator.writeState(Buffer.alloc(4096, 0x55))).toThrow();
      expect(bench.orchestrator.getState()).toBe(migrationState.ERROR);
      expect(() => bench.orchestrator.setState(migrationState.RUNNING)).toThrow();
      bench.orchestrator.companion('reset');
      bench.client.writeRegister(0, at('SCRATCH'), 5);
      expect(bench.client.readRegister(0, at('SCRATCH'))).toBe(5);
    });

    it('refuses a state of another geometry at its header', () => {
      bench = start(ram);
      const target = new Bench(
        bench.runtime.model as DeviceModel<OptionTable>,
        { options: { megabytes: 32 } },
        under,
      );
      extra.push(target);
      bench.orchestrator.setState(migrationState.PRE_COPY);
      target.orchestrator.setState(migrationState.RESUMING);
      const head = bench.orchestrator.readState(64 * 1024);
      expect(() => target.orchestrator.writeState(head)).toThrow(/memorySize/);
    });
  });

  describe('companion operations', () => {
    it('shows each page that the device wrote, and no other, to the client', () => {
      bench = start(ram);
      const guest = bench.guestMemory(0, 0x10000);
      guest[0x2000] = 0x77;
      bench.orchestrator.startDmaLogging(4096);
      bench.client.regionWrite(2, 0, Buffer.from('dirt'));
      transfer(bench, command.toGuest, 0x1ffe, 0, 4);
      transfer(bench, command.toGuest, 0x8000, 0, 4);
      expect(bench.orchestrator.companion('dirtyEstimate')).toEqual({ pages: 3 });
      const touched = new Set<number>();
      bench.client.onDma = ({ write, iova, count }) => {
        if (write) for (const at of [iova, iova + count - 1]) touched.add(at - (at % 0x1000));
      };
      expect(bench.orchestrator.companion('markDirty')).toMatchObject({ pages: 3, failed: 0, firstErrno: 0 });
      expect([...touched].sort((a, b) => a - b)).toEqual([0x1000, 0x2000, 0x8000]);
      expect(guest.toString('latin1', 0x1ffe, 0x2002)).toBe('dirt');
      expect(bench.orchestrator.companion('markDirty')).toMatchObject({ pages: 0 });
    });

    it('takes every page that it may write through a descriptor for dirty, where it is told to', () => {
      bench = start(ram, { dirtyScope: 'all' });
      const pageBytes = 0x1000;
      const readWrite = dmaProt.read | dmaProt.write;
      bench.guestMemory(0, 4 * pageBytes);
      bench.guestMemory(0x10_0000, 3 * pageBytes);
      const fd = memfdCreate('read only', 2 * pageBytes);
      fds.push(fd);
      bench.client.dmaMap({ iova: 0x20_0000, size: 2 * pageBytes, prot: dmaProt.read, fd });
      bench.client.dmaMap({
        iova: 0x30_0000,
        size: pageBytes,
        prot: readWrite,
        bytes: Buffer.alloc(pageBytes),
      });
      bench.orchestrator.startDmaLogging(pageBytes);
      const writable = { pages: 7 };
      expect(bench.orchestrator.companion('dirtyEstimate')).toEqual(writable);
      expect(bench.orchestrator.companion('markDirty')).toMatchObject({ ...writable, failed: 0 });
      // The device may have written them again since.
      expect(bench.orchestrator.companion('dirtyEstimate')).toEqual(writable);
      expect(bench.orchestrator.companion('info')).toMatchObject({ dirtyScope: 'all' });
    });

    it('takes what the guest has registered for dirty, where it is told to and the model tells', () => {
      const telling: typeof ram = {
        ...ram,
        create(host, options) {
          const device = ram.create(host, options);
          if (device.migration === undefined) throw new Error('ram can migrate');
          const pinnedRanges = { pinned: () => [{ iova: 0x1800, length: 0x1000 }] };
          return { ...device, migration: Object.assign(Object.create(device.migration), { pinnedRanges }) };
        },
      };
      bench = new Bench(telling, { dirtyScope: 'pinned' }, under);
      bench.guestMemory(0, 0x1_0000);
      bench.orchestrator.startDmaLogging(4096);
      // Two pages that the range touches.
      expect(bench.orchestrator.companion('dirtyEstimate')).toEqual({ pages: 2 });
    });

    it('tells exactly how many pages can not be shown', () => {
      bench = start(ram);
      bench.guestMemory(0, 0x4000);
      bench.guestMemory(0x4000, 0x4000);
      bench.orchestrator.startDmaLogging(4096);
      transfer(bench, command.toGuest, 0x1000, 0, 0x6000);
      bench.client.dmaUnmap(0x4000, 0x4000);
      expect(bench.orchestrator.companion('markDirty')).toMatchObject({ pages: 6, failed: 3 });
    });

    it.each<[string, () => void]>([
      ['DEVICE_RESET', () => bench.client.reset()],
      ['a reset by the orchestrator', () => void bench.orchestrator.companion('reset')],
      [
        'a function level reset',
        () => {
          const control = (bench.runtime.config.pcieCapability ?? 0) + deviceControl;
          bench.client.writeRegister(pciRegion.config, control, initiateFlr, 2);
        },
      ],
    ])('keeps what the device wrote over %s', (_, reset) => {
      bench = start(ram);
      bench.guestMemory(0, 0x10000);
      bench.orchestrator.startDmaLogging(4096);
      transfer(bench, command.toGuest, 0x3000, 0, 4);
      bench.client.writeRegister(0, at('SCRATCH'), 77);
      reset();
      bench.settle();
      expect(bench.client.readRegister(0, at('SCRATCH'))).toBe(0);
      expect(bench.orchestrator.companion('dirtyEstimate')).toEqual({ pages: 1 });
      // What comes next is noted too.
      bench.client.writeRegister(pciRegion.config, commandRegister, busMasterAndMemory, 2);
      transfer(bench, command.toGuest, 0x8000, 0, 4);
      expect(bench.orchestrator.companion('dirtyEstimate')).toEqual({ pages: 2 });
    });

    it('puts marking off, and forgets nothing, while the guest has Bus Master off', () => {
      bench = start(ram);
      bench.guestMemory(0, 0x10000);
      bench.orchestrator.startDmaLogging(4096);
      transfer(bench, command.toGuest, 0x3000, 0, 4);
      bench.client.writeRegister(pciRegion.config, commandRegister, 0, 2);
      expect(bench.orchestrator.companion('markDirty')).toMatchObject({
        pages: 0,
        failed: 0,
        deferred: true,
      });
      bench.client.writeRegister(pciRegion.config, commandRegister, busMasterAndMemory, 2);
      expect(bench.orchestrator.companion('markDirty')).toMatchObject({ pages: 1, deferred: false });
      bench.client.writeRegister(pciRegion.config, commandRegister, 0, 2);
      expect(bench.orchestrator.companion('markDirty')).toMatchObject({ pages: 0, deferred: false });
    });

    it('brings the MSI-X table with a barrier, where the guest lets it', () => {
      bench = start(ram);
      const table = 0x2_0000;
      bench.guestMemory(0, 0x10000);
      // The client plays the BAR: what QEMU answers there is its own table.
      bench.guestMemory(table, 0x2000).fill(0xab, 0x1000, 0x1040);
      const barrier = () =>
        bench.orchestrator.companion('barrier') as { errno: number; msixTable?: Uint8Array };
      expect(barrier()).toEqual({ errno: 0 });
      bench.client.writeRegister(pciRegion.config, bar0, table, 4);
      expect(barrier()).toEqual({ errno: 0, msixTable: Buffer.alloc(64, 0xab) });
      // A move of the BAR that the client had not sent yet when it was asked: the table is read where it is now.
      const moved = 0x3_0000;
      bench.guestMemory(moved, 0x2000).fill(0xcd, 0x1000, 0x1040);
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32LE(moved);
      bench.client.onDma = () => {
        bench.client.onDma = undefined;
        bench.client.post(operations.regionWrite(pciRegion.config, bar0, bytes));
      };
      expect(barrier()).toEqual({ errno: 0, msixTable: Buffer.alloc(64, 0xcd) });
      expect(bench.runtime.config.bar(0)?.address).toBe(moved);
      bench.client.writeRegister(pciRegion.config, commandRegister, 2, 2);
      expect(barrier().msixTable).toBeUndefined();
      bench.client.writeRegister(pciRegion.config, commandRegister, busMasterAndMemory, 2);
      bench.client.dmaUnmap(moved, 0x2000);
      expect(barrier()).toMatchObject({ errno: expect.any(Number) });
      expect(barrier().errno).not.toBe(0);
      expect(barrier().msixTable).toBeUndefined();
    });

    it('brings the device to rest and then to STOP_COPY in two requests', () => {
      bench = start(ram);
      const table = 0x2_0000;
      bench.guestMemory(0, 0x10000);
      bench.guestMemory(table, 0x2000).fill(0xab, 0x1000, 0x1040);
      bench.client.writeRegister(pciRegion.config, 0x10, table, 4);
      const { orchestrator } = bench;
      orchestrator.setState(migrationState.PRE_COPY);
      const rest = (request: Record<string, unknown>) => () => orchestrator.companion('rest', request);
      expect(rest({})).toThrow(/"park"/);
      // There are no network ports that could be parked.
      expect(rest({ park: true })).toThrow(expect.objectContaining({ errno: errno.EOPNOTSUPP }));
      expect(rest({ park: false, state: 99 })).toThrow(expect.objectContaining({ errno: errno.EINVAL }));
      const rested = rest({ park: false, state: migrationState.PRE_COPY_P2P })() as Record<string, unknown>;
      expect(rested).toMatchObject({ errno: 0, msixTable: Buffer.alloc(64, 0xab) });
      expect(rested.addresses).toEqual([table, null, null, null, null, null]);
      const info = orchestrator.companion('info') as Record<string, unknown>;
      expect(rested.config).toEqual(info.config);
      expect(info).toMatchObject({ held: true, stateName: 'PRE_COPY_P2P', protocol: 2 });
      expect(orchestrator.companion('halt')).toEqual({ dataSize: expect.any(Number) });
      expect(orchestrator.getState()).toBe(migrationState.STOP_COPY);
    });

    it('parks first, is held when the client has answered, and tells when it has come to rest', () => {
      const steps: unknown[] = [];
      const note = (step: string) =>
        steps.push({ step, held: bench.runtime.held, state: bench.runtime.orchestrated?.state });
      const extension: RuntimeExtension = {
        info: () => ({}),
        stopped: () => note('stopped'),
        operations: { park: () => note('park') },
      };
      bench = start(ram, { extension });
      bench.guestMemory(0, 0x10000);
      const { PRE_COPY, PRE_COPY_P2P } = migrationState;
      bench.orchestrator.setState(PRE_COPY);
      bench.client.onDma = () => note('dma');
      bench.orchestrator.companion('rest', { park: true, state: PRE_COPY_P2P });
      const before = { held: false, state: PRE_COPY };
      expect(steps).toEqual([
        { step: 'park', ...before },
        { step: 'dma', ...before },
        { step: 'stopped', held: true, state: PRE_COPY_P2P },
      ]);
    });

    it('is not kept quiet longer than the orchestrator is there', () => {
      bench = start(ram);
      expect(engineIsQuiet()).toBe(false);
      bench.orchestrator.companion('quiet', { on: true });
      expect(engineIsQuiet()).toBe(true);
      bench.orchestrator.close();
      bench.settle();
      expect(engineIsQuiet()).toBe(false);
    });

    it('comes to rest with everything done that the client had sent before it answered', () => {
      bench = start(ram);
      bench.guestMemory(0, 0x10000);
      const { client, orchestrator } = bench;
      const scratch = (value: number) => {
        const bytes = Buffer.alloc(4);
        bytes.writeUInt32LE(value);
        return operations.regionWrite(0, at('SCRATCH'), bytes);
      };
      client.run(scratch(0x1111));
      orchestrator.setState(migrationState.PRE_COPY);
      // A posted write that still waits in QEMU's queue is sent before the answer to the barrier.
      client.onDma = ({ count }) => {
        if (count > 0x1000) return;
        client.onDma = undefined;
        client.post(scratch(0x2222));
      };
      const { PRE_COPY_P2P, RESUMING, STOP } = migrationState;
      // All at once, as an orchestrator does that has one device.
      const rest = orchestrator.submit(operations.companion('rest', { park: false, state: PRE_COPY_P2P }));
      const halt = orchestrator.submit(operations.companion('halt', {}));
      const state = orchestrator.submit(operations.readState(65536));
      for (const each of [rest, halt]) each.wait();
      expect(client.onDma).toBeUndefined();
      const there = start(ram, { held: true });
      extra.push(there);
      there.orchestrator.setState(RESUMING);
      there.orchestrator.writeState(state.wait());
      for (let more = orchestrator.readState(4096); more.length > 0; more = orchestrator.readState(4096))
        there.orchestrator.writeState(more);
      there.orchestrator.setState(STOP);
      expect(there.client.readRegister(0, at('SCRATCH')).toString(16)).toBe('2222');
    });

    it('rehearses marking without touching a byte', () => {
      bench = start(ram);
      bench.guestMemory(0, 0x10000).fill(0x55);
      const counts = new Set<number>();
      bench.client.onDma = ({ write, count }) => void (write && counts.add(count));
      expect(bench.orchestrator.companion('rehearseMarking', { pages: 8 })).toMatchObject({ pages: 8 });
      expect([...counts]).toEqual([0]);
      expect(bench.orchestrator.companion('rehearseMarking', { pages: 9 })).toMatchObject({ pages: 0 });
    });

    it('passes DMA through, each operation with its own outcome', () => {
      bench = start(ram);
      bench.guestMemory(0x1000, 0x1000).write('abc', 0x10);
      const answer = bench.orchestrator.companion('dma', {
        operations: [
          { read: 0x1010, length: 3 },
          { read: 0x9_0000, length: 3 },
          { write: 0x1020, bytes: Buffer.from('xyz') },
        ],
      }) as { results: { errno: number; bytes?: Uint8Array }[] };
      expect(Buffer.from(answer.results[0]?.bytes ?? []).toString()).toBe('abc');
      expect(answer.results.map((result) => result.errno === 0)).toEqual([true, false, true]);
      expect(bench.orchestrator.companion('barrier')).toMatchObject({ errno: 0 });
    });

    it('waits for a client that answers no DMA once, not for each operation', () => {
      const { create } = under;
      const impatient = {
        ...under,
        create: (options: Parameters<typeof create>[0]) => create({ ...options, dmaTimeoutMs: 30 }),
      };
      bench = new Bench(ram, {}, impatient);
      bench.guestMemory(0x1000, 0x1000);
      bench.orchestrator.companion('barrier');
      bench.client.deaf = true;
      const operations = [1, 2, 3].map(() => ({ read: 0x1010, length: 3 }));
      const { results } = bench.runtime.companion.handle({ op: 'dma', operations }) as { results: unknown };
      expect(results).toEqual(operations.map(() => ({ errno: errno.ETIMEDOUT })));
      let asked = 0;
      bench.client.onDma = () => {
        asked += 1;
      };
      bench.client.deaf = false;
      bench.client.poll();
      expect(asked).toBe(1);
    });

    it.each([
      [{ op: 'dma', operations: 5 }, errno.EINVAL],
      [{ op: 'dma', operations: [null] }, errno.EINVAL],
      [{ op: 'dma', operations: [{ read: -1, length: 1 }] }, errno.EINVAL],
      [{ op: 'dma', operations: [{ read: 0, length: 2 ** 30 }] }, errno.EINVAL],
      [{ op: 'hold', on: 'yes' }, errno.EINVAL],
      [{ op: 'toString' }, errno.EOPNOTSUPP],
      [{}, errno.EINVAL],
    ])('refuses %j', (request, expected) => {
      bench = start(ram);
      const { op, ...args } = request as { op?: string };
      expect(() => bench.runtime.companion.handle(op === undefined ? args : request)).toThrow(
        expect.objectContaining({ errno: expected }),
      );
    });

    it('tells what a replay needs', () => {
      bench = start(ram);
      expect(bench.orchestrator.companion('info')).toMatchObject({
        model: 'ram',
        clientConnected: true,
        state: migrationState.RUNNING,
        msix: { vectors: 4, table: { bar: 0, offset: 0x1000 } },
        interruptMode: 'intx',
      });
    });
  });

  describe('a model with a bug', () => {
    const buggy = defineModel({
      name: 'buggy',
      description: 'throws',
      stateVersion: 1,
      options: {},
      pci: () => ({
        vendorId: 1,
        deviceId: 2,
        classCode: 0xff0000,
        bars: { 0: { size: 4096, kind: 'memory32' } },
      }),
      create() {
        const block = new RegisterBlock(
          { BUG: { offset: 0, width: 4, access: 'rw' }, OK: { offset: 4, width: 4, access: 'rw' } },
          {
            BUG: {
              write: () => {
                throw new TypeError('a bug');
              },
            },
          },
        );
        return { bars: { 0: block }, reset: () => block.reset() };
      },
    });

    it('breaks its own device until a reset, tells the client, and leaves the server alive', () => {
      bench = new Bench(buggy as unknown as DeviceModel<OptionTable>, {}, under);
      const fd = eventfdCreate();
      fds.push(fd);
      bench.client.setIrqs({ index: pciIrq.err, start: 0, count: 1, action: 'trigger', eventfds: [fd] });
      bench.client.writeRegister(0, 4, 9);
      bench.client.writeRegister(0, 0, 1);
      expect(() => bench.client.readRegister(0, 4)).toThrow(expect.objectContaining({ errno: errno.EIO }));
      expect(eventfdDrain(fd)).toBe(true);
      expect(bench.client.readRegister(pciRegion.config, 0)).toBe(0x0002_0001);
      bench.client.reset();
      bench.client.writeRegister(0, 4, 10);
      expect(bench.client.readRegister(0, 4)).toBe(10);
    });
  });
});
