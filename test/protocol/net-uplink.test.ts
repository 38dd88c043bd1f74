import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openPort } from '../../src/net/index.ts';
import { TestPeer } from '../../src/net/testing/test-peer.ts';
import { canUseTaps, TestNet } from '../../src/net/testnet.ts';
import { inbox, mac, NetWorld, numbered } from './net-world.ts';

let world: NetWorld;
beforeEach(() => {
  world = new NetWorld();
});
afterEach(() => world.close());

const VM = { mac: '52:54:00:00:00:01', ip: '10.77.0.2' };

describe('uplinks of the switch', () => {
  test('a stream peer and a port of the switch talk; the VM moves and the peer notices nothing', async () => {
    const network = world.makeSwitch();
    const stream = `stream:unix:${world.path('uplink')}`;
    network.addUplink(openPort(`${stream},server`, world), 'peer');
    const far = world.own(openPort(stream, world));
    await world.until(() => far.linkUp);
    const pongs: number[] = [];
    const peer = new TestPeer(
      far,
      { mac: '52:54:00:00:00:02', ip: '10.77.0.1' },
      { pong: (n) => pongs.push(n) },
    );
    const [source] = await world.joined(network, { identity: 'nic0' });
    new TestPeer(source, VM);
    peer.ping(VM.ip, 0);
    await world.until(() => pongs.length === 1);
    source.park();
    await world.settle();
    for (const n of [1, 2, 3]) peer.ping(VM.ip, n);
    await world.settle();
    expect(pongs).toEqual([0]);
    const destination = world.own(openPort(`switch:${world.path('sw')},id=nic0`, world));
    new TestPeer(destination, VM);
    destination.announce(mac(1));
    await world.until(() => pongs.length === 4);
    expect(pongs).toEqual([0, 1, 2, 3]);
  });

  test("a device's exception is the device's: the port lives, and the loop's owner hears of it", async () => {
    const network = world.makeSwitch();
    const [a] = await world.joined(network);
    const [b] = await world.joined(network);
    let calls = 0;
    b.receive(() => {
      calls++;
      throw new Error('device bug');
    });
    a.send([numbered(mac(2), mac(1), 1)], 64);
    while (calls === 0) world.reactor.turn(5);
    await world.settle();
    expect(world.errors.splice(0).map(String)).toEqual(['Error: device bug']);
    const box = inbox(b);
    a.send([numbered(mac(2), mac(1), 2)], 64);
    await world.until(() => box.frames.length === 1);
    expect(box.sequences).toEqual([2]);
    expect([b.linkUp, calls]).toEqual([true, 1]);
  });

  test('frames that an uplink refuses are dropped, and not sent', async () => {
    const network = world.makeSwitch();
    const stream = `stream:unix:${world.path('uplink')}`;
    const peer = openPort(`${stream},server`, world);
    network.addUplink(peer, 'peer');
    const uplink = () => network.stats.ports[0];
    const [vm] = await world.joined(network);
    const length = 100;
    const send = (count: number): void => {
      for (let n = 0; n < count; n++) vm.send([numbered(mac(2), mac(1), n, length)], length);
    };
    send(11);
    await world.until(() => uplink()?.dropped === 11);
    expect(uplink()).toMatchObject({ outFrames: 0, outBytes: 0 });
    const far = world.own(openPort(stream, world));
    const box = inbox(far);
    await world.until(() => peer.linkUp);
    send(3);
    await world.until(() => box.frames.length === 3);
    expect(uplink()).toMatchObject({ dropped: 11, outFrames: 3, outBytes: 3 * length });
  });

  const able = canUseTaps();
  test.skipIf(!able.ok)(
    `a Linux host behind a tap uplink keeps pinging a VM that moves${able.ok ? '' : ` (skipped: ${able.reason})`}`,
    async () => {
      const net = await TestNet.create({ taps: 1 });
      try {
        const network = world.makeSwitch();
        const uplink = openPort(net.tapSpec(0), world);
        network.addUplink(uplink, 'host');
        await world.until(() => uplink.linkUp);
        const [source] = await world.joined(network, { identity: 'nic0' });
        const first = new TestPeer(source, VM);
        first.ping(net.address, 1);
        await world.until(() => network.stats.addresses === 2);
        source.park();
        const [destination] = await world.joined(network, { identity: 'nic0' });
        const pongs: number[] = [];
        const second = new TestPeer(destination, VM, { pong: (n) => pongs.push(n) });
        destination.announce(second.mac);
        second.ping(net.address, 2);
        await world.until(() => pongs.includes(2));
      } finally {
        world.close();
        await net.close();
        world = new NetWorld();
      }
    },
  );
});
