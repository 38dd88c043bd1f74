import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { SwitchPort } from '../../src/net/switch/client.ts';
import type { Switch } from '../../src/net/switch/switch.ts';
import { type Inbox, mac, NetWorld, numbered } from './net-world.ts';

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

test('a port that has been in charge since it was told to stand by follows again when its successor leaves', async () => {
  const network = world.makeSwitch();
  const [first] = await world.joined(network, { identity: 'nic0' });
  const [second] = await world.joined(network, { identity: 'nic0' });
  second.standby();
  const takeOver = async (from: SwitchPort, to: SwitchPort): Promise<void> => {
    from.park();
    await world.until(() => from.state === 'parked');
    to.activate();
    await world.until(() => to.state === 'active' && from.state === 'standby');
  };
  await takeOver(first, second);
  await takeOver(second, first);
  first.close();
  await world.until(() => network.stats.ports.length === 1);
  await world.settle();
  expect(second.state).toBe('active');
});

describe("a port's own limit of what may wait is the one of when it was not parked", () => {
  const FRAME_BYTES = 1500;
  const OWN = 40;
  const own = { frames: OWN, bytes: 1024 * 1024 };

  test('what comes while more is still waiting than the port may have finds room behind it', async () => {
    const network = world.makeSwitch({ queueLimits: { frames: 4, bytes: 1e6 } });
    const [peer] = await world.joined(network);
    const [source] = await world.joined(network, { identity: 'nic0' });
    source.send([numbered(PEER, VM, 0)], 64);
    await world.until(() => network.stats.addresses === 1);
    source.park();
    await world.until(() => source.state === 'parked');
    const [destination, box] = await world.joined(network, { identity: 'nic0' });
    box.room = false;
    // More than the socket takes at once.
    const length = 60_000;
    let next = 0;
    const send = async (count: number): Promise<void> => {
      for (let n = 0; n < count; n++) peer.send([numbered(VM, PEER, next++, length)], length);
      await world.settle();
    };
    while (next < 60) await send(10);
    destination.announce(VM);
    await world.until(() => network.stats.ports[2]?.state === 'active');
    expect(network.stats.ports[2]?.queued).toBeGreaterThan(4);
    await send(5);
    box.room = true;
    destination.ready();
    await world.until(() => box.sequences.length === next);
    expect(network.stats.ports.map(({ dropped, parkDropped }) => dropped + parkDropped)).toEqual([0, 0, 0]);
  });

  test.each([
    ['fewer', 16],
    ['more', 200],
  ])('when %s are kept for a parked one', async (_, parked) => {
    const network = world.makeSwitch({
      queueLimits: own,
      parkLimits: { frames: parked, bytes: 1024 * 1024 },
    });
    const [peer] = await world.joined(network);
    const joined = (): Promise<[SwitchPort, Inbox]> => world.joined(network, { identity: 'nic0' });
    const statsOf = (port: number) => network.stats.ports.find((stats) => stats.port === port);
    /** What waits at most for a port that takes nothing. */
    const limitOf = async (port: SwitchPort, box: Inbox, number: number): Promise<number> => {
      box.room = false;
      const dropped = statsOf(number)?.dropped ?? 0;
      while (statsOf(number)?.dropped === dropped) {
        peer.send([numbered(VM, PEER, 0, FRAME_BYTES)], FRAME_BYTES);
        world.reactor.turn(0);
      }
      const queued = statsOf(number)?.queued ?? 0;
      box.room = true;
      port.ready();
      await world.until(() => statsOf(number)?.queued === 0);
      await world.settle();
      return queued;
    };
    const fill = async (port: SwitchPort, number: number): Promise<void> => {
      port.park();
      await world.until(() => port.state === 'parked');
      for (let n = 0; n < parked; n++) peer.send([numbered(VM, PEER, n, FRAME_BYTES)], FRAME_BYTES);
      await world.until(() => statsOf(number)?.queued === parked);
    };

    const [source, sourceBox] = await joined();
    source.announce(VM);
    await world.until(() => network.stats.addresses === 1);
    expect(await limitOf(source, sourceBox, 1)).toBe(OWN);
    // Parked, and back in charge.
    await fill(source, 1);
    sourceBox.frames.length = 0;
    source.activate();
    await world.until(() => sourceBox.frames.length === parked);
    expect(await limitOf(source, sourceBox, 1)).toBe(OWN);
    // Another one takes over.
    await fill(source, 1);
    const [destination, box] = await joined();
    destination.announce(VM);
    await world.until(() => box.frames.length >= parked);
    expect(await limitOf(destination, box, 2)).toBe(OWN);
    expect(network.stats.ports.map(({ parkDropped }) => parkDropped)).toEqual([0, 0, 0]);
    // And the first one again, which has been in stand-by meanwhile.
    destination.close();
    await world.until(() => source.state === 'active');
    source.announce(VM);
    await world.settle();
    expect(await limitOf(source, sourceBox, 1)).toBe(OWN);
  });
});

