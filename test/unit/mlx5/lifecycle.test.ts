import { describe, expect, it } from 'vitest';
import { Mlx5Device } from '../../../device-models/mlx5/index.ts';
import { queueState } from '../../../device-models/mlx5/work-queue.ts';
import { CommandFailed, FakeDriver } from './driver.ts';
import { FakeHost, FakePort } from './fake-host.ts';
import { buildFrame } from './frames.ts';
import { type Bench, bench, running, testMac } from './setup.ts';

describe('life of a driver', () => {
  it('probes, goes up, sends, receives, goes down and leaves nothing', () => {
    const { host, port, device, driver } = bench(3);
    driver.probe(3);
    expect(driver.mac.toString('hex')).toBe(testMac.replaceAll(':', ''));
    driver.up(2);
    const frame = buildFrame({ dst: Buffer.from('020000000009', 'hex'), src: driver.mac });
    driver.send(frame, { l3: true, l4: true });
    driver.poll();
    expect(port.sent).toEqual([frame]);
    expect(driver.completions.some((cqe) => cqe[0x3f] !== undefined && cqe[0x3f] >>> 4 === 0)).toBe(true);
    const answer = buildFrame({ dst: driver.mac, payload: Buffer.from('hello') });
    expect(port.inject(answer)).toBe(true);
    driver.poll();
    expect(driver.received.map((got) => got.frame)).toEqual([answer]);
    driver.down();
    driver.remove();
    const { core } = device;
    expect(core.cqs.table.size + core.eqs.table.size + core.sqs.table.size + core.rqs.table.size).toBe(0);
    expect(host.fired.length).toBeGreaterThan(0);
    // Again, as after unbind and bind.
    driver.probe(3);
    driver.up(1);
    port.inject(answer);
    driver.poll();
    expect(driver.received).toHaveLength(2);
  });

  it.each([1, 2, 3, 9])('works with %i vectors', (vectors) => {
    const { driver, port } = bench(vectors);
    driver.probe(vectors);
    driver.up(Math.max(1, vectors - 1));
    port.inject(buildFrame({ dst: driver.mac }));
    driver.poll();
    expect(driver.received).toHaveLength(1);
  });

  it('starts from nothing for a kernel that finds the device in use, as one that dumps a crashed one', () => {
    const { host, device, port, driver } = running();
    const { core } = device;
    const objects = () =>
      [core.eqs, core.cqs, core.sqs, core.rqs, core.mkeys, core.steering].map((part) =>
        'tables' in part ? part.tables.size : part.table.size,
      );
    const before = objects();
    core.function.give(0x5000);
    const next = new FakeDriver(host, device);
    // In memory of its own.
    next.alloc(2 * 1024 * 1024);
    next.probe(3);
    next.up(1);
    expect(objects()).toEqual(before);
    expect(core.function.pages).toEqual([]);
    const frame = buildFrame({ dst: next.mac });
    port.inject(frame);
    driver.poll();
    next.poll();
    expect([driver.received.length, next.received.map((got) => got.frame)]).toEqual([0, [frame]]);
    next.send(frame);
    expect(port.sent).toEqual([frame]);
  });

  it('enables no other function, and leaves this one alone then', () => {
    const { device, driver } = running();
    const input = Buffer.alloc(16);
    input.writeUInt16BE(1, 10);
    expect(() => driver.command('ENABLE_HCA', input, 12)).toThrow(CommandFailed);
    expect(device.core.sqs.table.size).toBe(2);
  });

  it('starts from nothing after a function level reset', () => {
    const { device, driver, port } = running();
    device.reset('flr');
    expect(device.core.eqs.table.size).toBe(0);
    expect(port.inject(buildFrame({ dst: driver.mac }))).toBe(true);
    driver.eventMode = false;
    driver.eqs = { comp: [] };
    driver.channels = [];
    driver.groups.ttc = [];
    driver.groups.l2 = [];
    driver.groups.vlan = [];
    driver.probe(3);
    driver.up(1);
    port.inject(buildFrame({ dst: driver.mac }));
    driver.poll();
    expect(driver.received).toHaveLength(1);
  });

  it('refuses an address that is none, and makes one up when it is given none', () => {
    const make = (mac: string) => new Mlx5Device(new FakeHost(), { vectors: 2, mac }, new FakePort());
    for (const mac of ['52:54:00', '01:00:5e:00:00:01', 'zz:54:00:12:34:56'])
      expect(() => make(mac)).toThrow(mac);
    const [first = 0] = make('').core.vport.mac;
    expect(first & 3).toBe(2);
  });

  it('answers register reads of any width from plain state', () => {
    const { device, driver, host } = bench();
    expect(driver.read32(0)).toBe(0x00230010);
    expect(driver.read32(4) >>> 16).toBe(5);
    expect(driver.read32(0x14) & 0xff).toBe(0x56);
    expect(driver.read32(0x1fc)).toBe(0);
    const byte = Buffer.alloc(1);
    device.bars[0].read(0x238, 1, byte, 0);
    expect(byte[0]).toBe(0);
    const before = driver.read32(0x1010);
    host.advance(2_000_000_000);
    expect(driver.read32(0x1010)).not.toBe(before);
    expect(driver.read32(0x1004)).toBe(2_000_000_000);
  });

  it('fails one send when an operator asks for it', () => {
    const { device, driver, port } = running();
    expect(device.operations.injectSendError()).toEqual({});
    const frame = buildFrame({ dst: driver.mac });
    driver.send(frame);
    driver.send(frame);
    expect(port.sent).toEqual([]);
  });

  it('works with memory that is reached by messages only', () => {
    const { host, driver, port } = bench(3);
    host.dma.messageOnly = true;
    driver.probe(3);
    driver.up(1);
    const frame = buildFrame({ dst: driver.mac, payload: Buffer.alloc(900, 7) });
    port.inject(frame);
    driver.poll();
    expect(driver.received.map((got) => got.frame)).toEqual([frame]);
    driver.send(frame, { l3: true, l4: true, pieces: [300, 300] });
    expect(port.sent).toEqual([frame]);
  });

  it('does what waited for it once a client that has it run, and whose memory it asks for, has its answer', () => {
    const { host, device, driver, port } = running();
    const frame = buildFrame({ dst: driver.mac, payload: Buffer.alloc(900, 7) });
    host.dma.messageOnly = true;
    host.mayInitiate = false;
    device.quiesce();
    driver.send(frame);
    port.inject(frame);
    const command = driver.post('NOP', Buffer.alloc(16), 16, 0, 1);
    host.mayInitiate = true;
    host.dma.clientWaits = true;
    host.holdsDeferred = true;
    device.resume();
    host.dma.clientWaits = false;
    host.runDeferred();
    host.holdsDeferred = false;
    driver.poll();
    expect(port.sent).toEqual([frame]);
    expect(driver.received.map((got) => got.frame)).toEqual([frame]);
    driver.finish('NOP', 1, 16, command.outputs, false, driver.events.length);
    expect(driver.querySqState(driver.channels[0]?.tx ?? expect.fail('no queue'))).toBe(queueState.RDY);
  });

  const withoutMaster: readonly [string, (made: Bench) => void][] = [
    ['a link that goes', ({ port }) => port.setLink(false)],
    [
      'a completion that was there when its CQ was armed',
      ({ device, driver }) => {
        const cq = device.core.cqs.table.get(driver.channels[0]?.rx.cq.cqn ?? 0);
        device.core.cqs.arm(cq.id, cq.pi - 1, false);
      },
    ],
    [
      'a completion whose moderation ends',
      ({ host, device, driver }) => {
        const cq = device.core.cqs.table.get(driver.channels[0]?.rx.cq.cqn ?? 0);
        cq.period = 50;
        cq.lastEvent = host.now();
        host.pci.busMaster = true;
        device.core.cqs.arm(cq.id, cq.pi - 1, false);
        host.pci.busMaster = false;
        host.advance(100_000);
      },
    ],
    [
      'an EQ that is armed with something in it',
      ({ device, driver }) => {
        const { eqn = 0, ci = 0 } = driver.eqs.comp[0] ?? {};
        device.core.eqs.doorbell(eqn, ci - 1, true);
      },
    ],
  ];
  it.each(withoutMaster)(
    'sends no event and no interrupt without bus mastering, but afterwards: %s',
    (_what, act) => {
      const made = running();
      const { host, device, driver, port } = made;
      port.inject(buildFrame({ dst: driver.mac }));
      driver.poll();
      host.pci.busMaster = false;
      const { eqs } = device.core;
      const entries = () => [...eqs.table.values()].reduce((sum, eq) => sum + eq.pi, 0);
      const before = { entries: entries(), fired: host.fired.length };
      act(made);
      // Nor when it runs again after a pause, and mastering is still off.
      device.quiesce();
      device.resume();
      expect({ entries: entries(), fired: host.fired.length }).toEqual(before);
      host.pci.busMaster = true;
      device.commandChanged();
      expect(host.fired.length).toBe(before.fired + 1);
      device.commandChanged();
      expect(host.fired.length).toBe(before.fired + 1);
    },
  );

  it('reports link changes by event, and while it may not initiate, afterwards', () => {
    const { host, device, driver, port } = running();
    const isLink = (event: { type: number }) => event.type === 9;
    port.setLink(false);
    driver.poll();
    expect(driver.events.filter(isLink).map((event) => event.subType)).toEqual([1]);
    expect(driver.events.find(isLink)?.data[8]).toBe(0x10);
    host.mayInitiate = false;
    port.setLink(true);
    driver.poll();
    expect(driver.events.filter(isLink)).toHaveLength(1);
    host.mayInitiate = true;
    device.resume();
    driver.poll();
    expect(driver.events.filter(isLink).map((event) => event.subType)).toEqual([1, 4]);
  });
});
