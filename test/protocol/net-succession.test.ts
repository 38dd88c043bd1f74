import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { mac, NetWorld, numbered } from './net-world.ts';

let world: NetWorld;
beforeEach(() => {
  world = new NetWorld();
});
afterEach(() => world.close());

const [VM, OTHER, PEER, SHARED] = [mac(1), mac(2), mac(3), mac(4)];

describe('an announcement of an address that two NICs list, as with VRRP', () => {
  test.each([
    ['another identity', 'nic1'],
    ['no identity', undefined],
  ])(
    'of a port with %s takes the address, and nothing that is kept for the one that is parked',
    async (_, of) => {
      const network = world.makeSwitch();
      const [peer] = await world.joined(network);
      const [source] = await world.joined(network, { identity: 'nic0' });
      source.announce(VM);
      source.announce(SHARED);
      await world.until(() => network.stats.addresses === 2);
      source.park();
      await world.until(() => source.state === 'parked');
      for (const n of [1, 2]) peer.send([numbered(VM, PEER, n)], 64);
      await world.until(() => network.stats.ports[1]?.queued === 2);

      const [other, otherBox] = await world.joined(network, of === undefined ? {} : { identity: of });
      other.announce(OTHER);
      other.announce(SHARED);
      await world.settle();
      expect(source.state).toBe('parked');
      // A learning switch believes who spoke last.
      peer.send([numbered(SHARED, PEER, 3)], 64);
      peer.send([numbered(VM, PEER, 4)], 64);
      await world.until(() => otherBox.sequences.includes(3));
      const [destination, box] = await world.joined(network, { identity: 'nic0' });
      destination.announce(VM);
      await world.until(() => box.sequences.includes(4));
      const data = ({ frames }: typeof box) => frames.filter((frame) => frame.readUInt16BE(12) === 0x88b5);
      expect(data(box).map((frame) => frame.readUInt32BE(14))).toEqual([1, 2, 4]);
      expect(data(otherBox).map((frame) => frame.readUInt32BE(14))).toEqual([3]);
      expect([source.state, other.state, destination.state]).toEqual(['standby', 'active', 'active']);
    },
  );
});