describe('a port that is in stand-by of its own wish', () => {
  test('takes no place that becomes free: whoever comes back finds it so', async () => {
    const network = world.makeSwitch();
    const [source] = await world.joined(network, { identity: 'nic0' });
    const [destination, box] = await world.joined(network, { identity: 'nic0' });
    destination.standby();
    source.close();
    await world.until(() => network.stats.ports.length === 1);
    await world.settle();
    expect(destination.state).toBe('standby');
    const [again, againBox] = await world.joined(network, { identity: 'nic0' });
    expect(again.state).toBe('active');
    const [peer] = await world.joined(network);
    peer.send([numbered(VM, PEER, 1)], 64);
    await world.until(() => againBox.sequences.includes(1));
    // Until it wishes otherwise.
    destination.announce(VM);
    await world.until(() => again.state === 'standby');
    peer.send([numbered(VM, PEER, 2)], 64);
    await world.until(() => box.sequences.includes(2));
    // From now on it is one like any other.
    destination.close();
    await world.until(() => again.state === 'active');
  });

  test('is in charge if it said so while the switch was away', async () => {
    const first = world.makeSwitch();
    const [source] = await world.joined(first, { identity: 'nic0', reconnectMs: 1 });
    const [destination] = await world.joined(first, { identity: 'nic0', reconnectMs: 50 });
    destination.standby();
    await world.settle();
    first.close();
    await world.until(() => !source.linkUp && !destination.linkUp);
    destination.announce(VM);
    const second = world.makeSwitch();
    await world.until(() => second.stats.ports.length === 2);
    await world.settle();
    expect([source.state, destination.state]).toEqual(['standby', 'active']);
  });

  test('leaves its place to one that has come before it said so', async () => {
    const network = world.makeSwitch();
    const [destination] = await world.joined(network, { identity: 'nic0' });
    const [source] = await world.joined(network, { identity: 'nic0' });
    expect([destination.state, source.state]).toEqual(['active', 'standby']);
    destination.standby();
    await world.until(() => source.state === 'active');
    expect(destination.state).toBe('standby');
  });
});

describe('a cable pulled at the switch', () => {
  const stateOf = (network: Switch) => network.stats.ports.map(({ link }) => link);

  test.each([
    ['its identity', 'nic0'],
    ['the name of one of its ports', 'old place'],
  ])('by %s stays pulled when the NIC moves', async (_, name) => {
    const network = world.makeSwitch();
    const [peer] = await world.joined(network);
    const [source] = await world.joined(network, { identity: 'nic0', name: 'old place' });
    source.announce(VM);
    network.setLink(name, false);
    source.park();
    const [destination, box] = await world.joined(network, { identity: 'nic0', name: 'new place' });
    expect(destination.linkUp).toBe(false);
    destination.announce(VM);
    await world.settle();
    source.close();
    await world.until(() => network.stats.ports.length === 2);
    expect(stateOf(network)).toEqual([true, false]);
    expect(destination.send([numbered(PEER, VM, 1)], 64)).toBe(false);
    network.setLink('nic0', true);
    await world.until(() => destination.linkUp);
    peer.send([numbered(VM, PEER, 2)], 64);
    await world.until(() => box.sequences.includes(2));
    expect(box.sequences).toEqual([2]);
  });

  test('is pulled for a port in stand-by, too, and plugged in again', async () => {
    const network = world.makeSwitch();
    const [source] = await world.joined(network, { identity: 'nic0' });
    const [destination] = await world.joined(network, { identity: 'nic0' });
    const [other] = await world.joined(network, { identity: 'nic1' });
    network.setLink('nic0', false);
    await world.until(() => !source.linkUp && !destination.linkUp);
    expect(other.linkUp).toBe(true);
    network.setLink('nic0', true);
    await world.until(() => source.linkUp && destination.linkUp);
  });

  test('stays pulled while nobody has that identity, when it can be plugged in, too', async () => {
    const network = world.makeSwitch();
    const come = async (): Promise<SwitchPort> => (await world.joined(network, { identity: 'nic0' }))[0];
    const leave = async (port: SwitchPort): Promise<void> => {
      port.close();
      await world.until(() => network.stats.ports.length === 0);
    };
    const first = await come();
    network.setLink('nic0', false);
    await leave(first);
    const second = await come();
    expect(second.linkUp).toBe(false);
    await leave(second);
    network.setLink('nic0', true);
    expect((await come()).linkUp).toBe(true);
  });

  test('of ports that say no identity is theirs alone', async () => {
    const network = world.makeSwitch();
    const [first] = await world.joined(network, { name: 'first' });
    const [second] = await world.joined(network, { name: 'second' });
    network.setLink('first', false);
    await world.until(() => !first.linkUp);
    expect(second.linkUp).toBe(true);
    first.close();
    await world.until(() => network.stats.ports.length === 1);
    expect(() => network.setLink('first', true)).toThrow(/no port "first"/);
    expect((await world.joined(network, { name: 'first again' }))[0].linkUp).toBe(true);
  });
});
