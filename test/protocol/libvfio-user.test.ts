import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { shippedModel } from '../../device-models/index.ts';
import { command as order, registers } from '../../device-models/ram/registers.ts';
import type { DeviceModel, OptionTable } from '../../src/device/index.ts';
import { errno } from '../../src/errors.ts';
import { silentLogger } from '../../src/log.ts';
import { createReactor } from '../../src/loop/index.ts';
import { migrationState } from '../../src/migration/index.ts';
import { closeFd, eventfdCreate, PosixError, socketPair } from '../../src/posix/index.ts';
import { Inbox } from '../../src/transport/libvfio-user/inbox.ts';
import { LibvfioUserServer } from '../../src/transport/libvfio-user/index.ts';
import { VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { command, headerFlags, pciRegion } from '../../src/vfio-user/constants.ts';
import { encodeRequest, messages } from '../../src/vfio-user/messages.ts';
import { openDescriptors } from '../fuzz/target.ts';
import { errnoThrownBy } from '../thrown.ts';
import { FakeDevice, FakeMigration } from './fake-device.ts';
import { libraryServers, nativeServer, type RunningServer, type ServerUnderTest } from './harness.ts';
import { bytes, raw, regionAt, short, u32 } from './raw-messages.ts';
import { Bench } from './runtime-harness.ts';

const { noReply } = headerFlags;

const benches: Bench[] = [];
let server: RunningServer | undefined;
afterEach(() => {
  for (const bench of benches.splice(0)) bench.close();
  server?.close();
  server = undefined;
});

const ram = (await shippedModel('ram')) as DeviceModel<OptionTable>;
const at = (name: keyof typeof registers): number => registers[name].offset;

function start(under: ServerUnderTest): Bench {
  const bench = new Bench(ram, {}, under);
  benches.push(bench);
  bench.client.writeRegister(pciRegion.config, 4, 6, 2);
  return bench;
}

/** The device copies `length` bytes of its memory to the guest's at `guest`. */
function toGuest(bench: Bench, guest: number, length: number): void {
  for (const [name, value] of [
    ['GUEST_ADDRESS', guest],
    ['DEVICE_ADDRESS', 0],
    ['LENGTH', length],
  ] as const) {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    bench.client.regionWrite(0, at(name), bytes);
  }
  bench.client.writeRegister(0, at('COMMAND'), order.toGuest);
  bench.settle();
}

const withMigration = libraryServers.filter(({ generation }) => generation === 'v2');
const withoutMigration = libraryServers.filter(({ generation }) => generation === 'v1');

// To the runner a file without a test is a failure, and whoever has no library is to hear of it.
if (libraryServers.length === 0) {
  it.skip('the library as a server (skipped: there is none; make libvfio-user builds one)', () => undefined);
}

describe.each(withMigration)('$name server, migration on the device socket', (under) => {
  it.each([
    { to: 'itself', destination: under },
    { to: 'the native server', destination: nativeServer },
  ])('carries a device to $to', ({ destination }) => {
    const source = start(under);
    const target = start(destination);
    source.client.regionWrite(2, 0x3_0000, Buffer.from('first'));
    source.client.writeRegister(0, at('SCRATCH'), 0xabcd);
    const drain = () => {
      for (;;) {
        const part = source.client.readState(64 * 1024);
        if (part.length === 0) return;
        target.client.writeState(part);
      }
    };
    expect(source.client.migrationFlags()).toBe(5);
    target.client.setState(migrationState.RESUMING);
    source.client.setState(migrationState.PRE_COPY);
    drain();
    source.client.regionWrite(2, 0x3_0000, Buffer.from('later'));
    source.client.setState(migrationState.STOP_COPY);
    // The library lets nobody look at a device that stands still for copying.
    expect(errnoThrownBy(() => source.client.readRegister(0, at('SCRATCH')))).toBe(errno.EINVAL);
    drain();
    source.client.setState(migrationState.STOP);
    target.client.setState(migrationState.RUNNING);
    expect(target.client.regionRead(2, 0x3_0000, 5).toString()).toBe('later');
    expect(target.client.readRegister(0, at('SCRATCH'))).toBe(0xabcd);
  });

  it('refuses what is no state of the device with the device’s errno', () => {
    const target = start(under);
    target.client.setState(migrationState.RESUMING);
    expect(errnoThrownBy(() => target.client.writeState(Buffer.alloc(4096, 0x55)))).toBe(errno.EINVAL);
    expect(target.runtime.migration?.state).toBe(migrationState.ERROR);
    expect(errnoThrownBy(() => target.client.setState(migrationState.RUNNING))).toBe(errno.EINVAL);
  });

  it('logs what the device writes, from the start of logging to its end', () => {
    const bench = start(under);
    bench.guestMemory(0x10_0000, 0x1_0000);
    const report = () => [...bench.client.reportDmaLogging(0x10_0000, 0x1_0000, 4096).subarray(0, 2)];
    toGuest(bench, 0x10_0000, 8);
    expect(errnoThrownBy(report)).toBe(errno.EINVAL);
    bench.client.startDmaLogging(4096);
    expect(report()).toEqual([0, 0]);
    toGuest(bench, 0x10_1ffe, 4);
    toGuest(bench, 0x10_8000, 4096);
    expect(report()).toEqual([0b110, 0b1]);
    expect(report()).toEqual([0, 0]);
    bench.client.stopDmaLogging();
    toGuest(bench, 0x10_0000, 8);
    bench.client.startDmaLogging(4096);
    expect(report()).toEqual([0, 0]);
  });

  it('keeps its log apart from the one of an orchestrator', () => {
    const bench = start(under);
    bench.guestMemory(0x10_0000, 0x1_0000);
    bench.client.startDmaLogging(4096);
    bench.orchestrator.startDmaLogging(4096);
    toGuest(bench, 0x10_3000, 4);
    expect(bench.orchestrator.companion('markDirty')).toMatchObject({ pages: 1, failed: 0 });
    expect([...bench.client.reportDmaLogging(0x10_0000, 0x1_0000, 4096).subarray(0, 2)]).toEqual([0b1000, 0]);
  });
});

describe.each(withoutMigration)('$name server, migration on the device socket', (under) => {
  it('is refused', () => {
    server = under.serve(new FakeDevice(new FakeMigration()));
    const client = server.connect();
    for (const act of [
      () => client.migrationFlags(),
      () => client.setState(migrationState.PRE_COPY),
      () => client.readState(10),
      () => client.writeState(Buffer.alloc(1)),
      () => client.startDmaLogging(4096),
    ]) {
      expect(errnoThrownBy(act)).toBe(errno.EINVAL);
    }
  });
});

describe.each(libraryServers)('$name server', (under) => {
  it('hands the library no message before it is whole', () => {
    const device = new FakeDevice();
    server = under.serve(device, { messagePatienceMs: 10_000 });
    const client = server.connect();
    const message = encodeRequest(
      messages.REGION_WRITE,
      9,
      { offset: 4, region: 0, count: 4 },
      Buffer.from([1, 2, 3, 4]),
    );
    client.expect(9);
    for (const byte of message) {
      client.sendRaw(Buffer.from([byte]));
      server.turn();
    }
    expect(client.rawReply(9).head.error).toBe(0);
    expect(client.readRegister(0, 4)).toBe(0x0403_0201);
  });

  it('is not held up by a client that does not negotiate, and ends it', async () => {
    const device = new FakeDevice();
    server = under.serve(device, { negotiationTimeoutMs: 200 });
    const client = server.raw();
    const hello = encodeRequest(messages.VERSION, 1, { major: 0, minor: 0 }, Buffer.from('{}\0'));
    client.sendRaw(hello.subarray(0, 19));
    server.turn();
    await new Promise((resolve) => setTimeout(resolve, 250));
    server.turn();
    expect(() => client.getInfo()).toThrow(/disconnected/);
    expect(server.connect().getInfo().flags).toBe(3);
    expect(device.calls).toEqual(['attach']);
  });

  it('does not let a client have the second socket, on which the device’s messages would not be seen', () => {
    const device = new FakeDevice();
    server = under.serve(device);
    const client = server.raw();
    const capabilities = '{"capabilities":{"max_msg_fds":8,"twin_socket":{"supported":true}}}\0';
    client.expect(1);
    client.sendRaw(encodeRequest(messages.VERSION, 1, { major: 0, minor: 0 }, Buffer.from(capabilities)));
    const { head, payload } = client.rawReply(1);
    expect(head.error).toBe(0);
    expect(payload.toString()).not.toContain('twin_socket');
  });

  it('gives every descriptor back that clients sent, in whatever request', () => {
    const device = new FakeDevice(new FakeMigration());
    server = under.serve(device);
    const before = openDescriptors();
    for (let round = 0; round < 3; round++) {
      const client = server.connect();
      const fds = socketPair();
      client.dmaMap({ iova: 0, size: 4096, prot: 3 });
      for (const cmd of [command.DMA_MAP, command.DEVICE_SET_IRQS, command.DEVICE_GET_INFO]) {
        client.sendRaw(
          encodeRequest({ ...messages.DEVICE_GET_INFO, command: cmd }, 50 + cmd, {
            argsz: 16,
            flags: 0,
            num_regions: 0,
            num_irqs: 0,
          }),
          [...fds],
        );
        client.rawReply(50 + cmd);
      }
      client.close();
      for (const fd of fds) closeFd(fd);
      server.turn();
    }
    expect(openDescriptors()).toBe(before);
    expect(device.calls.filter((call) => call === 'detach')).toHaveLength(3);
  });

  it('survives whatever a device throws in the middle of the library', () => {
    const device = new FakeDevice(new FakeMigration());
    server = under.serve(device);
    const client = server.connect();
    const bug = () => {
      throw new TypeError('a bug');
    };
    device.onReset = bug;
    expect(errnoThrownBy(() => client.reset())).toBe(errno.EIO);
    device.dmaMap = bug;
    client.dmaMap({ iova: 0, size: 4096, prot: 3 });
    device.dmaUnmap = bug;
    client.dmaUnmap(0, 4096);
    device.checkRegionWrite = bug;
    expect(errnoThrownBy(() => client.writeRegister(0, 0, 1))).toBe(errno.EIO);
    device.setIrqs = bug;
    client.setIrqs({ index: 2, start: 0, count: 0, action: 'trigger' });
    expect(client.readRegister(0, 0)).toBe(0);
  });

  it('refuses a device that the library can’t serve, with what is wrong', () => {
    if (under.generation === 'v1') return;
    const device = new FakeDevice();
    Object.assign(device.memory, { 2: Buffer.alloc(12288) });
    expect(() => under.serve(device)).toThrow(/vfu_setup_region of region 2 \(12288 bytes\) failed: EINVAL/);
  });

  it('refuses a message that is too long for its sender’s socket, and a client that floods it ends itself', () => {
    const device = new FakeDevice();
    Object.assign(device.memory, { 2: Buffer.alloc(1024 * 1024) });
    server = under.serve(device);
    const client = server.connect();
    const data = Buffer.alloc(700 * 1024, 5);
    expect(errnoThrownBy(() => client.regionWrite(2, 0, data))).toBe(errno.EINVAL);
    // The rest of it is taken for messages, whose refusals nobody reads.
    expect(() => client.readRegister(0, 0)).toThrow(/disconnected/);
    expect(server.connect().readRegister(2, 0)).toBe(0);
  });

  it('listens where it is told, for one client after the other, and cleans up', () => {
    const directory = mkdtempSync(join(tmpdir(), 'vc-test-'));
    const path = join(directory, 's');
    const reactor = createReactor({ busyWaitNs: 0 });
    const device = new FakeDevice();
    const turn = () => {
      for (let i = 0; i < 8; i++) reactor.turn(0);
    };
    const make = () => {
      const { library } = under;
      if (library === undefined) throw new Error('no library');
      return new LibvfioUserServer({ reactor, device, path, log: silentLogger, library });
    };
    vi.stubEnv('TMPDIR', directory);
    const listening = make();
    vi.unstubAllEnvs();
    // The library's own socket file is gone already.
    expect(readdirSync(directory)).toEqual(['s']);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(make).toThrow(expect.objectContaining({ errno: errno.EADDRINUSE }));
    for (let round = 0; round < 2; round++) {
      const first = VfioUserClient.connect(path, { pump: turn });
      expect(first.getInfo().flags).toBe(3);
      expect(() => VfioUserClient.connect(path, { pump: turn })).toThrow(/it serves another client already/);
      expect(listening.connected).toBe(true);
      first.close();
    }
    turn();
    expect(listening.connected).toBe(false);
    listening.close();
    reactor.close();
    expect(readdirSync(directory)).toEqual([]);
    rmSync(directory, { recursive: true });
    expect(device.calls).toEqual(['attach', 'detach', 'attach', 'detach']);
  });

  it('carries out nothing that a dropped client had sent, however much, and serves the next one', () => {
    const device = new FakeDevice();
    server = under.serve(device);
    const client = server.connect();
    client.writeRegister(0, 0, 1);
    const write = raw(
      5,
      command.REGION_WRITE,
      Buffer.concat([regionAt(0, 0, 4), bytes(u32(7))]),
      36,
      noReply,
    );
    // A reply to nothing, shorter than its own header, in front of more messages than are served at a time.
    const malformed = raw(5, command.DMA_READ, short(0), 8, headerFlags.typeReply | noReply);
    client.sendRaw(Buffer.concat([malformed, ...Array<Buffer>(600).fill(write)]));
    server.turn();
    client.close();
    server.turn();
    expect(device.calls).toEqual(['attach', 'write 0:0', 'detach']);
    expect(server.connect().readRegister(0, 0)).toBe(1);
  });

  it('ends a client whose message can’t be looked at, and says so once', () => {
    const device = new FakeDevice();
    const errors: string[] = [];
    const log = pino({ level: 'error' }, { write: (line: string) => void errors.push(JSON.parse(line).msg) });
    server = under.serve(device, { log });
    // As when there is no room for its descriptors.
    const look = vi.spyOn(Inbox.prototype, 'peekWhole').mockImplementation(() => {
      throw new PosixError('recv 5: descriptors lost', errno.EPROTO);
    });
    const client = server.connect();
    expect(() => client.dmaMap({ iova: 0, size: 4096, prot: 3 })).toThrow(/disconnected/);
    look.mockRestore();
    expect(errors).toEqual(['the server failed']);
    expect(device.calls).toEqual(['attach', 'detach']);
    expect(server.connect().readRegister(0, 0)).toBe(0);
  });

  it('refuses a greeting that can’t be taken, and leaves nothing behind', () => {
    server = under.serve(new FakeDevice());
    const before = openDescriptors();
    const take = vi.spyOn(Inbox.prototype, 'take').mockImplementation((fds) => {
      fds.push(eventfdCreate());
      throw new PosixError('recv 5: descriptors lost', errno.EPROTO);
    });
    const client = server.raw();
    expect(() => client.negotiate()).toThrow(/disconnected/);
    client.close();
    take.mockRestore();
    expect(openDescriptors()).toBe(before);
    expect(server.connect().readRegister(0, 0)).toBe(0);
  });

  it('ends a client whose connection breaks in the middle of a message', () => {
    const device = new FakeDevice();
    server = under.serve(device);
    const client = server.connect();
    client.sendRaw(
      encodeRequest(messages.DEVICE_GET_INFO, 7, {
        argsz: 16,
        flags: 0,
        num_regions: 0,
        num_irqs: 0,
      }).subarray(0, 20),
    );
    client.close();
    server.turn();
    expect(device.calls).toEqual(['attach', 'detach']);
  });
});
