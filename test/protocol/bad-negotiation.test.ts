import { afterEach, describe, expect, it } from 'vitest';
import { errno } from '../../src/errors.ts';
import { closeFd, memfdCreate } from '../../src/posix/index.ts';
import { command } from '../../src/vfio-user/constants.ts';
import { FakeDevice } from './fake-device.ts';
import { type RunningServer, regionsOf, serversUnderTest } from './harness.ts';
import { bytes, raw, short } from './raw-messages.ts';

/** Keys that the library does not read, or does not check; it takes an array for an object without members. */
const unread = /^\[\]|"max_data_xfer_size":0|"pgsizes"|"write_multiple"/;

const versions: readonly {
  readonly what: string;
  readonly payload: Buffer;
  readonly cmd?: number;
  readonly fds?: number;
  /** What the library does instead. */
  readonly library?: 'accepts' | 'hangs up';
}[] = [
  { what: 'another command first', cmd: command.DEVICE_GET_INFO, payload: short(16) },
  { what: 'a payload cut off', payload: short(3) },
  { what: 'major version 1', payload: bytes([1, 2], [0, 2]) },
  { what: 'a descriptor', payload: bytes([0, 2], [0, 2]), fds: 1, library: 'hangs up' },
  ...[
    '{"capabilities":{}}',
    'nonsense\0',
    '[]\0',
    'null\0',
    '{"capabilities":[]}\0',
    '{"capabilities":7}\0',
    '{"capabilities":{"max_msg_fds":-1}}\0',
    '{"capabilities":{"max_msg_fds":1025}}\0',
    '{"capabilities":{"max_msg_fds":"8"}}\0',
    '{"capabilities":{"max_data_xfer_size":0}}\0',
    '{"capabilities":{"max_data_xfer_size":1.5}}\0',
    '{"capabilities":{"pgsizes":null}}\0',
    '{"capabilities":{"write_multiple":1}}\0',
    '{"capabilities":{"migration":true}}\0',
    '{"capabilities":{"migration":{"pgsize":"4k"}}}\0',
  ].map((json) => ({
    what: json.replace('\0', '\\0'),
    payload: Buffer.concat([short(4), Buffer.from(json)]),
    ...(unread.test(json) && { library: 'accepts' as const }),
  })),
];

describe.each(serversUnderTest)('$name server, bad negotiation', (under) => {
  let server: RunningServer;
  afterEach(() => server.close());

  it.each(versions)(
    'refuses $what, and serves the next client',
    ({ payload, cmd = command.VERSION, fds = 0, library }) => {
      const instead = under.kind === 'libvfio-user' ? library : undefined;
      const device = new FakeDevice();
      server = under.serve(device);
      const client = server.raw();
      const extra = Array.from({ length: fds }, () => memfdCreate('extra', 4096));
      client.expect(1);
      client.sendRaw(raw(1, cmd, payload), extra);
      for (const fd of extra) closeFd(fd);
      if (instead === 'hangs up') expect(() => client.rawReply(1)).toThrow(/disconnected/);
      else {
        const { head } = client.rawReply(1);
        expect(head).toMatchObject({ error: instead === 'accepts' ? 0 : errno.EINVAL, command: cmd });
        if (instead === 'accepts') return;
      }
      server.turn();
      expect(() => client.getInfo()).toThrow(/disconnected/);
      expect(device.calls).toEqual([]);
      const next = server.connect();
      expect(next.getInfo().regions).toBe(regionsOf(under));
    },
  );

  it.each([
    { minor: 0, expected: 0 },
    { minor: 1, expected: 1 },
    { minor: 2, expected: 2 },
    { minor: 9, expected: 2 },
  ])('answers minor $minor with $expected', ({ minor, expected }) => {
    server = under.serve(new FakeDevice());
    const client = server.raw();
    client.expect(1);
    client.sendRaw(raw(1, command.VERSION, bytes([0, 2], [minor, 2])));
    const { payload } = client.rawReply(1);
    const most = under.generation === 'v1' ? 1 : 2;
    expect([payload.readUInt16LE(0), payload.readUInt16LE(2)]).toEqual([0, Math.min(expected, most)]);
    const { capabilities } = JSON.parse(payload.subarray(4, -1).toString());
    // Nothing was proposed, so nothing is announced; the library always says what it has.
    expect(Object.keys(capabilities).length > 0).toBe(under.kind === 'libvfio-user');
  });

  it('takes page sizes and limits of all 64 bits', () => {
    server = under.serve(new FakeDevice());
    const client = server.raw();
    const most = '18446744073709547520';
    const json =
      `{"capabilities":{"pgsizes":${most},"max_dma_maps":${most},"max_data_xfer_size":${most},` +
      `"migration":{"pgsize":${most},"max_bitmap_size":${most}}}}\0`;
    client.expect(1);
    client.sendRaw(raw(1, command.VERSION, Buffer.concat([short(4), Buffer.from(json)])));
    const { head, payload } = client.rawReply(1);
    expect(head.error).toBe(0);
    const { capabilities } = JSON.parse(payload.subarray(4, -1).toString());
    expect(capabilities.max_data_xfer_size).toBe(1048576);
  });

  it('answers a proposal like QEMU’s with nothing longer', () => {
    server = under.serve(new FakeDevice());
    const client = server.raw();
    const json =
      '{"capabilities": {"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "max_msg_fds": 16, ' +
      '"max_data_xfer_size": 1048576, "pgsizes": 4096, "max_dma_maps": 65535, "write_multiple": true}}\0';
    client.expect(1);
    client.sendRaw(raw(1, command.VERSION, Buffer.concat([short(4), Buffer.from(json)])));
    const { payload } = client.rawReply(1);
    expect(payload.length).toBeLessThanOrEqual(4 + json.length);
    const answer = JSON.parse(payload.subarray(4, -1).toString());
    const both = { max_msg_fds: 8, max_data_xfer_size: 1048576 };
    if (under.kind === 'libvfio-user') expect(answer).toEqual({ capabilities: both });
    else expect(answer).toEqual(JSON.parse(json.slice(0, -1)));
  });
});
