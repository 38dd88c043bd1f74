/**
 * What libvfio-user's samples/client sends to its server, in its order and sizes, to our timer: the same test as
 * libvfio-user-client.test.ts, without its binary.
 */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { timer } from '../../device-models/timer/index.ts';
import { errno } from '../../src/errors.ts';
import { silentLogger } from '../../src/log.ts';
import { createReactor } from '../../src/loop/index.ts';
import { migrationState as s } from '../../src/migration/index.ts';
import {
  closeFd,
  eventfdCreate,
  eventfdDrain,
  MappedMemory,
  memfdCreate,
  socketPair,
} from '../../src/posix/index.ts';
import { DeviceRuntime } from '../../src/runtime/device-runtime.ts';
import { NativeServer } from '../../src/transport/native/index.ts';
import { VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { pciIrq, pciRegion } from '../../src/vfio-user/constants.ts';

const page = 4096;
/** What the client announces as its max_data_xfer_size, and reads and writes state in. */
const transfer = 1024;
/** The part of BAR 1 that counts. */
const storageSize = 3 * page;

/** A served timer and a client with the sample client's limits, on one thread. */
class Party {
  readonly reactor = createReactor({ busyWaitNs: 0 });
  readonly client: VfioUserClient;
  readonly accesses: string[] = [];
  readonly eventfd = eventfdCreate();
  readonly #runtime: DeviceRuntime;
  readonly #server: NativeServer;

  constructor() {
    const { reactor } = this;
    const log = silentLogger;
    this.#runtime = new DeviceRuntime(timer, { reactor, log }) as unknown as DeviceRuntime;
    this.#server = new NativeServer({
      reactor,
      device: this.#runtime,
      role: 'device',
      log,
      whileWaiting: () => void this.client.poll(),
    });
    const [ours, theirs] = socketPair();
    this.#server.adopt(ours);
    this.client = VfioUserClient.raw(theirs, {
      pump: () => this.turn(),
      capabilities: { maxDataXferSize: transfer, maxMsgFds: 32 },
    });
    this.client.negotiate();
    this.client.onDma = ({ write, count }) => this.accesses.push(`${write ? 'write' : 'read'} ${count}`);
  }

  turn(): void {
    for (let round = 0; round < 16; round++) this.reactor.turn(0);
  }

  /** Asks for an event on INTx, as the client does: an eventfd, and never a word about unmasking. */
  connectIrq(): void {
    expect([0, 1, 2, 3, 4].map((index) => this.client.getIrqInfo(index).count)).toEqual([1, 0, 0, 1, 1]);
    this.client.setIrqs({ index: pciIrq.intx, count: 1, action: 'trigger', eventfds: [this.eventfd] });
  }

  setTime(seconds: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(seconds));
    this.client.regionWrite(0, 0, bytes);
  }

  /** The event, then the DMA: written and read by message, in pieces of what the client takes. */
  expectTimer(): void {
    const deadline = performance.now() + 10_000;
    let rang = false;
    while ((!rang || this.accesses.length < 8) && performance.now() < deadline) {
      this.turn();
      this.client.poll();
      rang ||= eventfdDrain(this.eventfd);
    }
    expect(rang).toBe(true);
    expect(this.accesses.splice(0)).toEqual([
      ...Array.from({ length: 4 }, () => `write ${transfer}`),
      ...Array.from({ length: 4 }, () => `read ${transfer}`),
    ]);
  }

  close(): void {
    this.client.close();
    this.turn();
    this.#server.close();
    this.#runtime.close();
    this.reactor.close();
    closeFd(this.eventfd);
  }
}

