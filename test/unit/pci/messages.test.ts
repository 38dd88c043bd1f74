import { describe, expect, test } from 'vitest';
import { NoSuchVector } from '../../../src/pci/index.ts';
import { MessageVectors } from '../../../src/pci/message-vectors.ts';
import { pciIrq } from '../../../src/vfio-user/constants.ts';
import { fullDescription, get, makeFunction, plainDescription, put } from './fixtures.ts';

const disable = (index: number) =>
  ({ index, start: 0, count: 0, action: 'trigger', data: { type: 'none' } }) as const;
const drop = (index: number, start: number, count: number) =>
  ({ index, start, count, action: 'trigger', data: { type: 'eventfd', fds: [] } }) as const;

describe('MSI-X', () => {
  test('a connected vector is signaled, another is remembered until its descriptor comes', () => {
    const { fds, interrupts, connect } = makeFunction();
    const made = connect(pciIrq.msix, 0, 2);
    interrupts.trigger(1);
    interrupts.trigger(5);
    interrupts.trigger(5);
    expect(fds.taken()).toEqual([made[1]]);
    expect(interrupts.pendingVectors).toEqual([5]);
    const [late] = connect(pciIrq.msix, 5, 1);
    expect(fds.taken()).toEqual([late]);
    expect(interrupts.pendingVectors).toEqual([]);
  });

  test('what waits shows in the PBA', () => {
    const { interrupts } = makeFunction();
    interrupts.trigger(0);
    interrupts.trigger(7);
    const pba = Buffer.alloc(10, 0xee);
    interrupts.readPba(0, 8, pba, 1);
    expect([...pba]).toEqual([0xee, 0x81, 0, 0, 0, 0, 0, 0, 0, 0xee]);
    interrupts.readPba(0, 1, pba, 0);
    expect(pba[0]).toBe(0x81);
    expect(() => interrupts.readPba(4, 8, pba, 0)).toThrow(/8 bytes/);
  });

  test('a function mask of an enabled function holds back, clearing it sends', () => {
    const { fds, config, interrupts, connect } = makeFunction();
    const made = connect(pciIrq.msix, 0, 8);
    const control = (config.msix?.capability ?? 0) + 2;
    put(config, control, 2, 0xc000);
    interrupts.trigger(3);
    expect([fds.taken(), interrupts.pendingVectors]).toEqual([[], [3]]);
    put(config, control, 2, 0x8000);
    expect([fds.taken(), interrupts.pendingVectors]).toEqual([[made[3]], []]);
  });

  test('a function mask of a function that is not enabled holds nothing back', () => {
    const { fds, config, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.msix, 3, 1);
    put(config, (config.msix?.capability ?? 0) + 2, 2, 0x4000);
    interrupts.trigger(3);
    expect(fds.taken()).toEqual([fd]);
  });

  test('a descriptor that is set again stays open', () => {
    const { fds, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.msix, 0, 1);
    interrupts.setIrqs({
      index: pciIrq.msix,
      start: 0,
      count: 1,
      action: 'trigger',
      data: { type: 'eventfd', fds: [fd] },
    });
    interrupts.trigger(0);
    expect([fds.taken(), fds.open.size]).toEqual([[fd], 1]);
  });

  test('a client that connects and never writes configuration space is served', () => {
    const { fds, config, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.msix, 2, 1);
    expect(config.msix?.enabled).toBe(false);
    interrupts.trigger(2);
    expect(fds.taken()).toEqual([fd]);
  });

  test('dropping descriptors, some or all, closes them and keeps what waits', () => {
    const { fds, interrupts, connect } = makeFunction();
    connect(pciIrq.msix, 0, 8);
    interrupts.setIrqs(drop(pciIrq.msix, 2, 3));
    expect(fds.open.size).toBe(5);
    interrupts.trigger(3);
    interrupts.setIrqs(disable(pciIrq.msix));
    expect(fds.open.size).toBe(0);
    interrupts.trigger(0);
    expect([fds.taken(), interrupts.pendingVectors]).toEqual([[], [0, 3]]);
    const made = connect(pciIrq.msix, 0, 8);
    expect(fds.taken()).toEqual([made[0], made[3]]);
  });

  test('loopback signals connected vectors only and leaves no pending bit', () => {
    const { fds, interrupts, connect } = makeFunction();
    const made = connect(pciIrq.msix, 0, 2);
    const loop = { index: pciIrq.msix, start: 0, count: 4, action: 'trigger' } as const;
    interrupts.setIrqs({ ...loop, data: { type: 'none' } });
    expect(fds.taken()).toEqual(made);
    interrupts.setIrqs({ ...loop, data: { type: 'bool', values: [false, true, true, false] } });
    expect(fds.taken()).toEqual([made[1]]);
    expect(interrupts.pendingVectors).toEqual([]);
  });

  test('hold gathers, release sends; fireAll sends every vector once', () => {
    const { fds, config, interrupts, connect } = makeFunction();
    put(config, (config.msix?.capability ?? 0) + 2, 2, 0x8000);
    const made = connect(pciIrq.msix, 0, 3);
    interrupts.hold();
    interrupts.trigger(0);
    interrupts.trigger(0);
    interrupts.trigger(2);
    expect([fds.taken(), interrupts.pendingVectors]).toEqual([[], [0, 2]]);
    interrupts.release();
    expect(fds.taken()).toEqual([made[0], made[2]]);
    expect(interrupts.fireAll()).toBe(3);
    expect(fds.taken()).toEqual(made);
    expect(interrupts.pendingVectors).toEqual([3, 4, 5, 6, 7]);
    interrupts.hold();
    expect(interrupts.fireAll()).toBe(0);
    expect(interrupts.pendingVectors).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test('reset forgets what waits and keeps descriptors; detach the other way round', () => {
    const { fds, interrupts, connect } = makeFunction();
    connect(pciIrq.msix, 0, 1);
    interrupts.trigger(4);
    interrupts.reset();
    expect([interrupts.pendingVectors, fds.open.size]).toEqual([[], 1]);
    interrupts.trigger(4);
    interrupts.detach();
    expect([interrupts.pendingVectors, fds.open.size]).toEqual([[4], 0]);
  });

  test('a vector that does not exist is a typed error', () => {
    const { interrupts } = makeFunction();
    for (const vector of [8, -1, 0.5, Number.NaN])
      expect(() => interrupts.trigger(vector)).toThrow(NoSuchVector);
    expect(() => makeFunction(plainDescription).interrupts.trigger(0)).toThrow(/has 0/);
  });
});

describe('MSI', () => {
  const { msix: _none, ...capabilities } = fullDescription.capabilities ?? {};
  const msiOnly = { ...fullDescription, capabilities };
  const enable = (config: ReturnType<typeof makeFunction>['config'], messages: number) =>
    put(config, (config.msi?.capability ?? 0) + 2, 2, 1 | (Math.log2(messages) << 4));

  test('vectors wrap around the messages granted', () => {
    const { fds, config, interrupts, connect } = makeFunction(msiOnly);
    enable(config, 2);
    const made = connect(pciIrq.msi, 0, 2);
    for (const vector of [0, 1, 2, 3]) interrupts.trigger(vector);
    expect(fds.taken()).toEqual([made[0], made[1], made[0], made[1]]);
    expect([interrupts.mode, interrupts.fireAll()]).toEqual(['msi', 2]);
  });

  test('a mask bit holds back and shows the pending bit', () => {
    const { fds, config, interrupts, connect } = makeFunction(msiOnly);
    enable(config, 4);
    const made = connect(pciIrq.msi, 0, 4);
    const mask = config.layout.register('msi.mask').offset;
    put(config, mask, 4, 0x4);
    interrupts.trigger(2);
    expect([fds.taken(), get(config, mask + 4, 4), interrupts.pendingVectors]).toEqual([[], 4, [2]]);
    put(config, mask, 4, 0);
    expect([fds.taken(), get(config, mask + 4, 4)]).toEqual([[made[2]], 0]);
  });

  test('a reset forgets what waits, and shows that it does', () => {
    const { fds, config, interrupts, connect } = makeFunction(msiOnly);
    interrupts.trigger(2);
    const pending = config.layout.register('msi.mask').offset + 4;
    expect(get(config, pending, 4)).toBe(4);
    interrupts.reset();
    expect([get(config, pending, 4), interrupts.pendingVectors]).toEqual([0, []]);
    enable(config, 4);
    connect(pciIrq.msi, 0, 4);
    expect(fds.taken()).toEqual([]);
  });

  test('before it is enabled messages are remembered', () => {
    const { fds, config, interrupts, connect } = makeFunction(msiOnly);
    interrupts.trigger(1);
    expect(interrupts.mode).toBe('intx');
    enable(config, 4);
    const made = connect(pciIrq.msi, 0, 4);
    expect(fds.taken()).toEqual([made[1]]);
  });

  test.each([1, 2])('remembered messages wrap around, too, when %i are granted of 4', (granted) => {
    const { fds, config, interrupts, connect } = makeFunction(msiOnly);
    interrupts.trigger(3);
    enable(config, granted);
    expect(interrupts.pendingVectors).toEqual([3 % granted]);
    const made = connect(pciIrq.msi, 0, granted);
    expect(fds.taken()).toEqual([made[3 % granted]]);
    expect(interrupts.pendingVectors).toEqual([]);
  });

  test.each(['enabled', 'connected by a client that never writes configuration space'])(
    'of a function that has MSI-X as well: what was remembered before is sent once MSI is %s',
    (how) => {
      const { fds, config, interrupts, connect } = makeFunction();
      interrupts.trigger(1);
      interrupts.trigger(6);
      if (how === 'enabled') enable(config, 2);
      const made = connect(pciIrq.msi, 0, 4);
      const sent = how === 'enabled' ? [made[0], made[1]] : [made[1], made[2]];
      expect([interrupts.mode, new Set(fds.taken())]).toEqual(['msi', new Set(sent)]);
      expect(interrupts.save()).toMatchObject({ msiPending: [], msixPending: [] });
    },
  );

  test('a remembered message is sent when the descriptor is there before MSI is enabled', () => {
    const { fds, config, interrupts, connect } = makeFunction(msiOnly);
    interrupts.trigger(2);
    const made = connect(pciIrq.msi, 0, 1);
    enable(config, 1);
    expect([fds.taken(), interrupts.pendingVectors]).toEqual([made, []]);
  });
});

describe('errors and release requests', () => {
  test('reach a client that listens', () => {
    const { fds, interrupts, connect } = makeFunction();
    expect(interrupts.signalError()).toBe(false);
    const [err] = connect(pciIrq.err, 0, 1);
    const [req] = connect(pciIrq.req, 0, 1);
    expect(fds.taken()).toEqual([]);
    expect(interrupts.signalError()).toBe(true);
    const request = {
      index: pciIrq.req,
      start: 0,
      count: 1,
      action: 'trigger',
      data: { type: 'none' },
    } as const;
    interrupts.setIrqs(request);
    expect(fds.taken()).toEqual([err, req]);
  });
});

test('of the vectors beyond those granted, each waits at the one that it shares', () => {
  const vectors = new MessageVectors(8, { signal: () => {}, close: () => {} }, () => false);
  for (const vector of [2, 5]) vectors.setPending(vector);
  vectors.fold(2);
  expect(vectors.pending).toEqual([0, 1]);
});
