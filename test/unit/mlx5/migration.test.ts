import { pack, unpack } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { stateVersions } from '../../../device-models/mlx5/migration/device-state.ts';
import * as prm from '../../../device-models/mlx5/prm/index.ts';
import { type StateRecord, StateRefused } from '../../../src/device/index.ts';
import type { FakeDriver } from './driver.ts';
import { FakeHost } from './fake-host.ts';
import { broadcast, buildFrame } from './frames.ts';
import { type Bench, bench, running, testMac } from './setup.ts';

/** A record as it arrives: packed and unpacked. */
function travel(record: StateRecord): StateRecord {
  return unpack(pack(record)) as StateRecord;
}

function stop(source: Bench): void {
  source.host.mayInitiate = false;
  source.device.quiesce();
}

/** Age of a device in cycles, exactly. */
function age(of: Bench): bigint {
  const { high, low } = of.device.core.clock.cycles();
  return (BigInt(high) << 32n) | BigInt(low);
}

/** The saved device, with another section of that name. */
function changed(
  records: Iterable<StateRecord>,
  section: string,
  change: (value: Record<string, unknown>) => Record<string, unknown>,
): StateRecord[] {
  return [...records].map((record) =>
    record.section === section && 'value' in record
      ? { section, value: change(record.value as Record<string, unknown>) }
      : record,
  );
}

/** Counters of a saved device, with other packets received at its port. */
function withPackets({ counters }: Record<string, unknown>, packets: number[]): object {
  const { portRx } = counters as { portRx: object };
  return { ...(counters as object), portRx: { ...portRx, packets } };
}

/** A destination with the source's memory, held, that has loaded `records`. */
function destination(
  source: Bench,
  records: Iterable<StateRecord>,
  version: number = stateVersions.current,
  mac?: string,
): Bench {
  const host = new FakeHost(source.host.dma);
  host.mayInitiate = false;
  host.time = 77;
  const made = bench(source.device.core.vectors, host, mac);
  made.device.reset('client');
  made.device.migration.beginLoad(version);
  for (const record of records) made.device.migration.load(travel(record));
  made.device.migration.endLoad();
  return made;
}

/** The guest, with all that it remembers, finds itself at the destination. */
function moveDriver(source: Bench, to: Bench): FakeDriver {
  return Object.assign(source.driver, { host: to.host, device: to.device });
}

function resume(to: Bench): void {
  to.host.mayInitiate = true;
  to.device.resume();
}

