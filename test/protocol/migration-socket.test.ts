import { afterEach, describe, expect, it } from 'vitest';
import { CompanionError, errno, RequestError } from '../../src/errors.ts';
import { operations, PeerError } from '../../src/vfio-user/client/index.ts';
import { command } from '../../src/vfio-user/constants.ts';
import { thrownBy } from '../thrown.ts';
import { FakeDevice, FakeMigration } from './fake-device.ts';
import { type RunningServer, type ServerOptions, type ServerUnderTest, serversUnderTest } from './harness.ts';
import { bytes, raw, u32 } from './raw-messages.ts';

/** Of a message that the client did not make. */
const id = 777;

let server: RunningServer;
let migration: FakeMigration;
let device: FakeDevice;

function start(under: ServerUnderTest, options: ServerOptions = {}) {
  migration = new FakeMigration();
  device = new FakeDevice(migration);
  server = under.serve(device, options);
}

afterEach(() => server.close());

/** libvfio-user has a migration state machine of its own, and in 2022 migration v1: see its transport's tests. */
const withOurMigration = serversUnderTest.filter(({ kind }) => kind === 'native');

describe.each(withOurMigration)('$name server, migration on the device socket', (under) => {
  it('walks states, moves data, logs dirty pages', () => {
    start(under);
    const client = server.connect();
    expect(client.migrationFlags()).toBe(7);
    expect(client.dataSize()).toBe(12345);
    client.setState(6);
    expect([client.getState(), migration.state]).toEqual([6, 6]);
    expect(client.precopyInfo()).toEqual({ initialBytes: 111, dirtyBytes: 222, flags: 0 });
    migration.saved = Buffer.from('some state');
    expect(client.readState(4).toString()).toBe('some');
    expect(client.readState(100).toString()).toBe(' state');
    expect(client.readState(100)).toHaveLength(0);
    client.writeState(Buffer.from('other'));
    client.writeState(Buffer.from(' state'));
    expect(migration.loaded.toString()).toBe('other state');
    expect(client.startDmaLogging(2048, [{ iova: 4096, length: 8192 }])).toBe(4096);
    expect(migration.logging).toEqual({ pageSize: 2048, ranges: [{ iova: 4096, length: 8192 }] });
    expect([...client.reportDmaLogging(0, 4096 * 65, 4096)]).toEqual([5, ...Array(15).fill(0)]);
    client.stopDmaLogging();
    expect(migration.logging).toBeUndefined();
  });

  it('takes data whatever room its sender leaves for a reply, which has none', () => {
    start(under);
    const client = server.connect();
    const data = Buffer.from('data');
    for (const argsz of [0, 12, 2 ** 32 - 1]) {
      const payload = Buffer.concat([bytes(u32(argsz), u32(data.length)), data]);
      client.expect(id);
      client.sendRaw(raw(id, command.MIG_DATA_WRITE, payload));
      expect(client.rawReply(id).head.error).toBe(0);
    }
    expect(migration.loaded.toString()).toBe('datadatadata');
  });

  it('probes what is there, and nothing else', () => {
    start(under);
    const client = server.connect();
    const [get, set] = [1 << 16, 1 << 17];
    for (const [feature, methods] of [
      [1, get],
      [2, get | set],
      [6, set],
      [7, set],
      [8, get],
      [9, get],
      [2, 0],
    ] as const) {
      expect(client.run(operations.probeFeature(feature, methods))).toBeUndefined();
    }
    for (const [feature, methods] of [
      [1, set],
      [6, get | set],
      [8, set],
      [3, 0],
      [12, get],
    ] as const) {
      expect(
        thrownBy(CompanionError, () => client.run(operations.probeFeature(feature, methods))).errno,
      ).toBe(errno.EINVAL);
    }
  });

  it('pads a short read to what was asked for, as libvfio-user does', () => {
    start(under);
    const client = server.connect();
    migration.saved = Buffer.from('abc');
    const whole = client.run({ ...operations.readState(1024), parse: ({ data }) => Buffer.from(data) });
    expect(whole).toHaveLength(1024);
    expect(whole.subarray(0, 4)).toEqual(Buffer.from('abc\0'));
  });

  it('refuses everything about migration for a device that has none', () => {
    device = new FakeDevice();
    server = under.serve(device);
    const client = server.connect();
    for (const act of [
      () => client.migrationFlags(),
      () => client.readState(10),
      () => client.writeState(Buffer.alloc(1)),
      () => client.precopyInfo(),
      () => client.run(operations.probeFeature(1)),
    ]) {
      expect(thrownBy(CompanionError, act).errno).toBe(errno.EINVAL);
    }
  });
});