describe('the timer, asked as libvfio-user’s sample client asks its server', () => {
  const parties: Party[] = [];
  const party = (): Party => {
    const made = new Party();
    parties.push(made);
    return made;
  };
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['Date'] });
  });
  afterEach(() => {
    vi.useRealTimers();
    for (const each of parties.splice(0)) each.close();
  });

  it('answers everything, migrates, and goes on where it was', () => {
    const source = party();
    const { client } = source;
    const maps = 2 * client.server.maxMsgFds;
    const fd = memfdCreate('guest', maps * page);
    const guest = MappedMemory.map(fd, 0, maps * page, 3);
    const memory = guest.windows[0] ?? Buffer.alloc(0);
    const map = (to: VfioUserClient, index: number): void =>
      to.dmaMap({
        iova: index * page,
        size: page,
        prot: 3,
        fd,
        fdOffset: index * page,
        bytes: memory.subarray(index * page, (index + 1) * page),
      });

    expect(() => client.regionRead(0xdead_beef, 0, 4)).toThrow(
      expect.objectContaining({ errno: errno.EINVAL }),
    );
    expect(client.getInfo()).toMatchObject({ flags: 3, regions: 9, irqs: 5 });
    const regions = Array.from({ length: 9 }, (_, index) => client.getRegionInfo(index));
    expect(regions.map(({ size }) => size)).toEqual([8, 4 * page, 0, 0, 0, 0, 0, 256, 0]);
    expect(regions[1]?.areas).toEqual([
      { offset: 0, size: page },
      { offset: 2 * page, size: page },
    ]);
    expect(regions.map((region) => region.fd !== undefined)).toEqual([false, true, ...Array(7).fill(false)]);
    if (regions[1]?.fd !== undefined) closeFd(regions[1].fd);
    const config = client.regionRead(pciRegion.config, 0, 64);
    expect([0, 2, 0x2c, 0x2e].map((at) => config.readUInt16LE(at))).toEqual([0xdead, 0xbeef, 0xcafe, 0xbabe]);
    client.reset();
    for (let index = 0; index < maps; index++) map(client, index);
    source.connectIrq();
    expect(client.startDmaLogging(page)).toBe(page);

    const now = Math.floor(Date.now() / 1000);
    source.setTime(now);
    expect(client.regionRead(0, 0, 8).readBigInt64LE()).toBe(0n);
    source.expectTimer();
    for (const at of [0, page]) {
      const letters = [0, 1024, 2048, 3072].map((offset) => memory[at + offset] ?? 0);
      expect(String.fromCharCode(...letters)).toBe('ABCD');
    }
    const dirty = Array.from(
      { length: maps },
      (_, index) => client.reportDmaLogging(index * page, page, page)[0],
    );
    // What it writes by message, into the first page, the client notes itself.
    expect(dirty.slice(1)).toEqual([1, ...Array(maps - 2).fill(0)]);
    client.stopDmaLogging();
    for (let index = 0; index < maps / 2; index++) client.dmaUnmap(index * page, page);
    const due = Math.floor(Date.now() / 1000) + 1000;
    source.setTime(due);

    client.setState(s.PRE_COPY);
    const storage = Buffer.alloc(storageSize);
    for (let read = 0; read < 12; read++) {
      storage.fill(read + 1);
      storage.writeUInt32LE(0xc0ffee00 + read, storageSize - 4);
      client.regionWrite(1, 0, storage);
      expect(client.readState(transfer).length).toBeGreaterThan(0);
    }
    client.setState(s.STOP_COPY);
    const state = Array.from({ length: 13 }, () => Buffer.from(client.readState(transfer)));
    expect(state.slice(0, 12).every(({ length }) => length === transfer)).toBe(true);
    expect(state[12]?.length).toBeGreaterThan(0);
    expect(client.readState(transfer).length).toBe(0);
    client.setState(s.STOP);

    const target = party();
    target.client.setState(s.RESUMING);
    for (const piece of state) target.client.writeState(piece);
    target.client.setState(s.STOP);
    expect(target.client.regionRead(1, 0, storageSize).equals(storage)).toBe(true);
    target.client.setState(s.RUNNING);
    for (let index = maps / 2; index < maps; index++) map(target.client, index);
    target.connectIrq();
    target.turn();
    expect(eventfdDrain(target.eventfd)).toBe(false);
    // The time comes while the device is stopped once more: it is noticed when it runs again.
    target.client.setState(s.STOP);
    vi.setSystemTime(due * 1000);
    memory.fill(0);
    target.client.setState(s.RUNNING);
    target.expectTimer();
    expect(String.fromCharCode(memory[(maps / 2) * page] ?? 0, memory[(maps / 2 + 1) * page] ?? 0)).toBe(
      'AA',
    );
    target.client.dmaUnmapAll();
    expect(eventfdDrain(source.eventfd)).toBe(false);
    guest.unmap();
    closeFd(fd);
  });

  it('does not load without its last piece', () => {
    const { client } = party();
    client.setState(s.STOP_COPY);
    const state = Array.from({ length: 12 }, () => Buffer.from(client.readState(transfer)));
    const target = party();
    target.client.setState(s.RESUMING);
    for (const piece of state) target.client.writeState(piece);
    expect(() => target.client.setState(s.STOP)).toThrow();
    expect(target.client.getState()).toBe(s.ERROR);
  });
});