describe('migration', () => {
  it('carries a running device: traffic, queues and counters go on', () => {
    const source = running(2);
    const frame = buildFrame({ dst: source.driver.mac, payload: Buffer.alloc(100, 1) });
    for (let index = 0; index < 10; index++) source.port.inject(frame);
    source.driver.send(buildFrame({ dst: broadcast, src: source.driver.mac, payload: Buffer.alloc(100, 1) }));
    source.driver.poll();
    stop(source);
    const cycles = age(source);
    const to = destination(source, source.device.migration.save());
    expect(age(to)).toBe(cycles);
    const driver = moveDriver(source, to);
    resume(to);
    expect(to.port.announced).toContain(driver.mac.toString('hex'));
    for (let index = 0; index < 10; index++) to.port.inject(frame);
    driver.poll();
    driver.send(frame);
    driver.poll();
    expect(driver.received).toHaveLength(20);
    expect(to.port.sent).toEqual([frame]);
    expect(driver.stats().ieee.readUInt32BE(0x10 + 8 + 12)).toBe(20);
    driver.down();
    driver.up(2);
    driver.down();
    driver.remove();
    driver.probe(4);
    driver.up(1);
  });

  it('saves the same after a load as before it', () => {
    const source = running(2);
    source.port.inject(buildFrame({ dst: source.driver.mac }));
    stop(source);
    const records = [...source.device.migration.save()].map(travel);
    const bytes = Buffer.concat(records.map((record) => pack(record)));
    const to = destination(source, records);
    source.host.advance(5e9);
    to.host.advance(6e9);
    for (const again of [source, to]) {
      const saved = [...again.device.migration.save()];
      expect(saved.map(travel)).toEqual(records);
      expect(Buffer.concat(saved.map((record) => pack(travel(record)))).equals(bytes)).toBe(true);
    }
  });

  it('stops the clock while the device stands still, and goes on without a jump', () => {
    const source = running();
    const { clock } = source.device.core;
    source.host.advance(3_000_000_001);
    stop(source);
    const before = age(source);
    const health = clock.healthCounter();
    source.host.advance(2e9);
    expect(age(source)).toBe(before);
    const to = destination(source, source.device.migration.save());
    const there = to.device.core.clock;
    to.host.advance(7e9);
    expect([age(to), there.healthCounter()]).toEqual([before, health]);
    resume(to);
    expect(age(to)).toBe(before);
    to.host.advance(5);
    expect(age(to)).toBe(before + 5n);
    // A migration that did not happen: the source goes on the same way.
    resume(source);
    source.host.advance(6);
    expect(age(source)).toBe(before + 6n);
  });

  it.each([2n ** 32n - 1n, 2n ** 53n + 1n, 2n ** 60n + 2n ** 32n - 1n, 2n ** 64n - 1n])(
    'carries a clock at %i cycles, exactly',
    (old) => {
      const source = running();
      stop(source);
      source.device.core.clock.freezeAt({ high: Number(old >> 32n), low: Number(old & 0xffffffffn) });
      const to = destination(source, source.device.migration.save());
      expect(age(to)).toBe(old);
      const driver = moveDriver(source, to);
      resume(to);
      to.host.advance(3);
      const later = (old + 3n) % 2n ** 64n;
      expect(age(to)).toBe(later);
      expect([driver.read32(0x1000), driver.read32(0x1004)].map(BigInt)).toEqual([
        later >> 32n,
        later & 0xffffffffn,
      ]);
      to.port.inject(buildFrame({ dst: driver.mac }));
      driver.poll();
      expect(driver.received[0]?.cqe.readBigUInt64BE(0x30)).toBe(later);
      to.host.advance(2 ** 33 + 5);
      expect(age(to)).toBe((later + 2n ** 33n + 5n) % 2n ** 64n);
    },
  );

  it('loads version 1 of the state, which had the clock in one number and no factory address', () => {
    const source = running();
    stop(source);
    const other = '52:54:00:aa:bb:cc';
    const one = (cycles: unknown) => {
      const records = changed(source.device.migration.save(), 'device', (value) => {
        const { factoryMac: _, ...vport } = value.vport as Record<string, unknown>;
        return { ...value, cycles, vport };
      });
      return destination(source, records, stateVersions.first, other);
    };
    const loaded = one(2 ** 40 + 7);
    expect(age(loaded)).toBe(2n ** 40n + 7n);
    const mac = () => Buffer.from(loaded.device.core.vport.mac).toString('hex');
    expect(mac()).toBe(testMac.replaceAll(':', ''));
    resume(loaded);
    loaded.device.reset('client');
    expect(mac()).toBe(other.replaceAll(':', ''));
    for (const cycles of [2 ** 53, -1, 0.5, { high: 1, low: 1 }])
      expect(() => one(cycles)).toThrow(StateRefused);
    expect(() => destination(source, source.device.migration.save(), stateVersions.first)).toThrow(
      StateRefused,
    );
  });

  it("keeps the card's address through resets at a destination that was started with another", () => {
    const other = '52:54:00:aa:bb:cc';
    const hex = (mac: Uint8Array) => Buffer.from(mac).toString('hex');
    const source = running();
    source.device.core.vport.mac = Uint8Array.from([2, 0, 0, 0, 0, 1]);
    stop(source);
    const records = [...source.device.migration.save()];
    const to = destination(source, records, stateVersions.current, other);
    const { vport } = to.device.core;
    expect(hex(vport.mac)).toBe('020000000001');
    resume(to);
    for (const kind of ['flr', 'client', 'power'] as const) {
      to.device.reset(kind);
      expect(hex(vport.mac)).toBe(testMac.replaceAll(':', ''));
    }
    // And on, to a third server.
    const third = destination(to, to.device.migration.save(), stateVersions.current, '52:54:00:dd:ee:ff');
    resume(third);
    third.device.reset('client');
    expect(hex(third.device.core.vport.mac)).toBe(testMac.replaceAll(':', ''));
    // A card that never ran here has not moved in: the migration was given up, or its state refused.
    const givenUp = destination(source, records, stateVersions.current, other);
    givenUp.device.reset('client');
    resume(givenUp);
    expect(hex(givenUp.device.core.vport.mac)).toBe(other.replaceAll(':', ''));
    const { migration } = givenUp.device;
    migration.beginLoad(stateVersions.current);
    for (const record of changed(records, 'device', (value) => ({ ...value, steeringRoot: 4242 })))
      migration.load(travel(record));
    expect(() => migration.endLoad()).toThrow(StateRefused);
    resume(givenUp);
    expect(hex(givenUp.device.core.vport.mac)).toBe(other.replaceAll(':', ''));
  });

  it('announces the addresses that its driver uses, in its order, or the permanent one when it lists none', () => {
    const source = running();
    const permanent = source.driver.mac.toString('hex');
    let vlans: number[] = [];
    let known = true;
    const announced = (...inUse: number[]) => {
      source.device.core.vport.lists = [inUse, [], vlans];
      source.device.core.vport.known = known;
      const to = destination(source, source.device.migration.save());
      resume(to);
      return to.port.announced;
    };
    stop(source);
    expect(announced()).toEqual([permanent]);
    expect(announced(0x020000000001, Number.parseInt(permanent, 16))).toEqual(['020000000001', permanent]);
    expect(announced(0x020000000009, 0x020000000001)).toEqual(['020000000009', '020000000001']);
    // Its interface's own in the VLANs that it uses, too.
    vlans = [0, 5, 4094];
    expect(announced(0x020000000009, 0x020000000001)).toEqual([
      '020000000009',
      '020000000001',
      '020000000009 in 5',
      '020000000009 in 4094',
    ]);
    // Its own may be at another card now; others are not its own.
    known = false;
    expect(announced(0x020000000009, 0x020000000001)).toEqual(['020000000001']);
  });

  describe('of two cards with one address, as those of a bond', () => {
    const own = '020000000007';
    const ownFrame = buildFrame({ dst: broadcast, src: Buffer.from(own, 'hex') });

    /** What the destination announces of a card to which `happens`. */
    function announcedAfter(happens: (card: Bench) => void): string[] {
      const source = running();
      source.device.core.vport.lists = [[Number.parseInt(own, 16)], [], []];
      happens(source);
      stop(source);
      const to = destination(source, source.device.migration.save());
      resume(to);
      expect(to.port.activated).toBe(1);
      return to.port.announced;
    }
    const speak = ({ driver }: Bench) => driver.send(ownFrame);

    it('announces the one that spoke last: the address of the active one was taken away from it', () => {
      expect(announcedAfter(speak)).toEqual([own]);
      expect(announcedAfter(() => {})).toEqual([]);
      const lacp = Buffer.from('0180c2000002', 'hex');
      expect(
        announcedAfter(({ driver }) => driver.send(buildFrame({ dst: lacp, src: Buffer.from(own, 'hex') }))),
      ).toEqual([]);
      expect(
        announcedAfter((card) => {
          speak(card);
          card.port.inject(ownFrame);
        }),
      ).toEqual([]);
      expect(
        announcedAfter((card) => {
          card.port.inject(ownFrame);
          speak(card);
          card.port.inject(buildFrame({ dst: broadcast }));
        }),
      ).toEqual([own]);
    });

    it.each<[string, (card: Bench) => void]>([
      ['link has failed', ({ port }) => port.setLink(false)],
      ['port was taken down', ({ driver }) => driver.down()],
    ])('announces none whose %s, for another one may speak meanwhile unheard', (_what, happens) => {
      const announced = announcedAfter((card) => {
        speak(card);
        happens(card);
      });
      expect(announced).not.toContain(own);
    });

    it('announces none whose frames went nowhere', () => {
      const announced = announcedAfter((card) => {
        card.port.accepting = false;
        speak(card);
      });
      expect(announced).toEqual([]);
    });

    it('announces none that has got the address and not used it yet', () => {
      expect(
        announcedAfter((card) => {
          card.driver.send(buildFrame({ dst: broadcast, src: card.driver.mac }));
        }),
      ).toEqual([]);
    });
  });

  it('executes at the destination what was begun and not done: commands, doorbells, frames', () => {
    const source = running();
    const { driver } = source;
    const frame = buildFrame({ dst: driver.mac });
    const sq = driver.channels[0]?.tx;
    if (sq === undefined) throw new Error('no queue');
    stop(source);
    driver.build(sq, frame);
    driver.ring(sq);
    const seen = driver.events.length;
    const posted = driver.post('QUERY_VPORT_STATE', Buffer.alloc(16), 16, 0, 3);
    expect(source.port.inject(frame)).toBe(false);
    source.port.setLink(false);
    expect(source.port.sent).toEqual([]);
    const fired = source.host.fired.length;
    const to = destination(source, source.device.migration.save());
    expect(source.host.fired.length).toBe(fired);
    moveDriver(source, to);
    resume(to);
    expect(to.port.sent).toEqual([frame]);
    driver.poll();
    const output = driver.finish('QUERY_VPORT_STATE', 3, 16, posted.outputs, true, seen);
    expect(output[0xf]).toBe(0x11);
    to.port.inject(frame);
    driver.poll();
    expect(driver.received).toHaveLength(1);
  });

  it('fires at the destination what armed queues have waiting', () => {
    const source = running();
    const { driver } = source;
    const frame = buildFrame({ dst: driver.mac });
    source.port.inject(frame);
    const eq = [...source.device.core.eqs.table.values()].find((entry) => !entry.armed);
    expect(eq).toBeDefined();
    stop(source);
    // The driver drains and re-arms its EQ while the device may not act; nothing is lost.
    source.driver.poll();
    const to = destination(source, source.device.migration.save());
    moveDriver(source, to);
    resume(to);
    for (let index = 0; index < 3; index++) {
      const before = to.host.fired.length;
      to.port.inject(frame);
      expect(to.host.fired.length).toBe(before + 1);
      driver.poll();
    }
    expect(driver.received).toHaveLength(4);
  });

  it('carries whatever address a command has taken, up to the last', () => {
    const source = running();
    const { driver } = source;
    const last = Number.MAX_SAFE_INTEGER;
    const cq = Buffer.alloc(280);
    prm.cqc.set(cq, 'uar_page', driver.uar, 16);
    prm.cqc.set(cq, 'c_eqn_or_apu_element', driver.eqs.comp[0]?.eqn ?? 0, 16);
    prm.cqc.set64(cq, 'dbr_addr', last - 15, 16);
    driver.command('CREATE_CQ', cq);
    const sq = Buffer.alloc(280);
    prm.sqc.set(sq, 'cqn', driver.channels[0]?.tx.cq.cqn ?? 0, 0x20);
    prm.wq.set(sq, 'wq_type', 1, 0x50);
    prm.wq.set(sq, 'log_wq_stride', 6, 0x50);
    prm.wq.set64(sq, 'dbr_addr', last - 15, 0x50);
    prm.wq.set(sq, 'uar_page', driver.uar, 0x50);
    driver.command('CREATE_SQ', sq);
    for (const [start, length] of [
      [0, last],
      [last, 0],
      [2 ** 52, 2 ** 52 - 1],
    ] as const) {
      const mkey = Buffer.alloc(272);
      prm.mkc.set64(mkey, 'start_addr', start, 16);
      prm.mkc.set64(mkey, 'len', length, 16);
      driver.command('CREATE_MKEY', mkey);
    }
    stop(source);
    const saved = [...source.device.migration.save()].map(travel);
    const to = destination(source, saved);
    expect([...to.device.migration.save()].map(travel)).toEqual(saved);
  });

  it('reports commands at the destination where the source does, with two EQs for that, whichever is older', () => {
    const source = running();
    const { driver, device } = source;
    driver.eventMode = false;
    device.core.eqs.table.next = 127;
    const older = driver.createEq(6, 0x400, 0);
    const newer = driver.createEq(6, 0x400, 0);
    expect(newer.eqn).toBeLessThan(older.eqn);
    stop(source);
    const to = destination(source, device.migration.save());
    expect(to.device.core.eqs.commandEq?.id).toBe(device.core.eqs.commandEq?.id);
  });

  it('carries an error that an operator has asked for', () => {
    const source = running();
    source.device.injectSendError();
    stop(source);
    const to = destination(source, source.device.migration.save());
    const driver = moveDriver(source, to);
    resume(to);
    const sq = driver.channels[0]?.tx;
    if (sq === undefined) throw new Error('no queue');
    driver.send(buildFrame({ dst: driver.mac }));
    expect(to.port.sent).toEqual([]);
    expect(driver.querySqState(sq)).toBe(3);
  });

  it('takes no more of what was kept for the guest than it has buffers for, and loses none of it', () => {
    const source = running();
    const frame = buildFrame({ dst: source.driver.mac });
    while (source.port.inject(frame));
    stop(source);
    // The network keeps what comes meanwhile: more than a ring holds.
    for (let more = 0; more < 200; more++) expect(source.port.inject(frame)).toBe(false);
    const to = destination(source, source.device.migration.save());
    const driver = moveDriver(source, to);
    to.port.kept.push(...source.port.kept);
    const kept = to.port.kept.length;
    resume(to);
    // The guest has not refilled its ring yet, and is not given a processor for a while.
    to.host.advance(1_000_000_000);
    expect(to.port.kept).toHaveLength(kept);
    driver.received.length = 0;
    for (let turn = 0; turn < 10; turn++) {
      driver.poll();
      to.host.advance(50_000_000);
    }
    expect(to.port.kept).toEqual([]);
    expect(driver.received.length).toBeGreaterThanOrEqual(kept);
    expect(to.device.core.counters.events.rxOutOfBuffer).toBe(0);
  });

  it('takes a change as often as one comes in a precopy that goes on for hours', () => {
    const source = running();
    stop(source);
    const records = [...source.device.migration.save()];
    const often = records.find(({ section }) => section === 'pd') ?? expect.fail('no record');
    const { migration, core } = bench(source.device.core.vectors).device;
    migration.beginLoad(stateVersions.current);
    for (let left = 250_000; left > 0; left--) migration.load(often);
    for (const record of records) migration.load(record);
    migration.endLoad();
    expect(core.pds.size).toBe(source.device.core.pds.size);
  });

  it('sends everything first while it runs, then only what has changed', () => {
    const source = running(2);
    const { driver } = source;
    const session = source.device.migration.preCopy();
    const records: StateRecord[] = [];
    const drain = () => {
      const start = records.length;
      for (let record = session.next(); record !== undefined; record = session.next())
        records.push(travel(record));
      return records.slice(start);
    };
    expect(session.initialBytes()).toBeGreaterThan(0);
    expect(session.dirtyBytes()).toBe(0);
    drain();
    expect(session.initialBytes()).toBe(0);
    driver.send(buildFrame({ dst: driver.mac }));
    driver.poll();
    expect(session.dirtyBytes()).toBe(0);
    driver.addVlan(9);
    expect(session.dirtyBytes()).toBeGreaterThan(0);
    expect(drain().map((record) => record.section)).toEqual(['flow_table']);
    driver.down();
    driver.up(1);
    const sections = new Set(drain().map((record) => record.section));
    expect(sections).toContain('gone');
    expect(sections).toContain('rqt');
    expect(sections).not.toContain('mkey');
    driver.addVlan(10);
    stop(source);
    const final = [...session.final()].map(travel);
    expect(final.map((record) => record.section)).toEqual(['flow_table', 'ids', 'progress', 'device']);
    session.end();
    const to = destination(source, [...records, ...final]);
    to.host.time = 77;
    const settle = (of: Bench) => {
      const entries = [...of.device.migration.save()].map(travel);
      // The clocks of the two sides go on by themselves.
      const kept = entries.filter((record) => record.section !== 'device') as { value: { id?: number } }[];
      return kept.sort((a, b) => (a.value.id ?? 0) - (b.value.id ?? 0));
    };
    expect(settle(to)).toEqual(expect.arrayContaining(settle(source)));
    moveDriver(source, to);
    resume(to);
    to.port.inject(buildFrame({ dst: driver.mac, vlan: { type: 0x8100, tci: 10 } }));
    driver.poll();
    expect(driver.received).toHaveLength(1);
  });

  it('takes the place of all that a device had that ran another guest before', () => {
    const source = running(1, 4);
    stop(source);
    const records = [...source.device.migration.save()].map(travel);
    const other = running(2, source.device.core.vectors);
    for (const vlan of [7, 8, 9]) other.driver.addVlan(vlan);
    stop(other);
    const { migration } = other.device;
    migration.beginLoad(stateVersions.current);
    for (const record of records) migration.load(travel(record));
    migration.endLoad();
    expect([...migration.save()].map(travel)).toEqual(records);
  });

  it('migrates at any step of a probe', () => {
    const reference = bench(3);
    reference.driver.probe(3);
    reference.driver.up(1);
    const steps = reference.driver.log.length;
    for (let step = 1; step < steps; step += 7) {
      let current = bench(3);
      const { driver } = current;
      const original = driver.command.bind(driver);
      let count = 0;
      driver.command = (...args: Parameters<FakeDriver['command']>) => {
        if (++count === step) {
          stop(current);
          const to = destination(current, current.device.migration.save());
          moveDriver(current, to);
          resume(to);
          current = { ...to, driver };
        }
        return original(...args);
      };
      driver.probe(3);
      driver.up(1);
      current.port.inject(buildFrame({ dst: driver.mac }));
      driver.poll();
      expect([step, driver.received.length]).toEqual([step, 1]);
    }
  });

  it('goes on as after power-on when a state is refused at the very end', () => {
    const source = running();
    stop(source);
    const records = [...source.device.migration.save()].map(travel);
    const tampered = changed(records, 'device', (value) => ({ ...value, steeringRoot: 4242 }));
    const made = bench(source.device.core.vectors);
    made.host.mayInitiate = false;
    const { core, migration } = made.device;
    migration.beginLoad(stateVersions.current);
    for (const record of tampered) migration.load(record);
    expect(() => migration.endLoad()).toThrow(StateRefused);
    expect([
      core.eqs.table.size,
      core.cqs.table.size,
      core.steering.tables.size,
      core.function.phase,
    ]).toEqual([0, 0, 0, 0]);
    const cycles = age(made);
    made.host.advance(5);
    expect(age(made)).toBe(cycles + 5n);
    resume(made);
    made.driver.probe(3);
    made.driver.up(1);
  });

  it('refuses a state that is not whole or not possible', () => {
    const source = running();
    stop(source);
    const records = [...source.device.migration.save()].map(travel);
    for (const section of ['ids', 'progress', 'device', 'cq', 'eq']) {
      const partial = records.filter((record) => record.section !== section);
      expect(() => destination(source, partial), section).toThrow(StateRefused);
    }
    const spoil = (section: string, change: (value: Record<string, unknown>) => void) => {
      const copy = records.map(travel);
      const record = copy.find((entry) => entry.section === section);
      if (record === undefined || !('value' in record)) throw new Error(`no ${section}`);
      change(record.value as Record<string, unknown>);
      return () => destination(source, copy);
    };
    const cases: [string, (value: Record<string, unknown>) => void][] = [
      ['eq', (value) => (value.intr = 99)],
      ['eq', (value) => (value.pages = [])],
      ['eq', (value) => (value.id = 4096)],
      ['cq', (value) => (value.logSize = 40)],
      ['cq', (value) => (value.dbr = -8)],
      ['cq', (value) => (value.eqn = 77)],
      ['sq', (value) => (value.cqn = 1)],
      ['sq', (value) => (value.wq = null)],
      ['rqt', (value) => (value.rqns = [])],
      ['tir', (value) => (value.key = 'secret')],
      ['flow_table', (value) => (value.groups = [{ id: 1, start: 5, end: 1 }])],
      ['device', (value) => (value.steeringRoot = 4242)],
      ['device', (value) => (value.counters = {})],
      ['device', (value) => (value.vport = { ...(value.vport as object), factoryMac: undefined })],
      ['device', (value) => (value.vport = { ...(value.vport as object), factoryMac: Buffer.alloc(6, 1) })],
      ['device', (value) => (value.cycles = 5)],
      ['device', (value) => (value.cycles = { high: 0, low: 2 ** 32 })],
      ['device', (value) => (value.counters = withPackets(value, [1, 2]))],
      ['ids', (value) => (value.cq = -1)],
      ['ids', (value) => (value.cq = 2 ** 20)],
      ['progress', (value) => (value.eq = [])],
    ];
    for (const [section, change] of cases) {
      expect(spoil(section, change), `${section}: ${change.toString()}`).toThrow(StateRefused);
    }
    expect(() => destination(source, [...records, { section: 'surprise', value: {} }])).toThrow(StateRefused);
    expect(() => destination(source, records)).not.toThrow();
  });
});