describe('native server, the migration socket', () => {
  const [under] = serversUnderTest;
  if (under === undefined) throw new Error('no server');
  const companion = (request: unknown) => {
    const { op } = request as { op: string };
    if (op === 'fail') throw new RequestError(errno.EBUSY, 'the device is busy', { hint: 'wait' });
    if (op === 'bug') throw new TypeError('undefined is not a function');
    return { echo: request };
  };
  const withCompanion = { capabilities: { companion: true } };

  it('takes the requests of migration and refuses all others', () => {
    start(under, { role: 'migration', companion });
    const client = server.connect();
    client.setState(6);
    expect(client.getState()).toBe(6);
    for (const act of [
      () => client.getInfo(),
      () => client.readRegister(0, 0),
      () => client.writeRegister(0, 0, 1),
      () => client.regionWriteMulti([]),
      () => client.dmaMap({ iova: 0, size: 4096, prot: 3 }),
      () => client.reset(),
    ]) {
      expect(thrownBy(CompanionError, act).errno).toBe(errno.EINVAL);
    }
    // The device belongs to the other socket's client.
    expect(device.calls).toEqual([]);
  });

  it('reads exactly what there is', () => {
    start(under, { role: 'migration' });
    const client = server.connect();
    migration.saved = Buffer.from('abc');
    expect(client.run({ ...operations.readState(1024), parse: ({ data }) => data.length })).toBe(3);
  });

  it('has answered what was asked before when it reads a state', () => {
    start(under, { role: 'migration', companion });
    const client = server.connect(withCompanion);
    const first = client.submit(operations.migrationDataSize());
    const second = client.submit(operations.readState(4));
    let answered = false;
    migration.read = () => {
      client.poll();
      answered = first.done;
      return 0;
    };
    second.wait();
    expect(answered).toBe(true);
  });

  it('carries companion operations, and errors with their sentences', () => {
    start(under, { role: 'migration', companion });
    const client = server.connect(withCompanion);
    expect(client.server.companion).toBe(true);
    const bytes = Buffer.from([1, 2, 3]);
    expect(client.companion('info', { bytes, n: 2 ** 40 })).toEqual({
      echo: { op: 'info', bytes, n: 2 ** 40 },
    });
    const busy = thrownBy(CompanionError, () => client.companion('fail'));
    expect(busy).toBeInstanceOf(PeerError);
    expect(busy).toMatchObject({ errno: errno.EBUSY, message: 'the device is busy', hint: 'wait' });
    expect(thrownBy(CompanionError, () => client.companion('bug'))).toMatchObject({
      errno: errno.EIO,
      code: 'VC_DEVICE_FAILED',
    });
    expect(thrownBy(CompanionError, () => client.setState(9))).toMatchObject({
      message: 'no state 9',
      hint: 'ask for another',
    });
    expect(client.companion('info')).toEqual({ echo: { op: 'info' } });
  });

  it('does not carry them for a client that did not ask, or a server without', () => {
    start(under, { role: 'migration', companion });
    const plain = server.connect();
    expect(plain.server.companion).toBe(false);
    expect(thrownBy(CompanionError, () => plain.companion('info')).errno).toBe(errno.EINVAL);
    expect(thrownBy(CompanionError, () => plain.setState(9))).toMatchObject({
      errno: errno.EINVAL,
      hint: undefined,
    });
    server.close();
    start(under, { role: 'migration' });
    const client = server.connect(withCompanion);
    expect(client.server.companion).toBe(false);
    expect(thrownBy(CompanionError, () => client.companion('info')).errno).toBe(errno.EINVAL);
  });

  it('refuses a payload that is not msgpack', () => {
    start(under, { role: 'migration', companion });
    const client = server.connect(withCompanion);
    const broken = { ...operations.companion('info'), data: Buffer.from([0x82, 0xa2, 0x6f]) };
    expect(thrownBy(CompanionError, () => client.run(broken)).errno).toBe(errno.EINVAL);
    const empty = { ...operations.companion('info'), data: undefined };
    expect(thrownBy(CompanionError, () => client.run(empty)).errno).toBe(errno.EINVAL);
  });
});
