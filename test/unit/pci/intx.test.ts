import { describe, expect, test } from 'vitest';
import type { IrqSet } from '../../../src/transport/served-device.ts';
import { pciIrq } from '../../../src/vfio-user/constants.ts';
import { get, makeFunction, put } from './fixtures.ts';

const commandOffset = 0x04;
const intxDisable = 0x0400;
const request = (action: IrqSet['action'], data: IrqSet['data'] = { type: 'none' }): IrqSet => ({
  index: pciIrq.intx,
  start: 0,
  count: 1,
  action,
  data,
});

describe('INTx', () => {
  test('fires once, masks itself, and fires again after unmask while the level stands', () => {
    const { fds, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.intx, 0, 1);
    interrupts.setIntx(true);
    interrupts.setIntx(true);
    expect(fds.taken()).toEqual([fd]);
    interrupts.setIrqs(request('unmask'));
    expect(fds.taken()).toEqual([fd]);
    interrupts.setIntx(false);
    interrupts.setIrqs(request('unmask'));
    expect(fds.taken()).toEqual([]);
    interrupts.setIntx(true);
    expect(fds.taken()).toEqual([fd]);
  });

  test('a masked line waits; bool data acts where true', () => {
    const { fds, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.intx, 0, 1);
    interrupts.setIrqs(request('mask', { type: 'bool', values: [true] }));
    interrupts.setIntx(true);
    interrupts.setIrqs(request('unmask', { type: 'bool', values: [false] }));
    expect(fds.taken()).toEqual([]);
    interrupts.setIrqs(request('unmask', { type: 'bool', values: [true] }));
    expect(fds.taken()).toEqual([fd]);
  });

  test('the status bit follows the level, and Interrupt Disable stops events only', () => {
    const { fds, config, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.intx, 0, 1);
    put(config, commandOffset, 2, intxDisable);
    expect(interrupts.mode).toBe('none');
    interrupts.setIntx(true);
    expect(get(config, 0x06, 2) & 8).toBe(8);
    expect(fds.taken()).toEqual([]);
    put(config, commandOffset, 2, 0);
    expect(interrupts.mode).toBe('intx');
    expect(fds.taken()).toEqual([fd]);
    interrupts.setIntx(false);
    expect(get(config, 0x06, 2) & 8).toBe(0);
  });

  test('is silent while messages are on, and speaks when they are off again', () => {
    const { fds, config, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.intx, 0, 1);
    const control = (config.msix?.capability ?? 0) + 2;
    put(config, control, 2, 0x8000);
    interrupts.setIntx(true);
    expect([interrupts.mode, fds.taken()]).toEqual(['msix', []]);
    put(config, control, 2, 0);
    expect(fds.taken()).toEqual([fd]);
    // The same for a client that connects vectors and writes no configuration space.
    interrupts.setIntx(false);
    connect(pciIrq.msix, 0, 1);
    interrupts.setIrqs(request('unmask'));
    interrupts.setIntx(true);
    expect([interrupts.mode, fds.taken()]).toEqual(['msix', []]);
    interrupts.setIrqs({ ...request('trigger'), index: pciIrq.msix, count: 0 });
    expect([interrupts.mode, fds.taken()]).toEqual(['intx', [fd]]);
  });

  test('a descriptor that comes late gets the event; one that replaces another keeps the mask', () => {
    const { fds, interrupts, connect } = makeFunction();
    interrupts.setIntx(true);
    const [first] = connect(pciIrq.intx, 0, 1);
    expect(fds.taken()).toEqual([first]);
    const [second] = connect(pciIrq.intx, 0, 1);
    expect(fds.taken()).toEqual([]);
    expect([...fds.open]).toEqual([second]);
    interrupts.setIrqs(request('unmask'));
    expect(fds.taken()).toEqual([second]);
  });

  test('a client that leaves takes its descriptors with it, and the next one starts unmasked', () => {
    const { fds, interrupts, connect } = makeFunction();
    connect(pciIrq.intx, 0, 1);
    interrupts.setIrqs(request('unmask', { type: 'eventfd', fds: [fds.create()] }));
    interrupts.setIntx(true);
    fds.taken();
    interrupts.setIrqs({ ...request('trigger'), count: 0 });
    expect([fds.open.size, fds.watches.size]).toEqual([0, 0]);
    const [fd] = connect(pciIrq.intx, 0, 1);
    expect(fds.taken()).toEqual([fd]);
  });

  test('unmask by eventfd', () => {
    const { fds, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.intx, 0, 1);
    const resample = fds.create();
    interrupts.setIrqs(request('unmask', { type: 'eventfd', fds: [resample] }));
    interrupts.setIntx(true);
    fds.taken();
    fds.watches.get(resample)?.();
    expect(fds.taken()).toEqual([fd]);
    interrupts.setIrqs(request('unmask', { type: 'eventfd', fds: [-1] }));
    expect([fds.watches.size, [...fds.open]]).toEqual([0, [fd]]);
  });

  test('loopback fires without changing level or mask', () => {
    const { fds, interrupts, connect } = makeFunction();
    interrupts.setIrqs(request('trigger'));
    const [fd] = connect(pciIrq.intx, 0, 1);
    interrupts.setIrqs(request('trigger'));
    interrupts.setIrqs(request('trigger', { type: 'bool', values: [true] }));
    interrupts.setIrqs(request('trigger', { type: 'bool', values: [false] }));
    expect(fds.taken()).toEqual([fd, fd]);
    interrupts.setIntx(true);
    expect(fds.taken()).toEqual([fd]);
  });

  test('a held function remembers the level, and fireAll repeats an event that may be lost', () => {
    const { fds, interrupts, connect } = makeFunction();
    const [fd] = connect(pciIrq.intx, 0, 1);
    interrupts.hold();
    interrupts.setIntx(true);
    expect(fds.taken()).toEqual([]);
    interrupts.release();
    expect(fds.taken()).toEqual([fd]);
    expect(interrupts.fireAll()).toBe(1);
    expect(fds.taken()).toEqual([fd]);
    interrupts.setIntx(false);
    expect(interrupts.fireAll()).toBe(0);
  });
});
