import { expect, test } from 'vitest';
import { NetError } from '../../../src/net/errors.ts';
import type { HostPort } from '../../../src/net/port.ts';
import { VlanPort } from '../../../src/net/vlan.ts';

/** The end of an access port: what came out of it, and a way to put frames in. */
function access(vlan: number) {
  const sent: Buffer[] = [];
  const announced: unknown[] = [];
  let inject: (frame: Uint8Array) => boolean = () => false;
  const inner = {
    offloads: true,
    segmentsUdp: true,
    send: (parts: readonly Uint8Array[], length: number) => {
      const frame = Buffer.concat(parts);
      expect(frame.length).toBe(length);
      sent.push(frame);
      return true;
    },
    receive: (handler: typeof inject) => {
      inject = handler;
    },
    announce: (mac: Uint8Array, tag?: number) => announced.push([...mac, tag]),
  } as unknown as HostPort;
  return { port: new VlanPort(inner, vlan), sent, announced, inject: (frame: Uint8Array) => inject(frame) };
}

const addresses = Buffer.from('52540000000152540000000a', 'hex');
const payload = Buffer.from(`0800${'11'.repeat(50)}`, 'hex');
const plain = Buffer.concat([addresses, payload]);
const tagged = (control: string) => Buffer.concat([addresses, Buffer.from(`8100${control}`, 'hex'), payload]);

test('tags what comes in, and takes the tag off what goes out, whatever its priority', () => {
  const { port, sent, inject } = access(5);
  const received: Buffer[] = [];
  port.receive((frame) => {
    received.push(Buffer.from(frame));
    return true;
  });
  expect(inject(plain)).toBe(true);
  expect(received).toEqual([tagged('0005')]);
  expect(port.send([tagged('0005')], plain.length + 4)).toBe(true);
  expect(port.send([addresses, tagged('e005').subarray(12)], plain.length + 4)).toBe(true);
  expect(sent).toEqual([plain, plain]);
});

test('nothing of other VLANs and nothing untagged passes', () => {
  const { port, sent } = access(5);
  expect(port.send([tagged('0006')], plain.length + 4)).toBe(true);
  expect(port.send([plain], plain.length)).toBe(true);
  expect(port.send([Buffer.alloc(15)], 15)).toBe(true);
  expect(sent).toEqual([]);
});

test('offers no offloads, whatever the port inside does: tags are in plain frames', () => {
  const { port } = access(5);
  expect([port.offloads, port.segmentsUdp]).toEqual([false, false]);
});

test.each([0, 4095, 1.5])('%s is no VLAN', (vlan) => {
  expect(() => access(vlan)).toThrow(NetError);
});

test('announces untagged what is announced in its VLAN, and nothing of others', () => {
  const { port, announced } = access(5);
  port.announce(Uint8Array.of(1));
  port.announce(Uint8Array.of(2), 5);
  port.announce(Uint8Array.of(3), 6);
  expect(announced).toEqual([
    [1, undefined],
    [2, undefined],
  ]);
});
