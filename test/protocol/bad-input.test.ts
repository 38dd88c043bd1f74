import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { errno, errnoName } from '../../src/errors.ts';
import { closeFd, memfdCreate } from '../../src/posix/index.ts';
import { PeerError, type VfioUserClient } from '../../src/vfio-user/client/index.ts';
import { command, headerFlags } from '../../src/vfio-user/constants.ts';
import { badRequests } from './bad-requests.ts';
import { FakeDevice, FakeMigration } from './fake-device.ts';
import { type RunningServer, serversUnderTest } from './harness.ts';
import { differenceOf } from './library-differences.ts';
import { raw } from './raw-messages.ts';

describe.each(serversUnderTest)('$name server, bad requests', (under) => {
  let server: RunningServer;
  afterEach(() => server.close());

  it.each(badRequests)('$what', (row) => {
    const { cmd, payload, fds = 0, flags = 0, errno: expected } = row;
    const differs = differenceOf(row.differs, under);
    const device = new FakeDevice(new FakeMigration());
    server = under.serve(device);
    const client = server.connect();
    client.dmaMap({ iova: 0x70_0000, size: 4096, prot: 3 });
    const extra = Array.from({ length: fds }, (_, i) => memfdCreate(`extra ${i}`, 4096));
    const descriptors = () => readdirSync('/proc/self/fd').length;
    const before = descriptors();
    client.sendRaw(raw(777, cmd, payload, undefined, flags), extra);
    if (differs?.outOfStep) {
      expect(() => [client.rawReply(777), client.readRegister(0, 0)]).toThrow(/which answers nothing/);
      for (const fd of extra) closeFd(fd);
      return;
    }
    const { head, payload: rest } = client.rawReply(777);
    const wanted = differs?.errno ?? expected;
    expect(errnoName(head.error)).toBe(errnoName(wanted));
    expect(head.flags).toBe(wanted === 0 ? headerFlags.typeReply : headerFlags.typeReply | headerFlags.error);
    if (wanted !== 0) expect(rest.length > 0).toBe(differs?.body ?? false);
    // The stream is still in step, nothing was changed, and the same without an answer is borne as well.
    client.sendRaw(raw(778, cmd, payload, undefined, flags | headerFlags.noReply), extra);
    expect(client.readRegister(0, 0)).toBe(0);
    if (wanted !== 0) {
      expect(device.maps.size).toBe(1);
      // What came with it is closed: a client can't use them up.
      expect(descriptors()).toBe(before);
    }
    expect(device.irqSets).toHaveLength(0);
    expect(device.calls.filter((call) => call.startsWith('write'))).toEqual([]);
    for (const fd of extra) closeFd(fd);
  });

  it('skips an oversized message and stays in step', ({ skip }) => {
    skip(under.kind === 'libvfio-user', 'it refuses by the header and takes the body for messages');
    server = under.serve(new FakeDevice());
    const client = server.connect();
    const size = 3 * 1024 * 1024;
    client.expect(5);
    client.sendRaw(raw(5, command.REGION_WRITE, Buffer.alloc(size - 16, 0x55)));
    expect(client.rawReply(5).head.error).toBe(errno.EINVAL);
    expect(client.readRegister(0, 0)).toBe(0);
  });

  it('answers a message shorter than its header, and ends the connection', () => {
    server = under.serve(new FakeDevice());
    const client = server.connect();
    client.expect(5);
    client.sendRaw(raw(5, command.DEVICE_RESET, Buffer.alloc(0), 15));
    expect(client.rawReply(5).head.error).toBe(errno.EINVAL);
    // The library goes on behind the header, as if the size had been right.
    if (under.kind === 'libvfio-user') expect(client.getInfo().flags).toBe(3);
    else expect(() => client.getInfo()).toThrow(/disconnected/);
  });

  it('answers what the device throws with its errno, and a bug of the device with EIO', () => {
    const device = new FakeDevice(new FakeMigration());
    server = under.serve(device);
    const client = server.connect();
    device.onRead = () => {
      throw new TypeError('a bug');
    };
    expect(refusal(client, () => client.readRegister(0, 0))).toBe(errno.EIO);
    device.onRead = undefined;
    expect(client.readRegister(0, 0)).toBe(0);
  });
});

function refusal(client: VfioUserClient, act: () => void): number | undefined {
  try {
    act();
  } catch (error) {
    if (error instanceof PeerError) return error.errno;
    throw error;
  }
  expect(client.open).toBe(true);
  return undefined;
}
